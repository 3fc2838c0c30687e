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
command -v redis-server >/dev/null || packages+=(redis-server) # for those of several processes; brings redis-cli
command -v openssl >/dev/null || packages+=(openssl) # for those of them that reach Redis with TLS
[[ -x /usr/sbin/nginx ]] || command -v nginx >/dev/null || packages+=(nginx-light) # for those of several processes behind a proxy
if ((${#packages[@]})); then
	root=()
	((EUID == 0)) || root=(sudo -n)
	echo "installing ${packages[*]}"
	"${root[@]}" apt-get update -qq
	# The tests start what they need themselves, so no service has to run.
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

echo "$(go version), node $(node --version), $(chromium --version 2>/dev/null | head -n 1), $(redis-server --version | cut -d " " -f 1-3)"
go mod download
