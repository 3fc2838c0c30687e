#!/usr/bin/env bash
# Checks that every Go file is formatted; with -w formats them instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == -w ]]; then
	exec gofmt -w .
fi
unformatted=$(gofmt -l .)
if [[ -n $unformatted ]]; then
	echo "not formatted; run ci/format.sh -w:" >&2
	echo "$unformatted" >&2
	exit 1
fi
