#!/usr/bin/env bash
# Lints every package, or those named, with the version pinned here and the rules of .golangci.yml.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
exec go run "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version" run "${@:-./...}"
