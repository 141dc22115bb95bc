"""From a name to a model in the store, against a hub on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint
from rdlite.quant import find_scheme

from rdlite.cli.main import main
from rdlite.store.entries import entries
from rdlite.store.home import home

DATA = Path(__file__).parents[2] / "data"
REPO = "tiny/looped"
#: Kills itself at a count of synced tensors and journal lines.
KILLED = """
import os, signal, sys
sync, left = os.fsync, [int(sys.argv.pop(1))]
def count(descriptor):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = count
from rdlite.cli.main import main
main()
"""


@pytest.fixture
def store(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("RDLITE_HOME", str(tmp_path / "home"))
    return hub


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_shards(files, checkpoint, count):
    """Put a checkpoint on a hub as shards, its tensors dealt out so that weights are apart."""
    from safetensors.numpy import load_file, save

    tensors = load_file(checkpoint / "model.safetensors")
    del files["model.safetensors"]
    weight_map = {}
    for i in range(count):
        names = sorted(tensors)[i::count]
        shard = f"model-{i + 1:05}-of-{count:05}.safetensors"
        files[shard] = save({name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, shard)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()


def test_from_a_name_to_an_answer_and_no_request_the_second_time(store):
    words = ("generate", REPO, "Hi", "--max-tokens", "3", "--yes")
    first = run(*words)
    assert "kept as int8" in first
    count = len(store.requests)
    assert count
    run("generate", REPO, "Hi", "--max-tokens", "3")
    assert len(store.requests) == count
    (entry,) = entries()
    assert entry.name == f"{REPO}:int8"
    assert run("models", "path", REPO).strip() == str(entry.path)
    assert "is whole" in run("models", "check")
    (row,) = json.loads(run("models", "--json"))
    assert row["family"] == "huginn"
    stranger = entry.path.parent / "mine.txt"
    stranger.write_text("mine")
    run("models", "rm", REPO)
    assert not entry.path.exists()
    assert stranger.read_text() == "mine"


def test_from_a_name_to_an_answer_of_another_family(store, text_checkpoint):
    texts = [path for path in text_checkpoint.iterdir() if path.suffix != ".safetensors"]
    ours = [DATA / "ouro-tiny" / name for name in ("config.json", "model.safetensors")]
    files = {path.name: path.read_bytes() for path in (*texts, *ours)}
    in_shards(files, DATA / "ouro-tiny", 3)
    store.repos["tiny/ouro"] = files
    words = ("generate", "tiny/ouro", "Hi", "--max-tokens", "3", "--json")
    last = json.loads(run(*words, "--yes").splitlines()[-1])
    assert last["stats"]["new_tokens"] > 0
    count = len(store.requests)
    assert json.loads(run(*words).splitlines()[-1])["text"] == last["text"]
    assert len(store.requests) == count
    (row,) = json.loads(run("models", "--json"))
    assert row["family"] == "ouro"


@pytest.mark.parametrize("name", ["ouro-tiny", "nanbeige-tiny"])
def test_shards_in_any_order_give_the_bundle_of_the_whole_checkpoint(store, name, tmp_path):
    checkpoint = DATA / name
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
    in_shards(files, checkpoint, 5)
    store.repos[f"tiny/{name}"] = files
    run("inspect", f"tiny/{name}:int8", "--yes")
    (entry,) = entries()
    whole = export_checkpoint(checkpoint, tmp_path / "whole", quant=find_scheme("int8"))
    ours, theirs = files_of(entry.path), files_of(whole)
    assert ours.keys() == theirs.keys()
    assert all(ours[key] == theirs[key] for key in ours if key.endswith((".data", ".onnx")))


def test_a_gguf_file_of_the_hub(store, text_bundle, tmp_path):
    quantized = export_checkpoint(
        text_bundle.parent / "checkpoint", tmp_path / "q", quant=find_scheme("int8")
    )
    CliRunner().invoke(main, ["gguf", "export", str(quantized), "-o", str(tmp_path / "m.gguf")])
    store.repos["tiny/gguf"] = {"m-Q8_0.gguf": (tmp_path / "m.gguf").read_bytes(), "README.md": b""}
    for name in ("tiny/gguf/m-Q8_0.gguf", "tiny/gguf:Q8_0", "tiny/gguf"):
        run("generate", name, "Hi", "--max-tokens", "2", "--yes")
    assert len(entries()) == 1


def test_killed_again_and_again_it_goes_on(store, text_checkpoint, tmp_path):
    in_shards(store.repos[REPO], text_checkpoint, 4)
    environment = {**os.environ, "HF_ENDPOINT": store.url, "HF_HOME": str(tmp_path / "hf")}
    words = ["inspect", f"{REPO}:int4", "--yes"]
    for count in (3, 9, 12, 7, 10, 8, 11, 9, 10, 8):
        result = subprocess.run(
            [sys.executable, "-c", KILLED, str(count), *words], env=environment, capture_output=True
        )
        assert result.returncode == -signal.SIGKILL, result.stderr.decode()
        assert not entries()
    work = next((tmp_path / "home").glob("models/*/*/.*.work"))
    done = (work / "journal.jsonl").read_text().splitlines()
    assert len(done) == len(set(done)) > 10
    (first,) = [name for name in store.repos[REPO] if name.startswith("model-00001")]
    count = len(store.fetched(first))
    run(*words)
    assert len(store.fetched(first)) == count
    (entry,) = entries()
    whole = export_checkpoint(text_checkpoint, tmp_path / "whole", quant=find_scheme("int4"))
    ours, theirs = files_of(entry.path), files_of(whole)
    assert all(ours[key] == theirs[key] for key in theirs if key.endswith((".data", ".onnx")))
    assert not work.exists()


def test_the_disk_never_holds_more_than_one_shard(store, text_checkpoint, monkeypatch):
    in_shards(store.repos[REPO], text_checkpoint, 6)
    from rdlite.export.by_shard import ByShard

    most, take = [], ByShard.take

    def watched(self, shard):
        most.append(len(list(shard.parent.glob("*.safetensors"))))
        take(self, shard)

    monkeypatch.setattr(ByShard, "take", watched)
    run("inspect", REPO, "--yes")
    assert most == [1] * 6


def test_two_at_once_download_once(store, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": store.url, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "rdlite", "inspect", REPO, "--yes"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(store.fetched("model.safetensors")) == 2  # the header, and the file
    assert len(entries()) == 1


def test_the_scheme_suits_size_and_memory(store, monkeypatch):
    from rdlite.cli.shared import models
    from rdlite.store import fill

    monkeypatch.setattr(fill, "SMALL_CHECKPOINT", 10_000)
    assert "kept as int4" in run("inspect", REPO, "--yes")
    run("models", "rm", REPO)
    monkeypatch.setattr(fill, "SMALL_CHECKPOINT", 10**9)
    monkeypatch.setattr(fill, "free_bytes", lambda: 10_000)
    assert "kept as int4" in run("inspect", REPO, "--yes")
    run("models", "rm", REPO)
    begun = home() / "models/tiny--looped/main/.int8.work"
    begun.mkdir(parents=True)
    assert "kept as int8" in run("inspect", REPO, "--yes")  # that goes on, whatever is free now
    run("models", "rm", REPO)
    monkeypatch.setattr(models, "free_bytes", lambda: 200_000)
    refused = run("inspect", f"{REPO}:float32", "--yes", code=2)
    assert f"GB are free: close other programs, or take {REPO}:int4 or nano" in refused
    monkeypatch.setattr(models, "free_bytes", lambda: 10_000)
    assert run("inspect", f"{REPO}:int4", "--yes", code=2).endswith("programs, or take nano\n")
    assert not entries()


def test_without_a_terminal_it_names_yes_and_leaves_the_weights(store):
    result = CliRunner().invoke(main, ["inspect", REPO])
    assert result.exit_code == 2
    assert "--yes downloads it" in result.output
    assert len(store.fetched("model.safetensors")) == 1  # the header
    assert not entries()


def test_a_full_disk_leaves_nothing_half(store, monkeypatch, tmp_path):
    import errno

    from rdlite.export.by_shard import ByShard

    def full(self, shard):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ByShard, "take", full)
    assert "is full; what had arrived" in run("inspect", REPO, "--yes", code=2)
    assert not list((tmp_path / "home").glob("models/*/*/.*.work"))


def test_other_commands_take_names_too(store, text_bundle, tmp_path):
    run("quantize", REPO, "-o", "small", "--scheme", "int8", "--yes")
    assert [entry.name for entry in entries()] == [f"{REPO}:float32"]
    whole = export_checkpoint(text_bundle.parent / "checkpoint", "w", quant=find_scheme("int8"))
    ours, theirs = files_of(Path("small")), files_of(whole)
    assert all(ours[key] == theirs[key] for key in theirs if key.endswith((".data", ".onnx")))
    count = len(store.requests)
    assert "agree within" in run("verify", text_bundle, "--against", f"{REPO}:float32")
    run("eval", REPO, "--against", REPO, "--tasks", "chain", "--count", "1", "--steps", "1")
    assert len(store.requests) == count
    refused = run("page", "tiny/none", "-o", "site", "--yes", code=2)
    assert "tiny/none" in refused
    assert "'rdlite quantize NAME -o BUNDLE --scheme SCHEME'" in run(
        "inspect", f"{REPO}:int4-gptq", "--yes", code=2
    )


def test_names_and_near_misses(store, tmp_path):
    from rdlite.store.names import Name, read_name

    assert read_name("a/b@v1:int8") == Name("a/b", "v1", None, "int8")
    assert read_name("https://huggingface.co/a/b/blob/main/x.gguf") == Name("a/b", "main", "x.gguf")
    assert read_name("huginn") == Name("tomg-group-umd/huginn-0125")
    Path("a").mkdir()
    assert read_name("a/b") is None
    assert "did you mean huginn?" in run("inspect", "hugin", code=2)
    assert "tomg-group-umd/huginn-0125 " in run("models", "known")
    assert "Apache-2.0" in run("models", "known")
    assert "can be stored as" in run("inspect", f"{REPO}:int4-gptq", "--yes", code=2)
