#!/usr/bin/env bash
# Runs a packaged folder where there is no Python and no network: in a minimal Debian system.
#
#   examples/desktop/clean_root.sh [FOLDER [ROOT]]
#
# Needs root and debootstrap, which makes the system in ROOT (build/clean-root) the first time. What
# it holds beyond Debian's minimum is LIBRARIES. The app runs its self-test there off the screen, and
# with a window too if DISPLAY says where (as under xvfb-run).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(realpath "${1:-$here/../../build/desktop/rdlite-desktop}")
root=$(realpath -m "${2:-$here/../../build/clean-root}")
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# OpenGL belongs to a machine's graphics driver, fonts to its desktop, so the folder has neither.
LIBRARIES=libgl1,libegl1,fontconfig-config,fonts-dejavu-core

if [ ! -e "$root/app" ]; then
  rm -rf "$root"
  debootstrap --variant=minbase --include="$LIBRARIES" "$suite" "$root" >"$root.log" 2>&1 ||
    { tail -n 5 "$root.log" >&2; exit 1; }
  mkdir "$root/app" # last: it says that the root is whole
fi
found=$(find "$root" -xdev -path "$root/app" -prune -o \
  \( -type f -o -type l \) \( -name 'python*' -o -name 'libpython*' \) -print)
[ -z "$found" ] || { echo "there is a Python in $root: $found" >&2; exit 1; }

# Mounts and the lack of a network are this command's own, and end with it.
export folder root
unshare --mount --net bash -euo pipefail -s <<'INSIDE'
mount -t proc proc "$root/proc"
mount --bind -o ro "$folder" "$root/app"
run() { chroot "$root" env -i HOME=/tmp LANG=C.UTF-8 "$@" /app/rdlite-desktop --self-test; }
echo "without a display:"
run QT_QPA_PLATFORM=offscreen
if [ -n "${DISPLAY:-}" ]; then
  mkdir -p "$root/tmp/.X11-unix"
  mount --bind /tmp/.X11-unix "$root/tmp/.X11-unix"
  touch "$root/tmp/xauthority"
  [ -z "${XAUTHORITY:-}" ] || mount --bind "$XAUTHORITY" "$root/tmp/xauthority"
  echo "in a window:"
  run QT_QPA_PLATFORM=xcb DISPLAY="$DISPLAY" XAUTHORITY=/tmp/xauthority
fi
INSIDE
