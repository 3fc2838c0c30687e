#!/usr/bin/env bash
# Builds every package, and the program as bin/parley or as the path named.
set -euo pipefail
cd "$(dirname "$0")/.."

go build ./...
CGO_ENABLED=0 go build -trimpath -o "${1:-bin/parley}" .
