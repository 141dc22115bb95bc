"""What to type to install an extra: from the checkout that runs, or by its packages' own names."""

import importlib.metadata
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install_hint(*extras: str) -> str:
    """Return the command that installs what extras bring.

    No index is known to have rdlite, so a package names what an extra consists of.
    """
    project = ROOT / "pyproject.toml"
    if project.exists() and 'name = "rdlite"' in project.read_text("utf-8"):
        wanted_of_it = f"{ROOT}[{','.join(extras)}]"
        return f"pip install -e {shlex.quote(wanted_of_it)}"
    try:
        wanted = importlib.metadata.requires("rdlite") or []
    except importlib.metadata.PackageNotFoundError:  # such as in a packaged app
        wanted = []
    ends = tuple(f'extra == "{extra}"' for extra in extras)
    found = [each.partition(";")[0].strip() for each in wanted if each.endswith(ends)]
    if not found:
        return f"install rdlite again with its extras [{','.join(extras)}]"
    return "pip install " + " ".join(map(shlex.quote, found))
