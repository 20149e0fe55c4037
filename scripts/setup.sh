#!/bin/sh
# Makes a fresh checkout ready: Debian's bubblewrap, then the packages of the lockfile. May run again at any time.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $1" >&2
  exit 1
}

if command -v bwrap >/dev/null 2>&1; then
  echo "setup: bubblewrap is there ($(bwrap --version))"
else
  command -v apt-get >/dev/null 2>&1 || fail "bubblewrap is missing and there is no apt-get: install bubblewrap by hand."
  if [ "$(id -u)" -eq 0 ]; then
    as_root=
  elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
  else
    fail "bubblewrap is missing: run \`apt-get install bubblewrap\` as root."
  fi
  echo "setup: installing bubblewrap"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap
fi

echo "setup: installing the packages of package-lock.json"
npm ci
echo "setup: done; \`npm start\` serves, \`npm test\` tests"
