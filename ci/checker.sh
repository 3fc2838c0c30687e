#!/usr/bin/env bash
# Has the checker drive the program through crashes and cut connections for a short while, and judge what its clients saw.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/parley" .
go build -o "$work/checker" ./checker

deadline=$((SECONDS + 120)) # for all scenarios together
check() {
	local started=$SECONDS
	echo "checker: $*"
	timeout --kill-after=10 "$((deadline > SECONDS ? deadline - SECONDS : 1))" "$work/checker" --binary "$work/parley" "$@"
	echo "checker: $*: done in $((SECONDS - started)) s"
}
check --scenario order
check --scenario durable --kills 5
check --scenario recovery
