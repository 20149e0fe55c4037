#!/bin/sh
# Makes a fresh checkout ready: Debian's bubblewrap and (for a test) iproute2, then the packages of the lockfile. May run again at any time.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $1" >&2
  exit 1
}

missing=
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
[ -x /usr/bin/perl ] || missing="$missing perl-base"
command -v ip >/dev/null 2>&1 || [ -x /usr/sbin/ip ] || missing="$missing iproute2"
missing=${missing# }

if [ -z "$missing" ]; then
  echo "setup: bubblewrap and iproute2 are there ($(bwrap --version))"
else
  command -v apt-get >/dev/null 2>&1 || fail "there is no apt-get: install by hand what is missing: $missing."
  if [ "$(id -u)" -eq 0 ]; then
    as_root=
  elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
  else
    fail "something is missing: run \`apt-get install $missing\` as root."
  fi
  echo "setup: installing $missing"
  $as_root apt-get update -qq
  # shellcheck disable=SC2086 # several packages
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

echo "setup: installing the packages of package-lock.json"
npm ci
echo "setup: done; \`npm start\` serves, \`npm test\` tests"
