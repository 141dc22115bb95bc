"""The packaged folder: complete, unable to fetch, with its licences, without Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESKTOP = ROOT / "examples" / "desktop"
ANSWER = "What is 48 + 76? 124"


def may_change_root():
    return (
        os.geteuid() == 0
        and shutil.which("debootstrap") is not None
        and subprocess.run(["unshare", "--mount", "--net", "true"], check=False).returncode == 0
    )


@pytest.fixture(scope="module")
def folder():
    """Return the folder, packaged anew."""
    subprocess.run([sys.executable, DESKTOP / "package.py"], check=True, timeout=300)
    return ROOT / "build" / "desktop" / "rdlite-desktop"


def test_it_runs_in_an_empty_environment_and_opens_gguf_files(folder, tmp_path):
    from rdlite.export.read import read_model
    from rdlite.export.to_gguf import export_gguf

    file = tmp_path / "nano.gguf"
    export_gguf(read_model("nano", as_stored=True), file)
    for model in ([], [file]):
        result = subprocess.run(
            [folder / "rdlite-desktop", "--self-test", *model],
            env={"LANG": "C.UTF-8", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        lines = sorted(result.stdout.splitlines())
        assert lines == [ANSWER, "model", "token", "window"], result.stderr


def test_it_holds_nothing_that_fetches_from_the_web(folder):
    from PyInstaller.archive.readers import CArchiveReader

    names = [path.name for path in (folder / "_internal").rglob("*")]
    assert len(names) > 100
    for part in ("_ssl", "libssl", "QtNetwork", "Qt6Network"):
        assert not [name for name in names if part in name], part
    program = CArchiveReader(str(folder / "rdlite-desktop"))
    modules = program.open_embedded_archive("PYZ.pyz").toc.keys()
    assert {"worker", "rdlite.api.model", "rdlite.gguf.open"} <= modules
    for module in (
        "ssl",
        "requests",
        "urllib3",
        "huggingface_hub",
        "rdlite.serve",
        "rdlite.hub",
    ):
        assert module not in modules


def test_it_brings_the_licences_of_what_it_holds(folder):
    parts = (folder / "licences" / "README.txt").read_text()
    for name in ("PySide6_Essentials", "numpy", "onnxruntime", "rdlite", "Python", "pyinstaller"):
        assert f"\n{name} " in parts, name
    for name in ("pytest", "matplotlib", "fastapi", "rich"):
        assert f"\n{name} " not in parts, name
    (qt,) = (folder / "licences").glob("PySide6_Essentials-*")
    assert {path.name for path in qt.iterdir()} == {"GPL-3", "LGPL-3", "NOTE.txt"}
    for one in (folder / "licences").iterdir():
        assert one.name == "README.txt" or any(one.iterdir()), one


@pytest.mark.skipif(not may_change_root(), reason="needs root, debootstrap and mounts of its own")
def test_it_runs_where_there_is_no_python_and_no_network(folder):
    result = subprocess.run(
        [DESKTOP / "clean_root.sh", folder], capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(ANSWER) == (2 if "DISPLAY" in os.environ else 1)
