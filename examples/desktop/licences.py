"""The licences of what is shipped: one folder for each part, and a list of the parts."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TEXT = re.compile(r"(licen[cs]e|copying|notice|authors|thirdparty)", re.IGNORECASE)
_COMMON = Path("/usr/share/common-licenses")  # where Debian keeps the texts that many share
QT_NOTE = """\
Qt, PySide6 and Shiboken are used under the GNU Lesser General Public License, version 3, whose
text is in this folder, as is the GPL's, which it refers to. They are shared libraries in files of
their own: put a changed build in their place, in _internal/PySide6 and _internal/shiboken6, and the
app uses it. Their source is at https://download.qt.io/official_releases/; what Qt itself contains
of others, and under which licences, is listed at https://doc.qt.io/qt-6/licenses-used-in-qt.html.
"""


class Part(NamedTuple):
    """Something that is shipped: its name and version, its licence in a word, the texts."""

    name: str
    licence: str
    texts: list[Path]


def write_licences(sources: Iterable[str], site: Path, out: Path) -> None:
    """Write the licences of everything that these files belong to.

    Args:
        sources: the files that are shipped, where they lie now.
        site: a folder of installed distributions that counts beside the environment's own.
        out: the folder to make anew.

    Raises:
        SystemExit: a text that must be there is not to be had.
    """
    files = {Path(source).resolve() for source in sources if source and Path(source).is_file()}
    parts = [_python(), *_distributions(files, site), *_debian(files)]
    shutil.rmtree(out, ignore_errors=True)
    lines = []
    for part in sorted(parts, key=lambda part: part.name.lower()):
        folder = out / part.name.replace(" ", "-")
        folder.mkdir(parents=True)
        for text in part.texts:
            shutil.copy(text, folder / text.name)
        if "LGPL" in part.licence:
            (folder / "NOTE.txt").write_text(QT_NOTE)
        if not part.texts:
            raise SystemExit(f"{part.name} has no text of its licence ({part.licence}); find one")
        lines.append(f"{part.name}: {part.licence}\n")
    (out / "README.txt").write_text("What this folder is made of:\n\n" + "".join(lines))


def _python() -> Part:
    places = (sysconfig.get_path("stdlib"), sys.base_prefix, f"{sys.base_prefix}/share/doc/python3")
    found = [Path(place) / name for place in places for name in ("LICENSE.txt", "LICENSE")]
    text = [path for path in found if path.is_file()][:1]
    if not text:
        raise SystemExit(f"Python's LICENSE.txt is in none of {', '.join(places)}; put it there")
    return Part(f"Python {sys.version.split()[0]}", "PSF-2.0", text)


def _distributions(files: set[Path], site: Path) -> Iterable[Part]:
    seen = set()
    for one in importlib.metadata.distributions(path=[str(site), *sys.path]):
        name, own = one.metadata["Name"], one.files or []
        if name in seen or not any(Path(str(one.locate_file(f))).resolve() in files for f in own):
            continue
        seen.add(name)
        texts = [
            Path(str(one.locate_file(file)))
            for file in own
            if _TEXT.search(file.name) and file.suffix not in (".py", ".pyc")
        ]
        licence = one.metadata["License-Expression"] or one.metadata["License"] or ""
        if not licence or "\n" in licence:
            kinds = [c for c in one.metadata.get_all("Classifier", []) if "License" in c]
            licence = ", ".join(kind.rsplit(" :: ", 1)[-1] for kind in kinds) or "see the text"
        if "LGPL" in licence:
            texts += [_common("LGPL-3"), _common("GPL-3")]
        elif not texts and "Apache" in licence:
            texts = [_common("Apache-2.0")]
        yield Part(f"{name} {one.version}", licence, [text for text in texts if text.is_file()])


def _common(name: str) -> Path:
    path = _COMMON / name
    if not path.is_file():
        raise SystemExit(
            f"{path}, the text of a licence that must be shipped, is missing; put it there"
        )
    return path


def _debian(files: set[Path]) -> Iterable[Part]:
    """Yield Debian's packages that shared libraries of the system come from."""
    if shutil.which("dpkg") is None:
        return
    # A library may be listed under /lib or /usr/lib, which are one folder.
    names = [str(f) for f in files if f.is_relative_to("/usr/lib") and ".so" in f.name]
    names += [name.removeprefix("/usr") for name in names]
    said = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True, check=False)
    packages = {line.split(": ")[0].split(",")[0] for line in said.stdout.splitlines()}
    for package in sorted(name for name in packages if " " not in name):
        text = Path("/usr/share/doc") / package.split(":")[0] / "copyright"
        version = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True
        ).stdout
        yield Part(f"{package.split(':')[0]} {version}", "see copyright", [text])
