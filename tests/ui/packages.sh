#!/usr/bin/env bash
# Installs the Debian packages that tests/ui needs, where it may; else says which are missing.
set -euo pipefail
packages=(
  xvfb xauth                                          # a display
  libgl1 libegl1 libdbus-1-3 libfontconfig1           # what Qt is linked with
  libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-randr0 libxcb-shape0
  libxcb-sync1 libxcb-xfixes0 libxcb-xkb1 fonts-dejavu-core
  binutils debootstrap                                # packaging, and a system without Python
  chromium                                            # the page
)
if ! command -v dpkg-query >/dev/null; then
  command -v xvfb-run >/dev/null && exit 0
  echo "make test-ui needs xvfb-run, Qt's xcb libraries and chromium; install them" >&2
  exit 1
fi
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ]; then
  echo "Installing ${missing[*]}."
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
    "${missing[@]}" >/dev/null
else
  echo "make test-ui needs Debian packages: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
