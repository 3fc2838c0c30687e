#!/usr/bin/env bash
# Checks that go.mod and go.sum hold what the code needs and nothing else; with -w writes them instead.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == -w ]]; then
	exec go mod tidy
fi
exec go mod tidy -diff
