"""The wheel: built, installed into an environment of its own, run there."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_built_wheel_installs_and_runs(tmp_path, text_checkpoint):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("rdlite-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"optimum", "rdlite"}
    # Where optimum-cli looks for sub-commands: a namespace, so nothing but this file is there.
    registered = "optimum/commands/register/register_rdlite.py"
    assert [name for name in names if name.startswith("optimum")] == [registered]
    assert "rdlite/py.typed" in names
    assert "rdlite/architectures/huginn.py" in names
    assert "rdlite/export/optimum/portable.py" in names
    assert "rdlite/models/nano/rdlite.json" in names
    assert wheel.stat().st_size < 8 * 2**20

    # The dependencies are this environment's, found after the wheel's own folder.
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", wheel], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    installed = {path.name for path in site.iterdir()}
    assert not installed & {"export", "quant", "cli", "cli.py", "tests", "bench"}
    assert "rdlite" in installed

    def rdlite(*arguments):
        result = subprocess.run(
            [home / "bin" / "rdlite", *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = "import rdlite.export; print(rdlite.__file__, rdlite.export.__file__)"
    found = subprocess.run(
        [python, "-c", where], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.count(str(site)) == 2
    assert rdlite("--version").startswith("rdlite 0.")
    assert "nano is whole" in rdlite("verify")
    rdlite("export", str(text_checkpoint), "-o", "bundle")
    rdlite("generate", "bundle", "hi", "--max-tokens", "3")
