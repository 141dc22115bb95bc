"""Changing a bundle where it lies: all of it or nothing, whatever happens on the way."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

import rdlite
from rdlite import BundleError, InputError, OutputError
from rdlite.bundle.manifest import CacheScalesEntry, hashed_name
from rdlite.bundle.update import update_bundle
from rdlite.bundle.writer import HashingFile
from rdlite.loader import open_bundle


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def noting(name):
    return {"cache_scales": CacheScalesEntry(name, 3)}


def test_a_file_is_added_and_replaced_and_removed(bundle_copy):
    before = listing(bundle_copy)
    bundle = open_bundle(bundle_copy)
    first, second = (hashed_name("scales.safetensors", data) for data in (b"1", b"2"))
    one = update_bundle(bundle, noting(first), {first: b"1"})
    assert one == open_bundle(bundle_copy)
    assert one.manifest.cache_scales.file == first
    assert one.read_text(first) == b"1"
    changed = ("files", "cache_scales", "sha256")
    assert {
        name
        for name in (field.name for field in dataclasses.fields(one.manifest))
        if getattr(one.manifest, name) != getattr(bundle.manifest, name)
    } == set(changed)
    two = update_bundle(one, noting(second), {first: None, second: b"2"})
    assert listing(bundle_copy) == sorted([*before, second])
    assert two.read_text(second) == b"2"
    three = update_bundle(two, {"cache_scales": None}, {second: None})
    assert listing(bundle_copy) == before
    assert three.manifest == bundle.manifest
    assert rdlite.load(bundle_copy).generate("a", 1).ids


def test_contents_that_are_there_already_stay(bundle_copy):
    name = hashed_name("scales.safetensors", b"1")
    bundle = update_bundle(open_bundle(bundle_copy), noting(name), {name: b"1"})
    time = (bundle_copy / name).stat().st_mtime_ns
    again = update_bundle(bundle, {"name": "other"}, {name: b"1"})
    assert again.manifest.name == "other"
    assert (bundle_copy / name).stat().st_mtime_ns == time


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("core.onnx", "core.onnx is there already; give its new contents a new name"),
        ("../x", "'../x' cannot be a file of a bundle; give a bare name"),
        ("rdlite.json", "'rdlite.json' cannot be a file of a bundle"),
    ],
)
def test_files_are_never_overwritten(bundle_copy, name, message):
    before = listing(bundle_copy)
    with pytest.raises(InputError, match=message):
        update_bundle(open_bundle(bundle_copy), {}, {name: b"x", "new.bin": b"y"})
    assert listing(bundle_copy) == before
    open_bundle(bundle_copy)


def test_what_would_break_the_bundle_is_not_done(bundle_copy):
    bundle, before = open_bundle(bundle_copy), listing(bundle_copy)
    for changes, files, message in (
        ({"name": "\x1b"}, {}, "name must be a printable line"),
        ({}, {"core.onnx": None}, "does not list core.onnx"),
        (noting("nowhere.safetensors"), {}, "is no safetensors file of the bundle"),
        (noting("core.onnx"), {}, "is no safetensors file of the bundle"),
    ):
        with pytest.raises(BundleError, match=message):
            update_bundle(bundle, changes, {"new.bin": b"y", **files})
        assert listing(bundle_copy) == before
        assert open_bundle(bundle_copy) == bundle


def test_a_bundle_that_has_changed_or_is_damaged_is_refused(bundle_copy):
    bundle = open_bundle(bundle_copy)
    newer = update_bundle(bundle, {"name": "newer"}, {})
    with pytest.raises(OutputError, match="was changed since it was opened"):
        update_bundle(bundle, {"name": "late"}, {})
    assert open_bundle(bundle_copy) == newer
    tokenizer = bundle_copy / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1] + b" ")
    with pytest.raises(BundleError, match=r"tokenizer.json is damaged"):
        update_bundle(newer, {"name": "again"}, {})


def test_a_full_disk_is_one_clear_error(bundle_copy, monkeypatch):
    bundle, before = open_bundle(bundle_copy), listing(bundle_copy)
    write = HashingFile.write

    def full(self, data):
        if self.path.name == "rdlite.json":
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(HashingFile, "write", full)
    with pytest.raises(OutputError, match=r"cannot write .*bundle: No space left on device"):
        update_bundle(bundle, {}, {"new.bin": b"y"})
    assert listing(bundle_copy) == before
    assert open_bundle(bundle_copy) == bundle


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_error(bundle_copy):
    bundle_copy.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"cannot write .*bundle: Permission denied"):
            update_bundle(open_bundle(bundle_copy), {"name": "x"}, {})
    finally:
        bundle_copy.chmod(0o755)


def test_links_that_lie_about_are_not_followed(bundle_copy, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("mine")
    bundle = open_bundle(bundle_copy)
    (bundle_copy / "new.bin").symlink_to(mine / "diary.txt")
    update_bundle(bundle, {}, {"new.bin": b"y"})
    assert not (bundle_copy / "new.bin").is_symlink()
    (bundle_copy / ".update").symlink_to(mine)
    with pytest.raises(OutputError, match="File exists"):
        update_bundle(open_bundle(bundle_copy), {}, {"newer.bin": b"z"})
    assert (mine / "diary.txt").read_text() == "mine"
    assert listing(mine) == ["diary.txt"]


@pytest.mark.skipif(os.name == "nt", reason="has no flock")
def test_two_updates_at_once_are_refused(bundle_copy):
    import fcntl

    bundle = open_bundle(bundle_copy)
    other = os.open(bundle_copy, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="is being changed by another process"):
        update_bundle(bundle, {"name": "x"}, {})
    os.close(other)
    update_bundle(bundle, {"name": "x"}, {})


# Forks children that kill themselves right before the first, second, third ... change of a file,
# and prints what each left: the old or the new bundle, and how many files besides.
KILLED_UPDATES = """
import os, shutil, signal, sys
from itertools import count
from pathlib import Path
from rdlite.bundle.manifest import CacheScalesEntry; from rdlite.loader import open_bundle
from rdlite.bundle.manifest import hashed_name; from rdlite.bundle.update import update_bundle

