"""What the packaged app is made of: which modules, Qt plugins and system libraries it needs."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

Entry = tuple[str, str, str]  # where it goes in the folder, where it lies now, its kind

#: What nothing in the app uses, though something that it does use would import it. Without ssl,
#: requests and Qt's network library nothing in the folder could fetch anything from the web.
MODULES_LEFT_OUT = [
    *("rdlite.cli", "rdlite.integrations", "rdlite.export", "rdlite.quant", "rdlite.serve"),
    "rdlite.hub",
    *("click", "rich", "pygments", "prompt_toolkit", "huggingface_hub", "llm", "matplotlib", "PIL"),
    *("ssl", "_ssl", "requests", "urllib3", "PySide6.QtNetwork", "PySide6.QtDBus"),
    *("tkinter", "pytest", "_pytest", "py", "pexpect", "setuptools", "pip", "torch", "mypy"),
    *("IPython", "mpl_toolkits", "pylab", "numpy.f2py", "numpy.testing", "pydoc_data"),
    *("sentencepiece", "onnxruntime.quantization", "onnxruntime.tools", "onnxruntime.transformers"),
]

#: Qt's plugins that a window on X11 or Wayland needs, or one of Windows or macOS. GTK's theme is
#: not among them: it would bring 30 libraries; dark mode and file dialogs come by the portal.
_QT_PLUGINS = re.compile(
    r"platforms/\w*(xcb|wayland|offscreen|windows|cocoa)|xcbglintegrations/|wayland-|"
    r"platforminputcontexts/|platformthemes/(?!libqgtk)|styles/"
)


def rdlite_modules(site: Path) -> list[str]:
    """Return the names of rdlite's modules: it imports most of them when they are first used."""
    names = [
        ".".join(path.relative_to(site).with_suffix("").parts)
        for path in (site / "rdlite").rglob("*.py")
    ]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    left_out = tuple(name + "." for name in MODULES_LEFT_OUT)
    return [name for name in names if not f"{name}.".startswith(left_out)]


def shipped(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out what is of no use: plugins, translations, and libraries that nothing needs then.

    Python's extension modules and Qt's plugins are needed; so is a library (its name holds ".so.")
    that something needed asks for, or libpython, which the program itself loads.
    """
    from PyInstaller.depend.bindepend import get_imports

    entries = [entry for entry in entries if _wanted(entry[0])]
    asked, rest = {"libpython"}, [entry for entry in entries if not _is_library(entry)]
    libraries = [entry for entry in entries if _is_library(entry)]
    while rest:
        for _, source, kind in rest:
            if kind in ("BINARY", "EXTENSION"):
                asked |= {Path(name).name for name, _ in get_imports(source)}
        rest = [e for e in libraries if Path(e[0]).name.startswith(tuple(asked))]
        libraries = [entry for entry in libraries if entry not in rest]
    return [entry for entry in entries if entry not in libraries]


def _wanted(place: str) -> bool:
    path = PurePosixPath(place.replace("\\", "/"))
    if "PySide6" in path.parts and "plugins" in path.parts:
        return bool(_QT_PLUGINS.search(str(path)))
    return "translations" not in path.parts


def _is_library(entry: Entry) -> bool:
    return ".so." in Path(entry[0]).name
