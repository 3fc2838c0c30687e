#!/usr/bin/env bash
# Has the checker drive the program through crashes, cut connections and a Redis that suffers for a short while, and judge
# what its clients saw: one process with its own store, and three that share Redis.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/parley" .
go build -o "$work/checker" ./checker

check() { # seconds, arguments...
	local started=$SECONDS limit=$1
	shift
	echo "checker: $*"
	timeout --kill-after=10 "$limit" "$work/checker" --binary "$work/parley" "$@"
	echo "checker: $*: done in $((SECONDS - started)) s"
}
check 60 --scenario order
check 60 --scenario durable --kills 5
check 120 --scenario recovery
check 120 --scenario freeze
check 240 --redis --processes 3 --duration 2m --users 16 --devices 4
