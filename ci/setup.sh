#!/usr/bin/env bash
# Sees to it that the tools which the other scripts call are there; installs the ones that Debian has.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in go node npm; do
	if ! command -v "$tool" >/dev/null; then
		echo "$tool is missing: install it and run this again" >&2
		exit 1
	fi
done

packages=()
command -v gcc >/dev/null || packages+=(gcc libc6-dev) # for the race detector
command -v chromium >/dev/null || packages+=(chromium) # for the tests of the page
if ((${#packages[@]})); then
	root=()
	((EUID == 0)) || root=(sudo -n)
	export DEBIAN_FRONTEND=noninteractive
	"${root[@]}" apt-get update -qq
	"${root[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

echo "$(go version), node $(node --version), $(chromium --version 2>/dev/null | head -n 1)"
go mod download
