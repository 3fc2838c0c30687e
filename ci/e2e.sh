#!/usr/bin/env bash
# Runs the end-to-end tests: the built program, and clients of other languages and browsers.
set -euo pipefail
cd "$(dirname "$0")/.."

exec ./e2e/run "$@"
