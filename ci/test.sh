#!/usr/bin/env bash
# Tests every package, or those named, with the race detector, which needs a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

exec go test -race -timeout 10m "${@:-./...}"