whole, copy = Path(sys.argv[1]), Path(sys.argv[2])
old, new = (hashed_name("scales.safetensors", data) for data in (b"old", b"new"))

def update(bundle, name, data, rest):
    return update_bundle(bundle, {"cache_scales": CacheScalesEntry(name, 3)}, {name: data, **rest})

update(open_bundle(whole), old, b"old", {})

def child(kill_at):
    left = kill_at
    def hook(event, arguments):
        nonlocal left
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if changes or (event == "open" and "x" in str(arguments[1])):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    bundle = open_bundle(copy)
    sys.addaudithook(hook)
    update(bundle, new, b"new", {old: None})
    os._exit(0)

for kill_at in count():
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    pid = os.fork()
    if pid == 0:
        child(kill_at)
    _, status = os.waitpid(pid, 0)
    bundle = open_bundle(copy)
    state = {old: "old", new: "new"}[bundle.manifest.cache_scales.file]
    besides = len({path.name for path in copy.iterdir()} - {*bundle.manifest.files, "rdlite.json"})
    third = hashed_name("scales.safetensors", b"third")
    update(bundle, third, b"third", {bundle.manifest.cache_scales.file: None})
    clean = {path.name for path in copy.iterdir()}
    assert clean == {*open_bundle(copy).manifest.files, "rdlite.json"}, clean
    print(state, besides, flush=True)
    if status == 0:
        break
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_update_leaves_the_old_bundle_or_the_new_one(bundle_copy, tmp_path):
    command = [sys.executable, "-c", KILLED_UPDATES, str(bundle_copy), str(tmp_path / "copy")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    states = [line.split() for line in result.stdout.splitlines()]
    names = [state for state, _ in states]
    assert names == sorted(names, reverse=True)  # old ones first, then new ones
    assert names.count("old") >= 5
    assert names.count("new") >= 2
    assert {besides for _, besides in states} > {"0"}  # so there was something to sweep up
    assert states[-1] == ["new", "0"]


def test_the_manifest_is_signed_like_an_exporters(bundle_copy):
    bundle = update_bundle(open_bundle(bundle_copy), {"name": "x"}, {})
    text = json.loads((bundle_copy / "rdlite.json").read_text())
    assert text["sha256"] == bundle.manifest.sha256
    assert text["cache_scales"] is None
