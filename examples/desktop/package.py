"""Make a folder of the app that runs without Python: `python examples/desktop/package.py`.

It needs the extra [package]. The folder is build/desktop/rdlite-desktop; it holds the program, all
that it loads, nano, and in licences/ the licences of all that.
"""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "desktop"
APP = OUT / "rdlite-desktop"


def main() -> None:
    """Install rdlite beside, let PyInstaller collect, and say how large it became."""
    site = ROOT / "build" / "site"
    for old in (ROOT / "build" / "lib", site, OUT):
        shutil.rmtree(old, ignore_errors=True)
    # PyInstaller reads modules where they lie; export/ is rdlite.export only once it is installed.
    _run("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site, ROOT)
    spec = HERE / "rdlite-desktop.spec"
    work = ROOT / "build" / "pyinstaller"
    _run("PyInstaller", "-y", "--log-level=WARN", "--distpath", OUT, "--workpath", work, spec)
    _strip()
    files = [path for path in APP.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    print(f"{APP.relative_to(ROOT)}: {size / 2**20:.0f} MiB in {len(files)} files")


def _strip() -> None:
    """Drop what only a debugger needs; wheels come without it, a Python built here may not."""
    if shutil.which("strip"):
        for library in (APP / "_internal").glob("libpython*.so*"):
            subprocess.run(["strip", "--strip-unneeded", library], check=True)


def _run(module: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{module} failed with code {code}")


if __name__ == "__main__":
    main()
