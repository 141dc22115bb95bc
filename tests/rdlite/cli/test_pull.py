"""`rdlite pull` as it is typed: what it says, a kill half-way, a full disk, no library."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from rdlite.cli.main import main
from rdlite.utils.install import install_hint

REPO = "tiny/looped"


def run(*arguments):
    return CliRunner().invoke(main, ["pull", *map(str, arguments)])


def test_it_says_where_it_went_and_what_comes_next(hub):
    result = run(REPO, "-o", "a folder")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("a folder: ")
    assert result.output.endswith(
        "Next: rdlite export 'a folder' -o 'a folder-int4' --scheme int4\n"
    )
    assert not result.stderr  # no bar where there is no terminal


def test_models_that_are_not_run_are_refused_before_their_weights_come(hub):
    files = hub.repos[REPO]
    files["config.json"] = b'{"model_type": "gpt2"}'
    result = run(REPO)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: config: model_type 'gpt2' is no family")
    assert not hub.fetched("model.safetensors")


def test_an_error_is_one_line(hub):
    result = run("tiny/other")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: http://127.0.0.1:")


def test_interrupted_and_taken_up_again(hub, text_checkpoint):
    """Ctrl-C while the weights come; the same command goes on with a range request."""
    weights = hub.repos[REPO]["model.safetensors"]
    hub.stall = len(weights) // 2
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(Path("home").absolute()),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "rdlite", "pull", REPO]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert hub.stalled.wait(30)
    (part,) = Path("looped/.pull").glob("model.safetensors.*.part")
    while not part.stat().st_size:  # what was sent is on its way through the client
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=120)[1].strip() == (
        "stopped; the same command goes on where it was"
    )
    assert child.returncode == 130
    size, hub.stall = part.stat().st_size, None
    assert 0 < size <= len(weights) // 2
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Next: rdlite export looped" in result.stdout
    assert hub.fetched("model.safetensors") == [None, f"bytes={size}-"]
    assert Path("looped/model.safetensors").read_bytes() == weights


def test_a_full_disk_is_one_line_and_what_came_is_kept(hub):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        result = run(REPO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: cannot write to looped: File too large; what has arrived is kept\n"
    )
    assert run(REPO).exit_code == 0
    assert hub.fetched("model.safetensors")[-1].startswith("bytes=")


@pytest.mark.parametrize("library", [None, "0.36.0"])
def test_without_the_library(hub, monkeypatch, tmp_path, library):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    if library:
        module = type(threading)("huggingface_hub")
        module.__version__ = library
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    result = run(REPO)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: downloads need huggingface_hub 1 or newer: {install_hint('hub')}\n"
    )
