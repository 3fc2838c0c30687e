#!/usr/bin/env bash
# Runs go vet on every package, or on those named.
set -euo pipefail
cd "$(dirname "$0")/.."

exec go vet "${@:-./...}"
