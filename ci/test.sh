#!/usr/bin/env bash
# Tests every package, or those named, with the race detector, which needs a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

go test -race -timeout 10m "${@:-./...}"

# With the detector, connections to Redis are the ordinary ones, since it has to see what they do.
if [ $# -eq 0 ]; then
  go test -timeout 5m ./internal/quietconn ./fanout/redis ./store/redis
fi
