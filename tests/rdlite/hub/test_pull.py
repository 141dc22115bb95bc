"""Pulling from a hub on this machine: what is fetched, resumed, refused."""

import json
import shutil
from pathlib import Path

import pytest

import rdlite
from rdlite.errors import CheckpointError, HubError, InputError, OutputError
from rdlite.hub.pull import INDEX, TEXTS, pull

REPO = "tiny/looped"
WEIGHTS = "model.safetensors"


def names(folder):
    return {path.name for path in folder.iterdir() if path.name != ".pull"}


def parts(folder):
    return [path for path in (folder / ".pull").iterdir() if path.suffix == ".part"]


def test_what_export_reads_is_fetched_and_nothing_else(hub, text_checkpoint):
    seen = []
    folder = pull(REPO, progress=lambda *counts: seen.append(counts))
    assert folder == Path("looped")
    assert names(folder) == {path.name for path in text_checkpoint.iterdir()}
    for path in text_checkpoint.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    size = (text_checkpoint / WEIGHTS).stat().st_size
    assert seen[-1] == (size, size)
    assert not parts(folder)
    rdlite.export.export_checkpoint(folder, "bundle")


def test_a_second_pull_fetches_nothing_and_brings_up_to_date(hub):
    folder = pull(REPO)
    count = len(hub.requests)
    pull(REPO)
    assert len(hub.requests) == count + 1  # the listing
    files = hub.repos[REPO]
    del files["generation_config.json"]
    files["README.md"] = b"new"
    pull(REPO)
    assert len(hub.requests) == count + 3  # the listing, README.md
    assert not (folder / "generation_config.json").exists()
    assert (folder / "README.md").read_bytes() == b"new"


def test_a_broken_connection_is_taken_up_where_it_broke(hub):
    texts = len(pull_texts(hub))
    hub.cuts = [10**6] * texts + [1000, 500]
    folder = pull(REPO)
    assert hub.fetched(WEIGHTS) == [None, "bytes=1000-", "bytes=1500-"]
    assert (folder / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def pull_texts(hub):
    return set(TEXTS) & set(hub.repos[REPO])


@pytest.mark.parametrize("ranges", [True, False])
def test_the_next_pull_goes_on_where_one_was_given_up(hub, ranges):
    hub.ranges = ranges
    hub.cuts = [10**6] * len(pull_texts(hub)) + [1000, 0, 0, 0]
    if not ranges:
        hub.cuts[-3:] = [1000] * 3
    with pytest.raises(HubError, match=r"model.safetensors stopped at 1,000 of [\d,]+ bytes: .*"):
        pull(REPO)
    assert [part.stat().st_size for part in parts(Path("looped"))] == [1000]
    assert not Path("looped", WEIGHTS).exists()
    del hub.requests[:]
    folder = pull(REPO)
    assert next(name for name, _ in hub.requests if "resolve" in name).endswith(WEIGHTS)
    assert hub.fetched(WEIGHTS) == ["bytes=1000-"]
    assert (folder / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_a_part_of_another_version_is_not_gone_on_with(hub):
    hub.cuts = [10**6] * len(pull_texts(hub)) + [1000, 0, 0, 0]
    with pytest.raises(HubError):
        pull(REPO)
    hub.repos[REPO][WEIGHTS] = bytes(reversed(hub.repos[REPO][WEIGHTS]))
    folder = pull(REPO)
    assert hub.fetched(WEIGHTS)[-1] is None
    assert (folder / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_what_arrives_damaged_is_deleted(hub):
    hub.cuts = [10**6] * len(pull_texts(hub)) + [1000, 0, 0, 0]
    with pytest.raises(HubError):
        pull(REPO)
    (part,) = parts(Path("looped"))
    part.write_bytes(b"x" * 1000)
    with pytest.raises(HubError, match="arrived damaged"):
        pull(REPO)
    assert not part.exists()
    pull(REPO)


def test_pickles_are_refused_before_anything_is_fetched(hub):
    hub.repos[REPO] = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04" * 999, "x.py": b""}
    with pytest.raises(HubError, match=r"only pickled weights \(pytorch_model.bin\)"):
        pull(REPO)
    assert len(hub.requests) == 1
    assert not Path("looped").exists()


def test_shards_are_those_that_the_index_names(hub):
    files = hub.repos[REPO]
    files["a.safetensors"], files["b.safetensors"] = b"a" * 20_000, b"b"
    files[INDEX] = json.dumps({"weight_map": {"x": "b.safetensors"}}).encode()
    assert names(pull(REPO)) & set(files) >= {"b.safetensors", INDEX}
    assert not hub.fetched("a.safetensors") + hub.fetched(WEIGHTS)
    files[INDEX] = json.dumps({"weight_map": {"x": "../c.safetensors"}}).encode()
    with pytest.raises(HubError, match=r"1 of the 1 files .* like '../c.safetensors'"):
        pull(REPO)
    files[INDEX] = b'{"weight_map": [1]}'
    with pytest.raises(CheckpointError, match="weight_map must map"):
        pull(REPO)
    del files[INDEX], files[WEIGHTS]
    with pytest.raises(HubError, match=r"2 safetensors files and no model.safetensors.index.json"):
        pull(REPO)


@pytest.mark.parametrize("name", ["..\\x.safetensors", ".x.safetensors", "c:x.safetensors"])
def test_names_that_could_lead_elsewhere_are_no_files(hub, name):
    hub.repos[REPO] = {"config.json": b"{}", name: b"x"}
    with pytest.raises(HubError, match="has no safetensors"):
        pull(REPO)


def test_what_the_hub_refuses_is_said_in_one_line(hub):
    for arguments, kind, message in (
        (("tiny/other",), HubError, "has no model 'tiny/other', or it is private"),
        (("no such name",), InputError, "REPO must be a name like owner/model"),
        (("..",), InputError, "REPO must be a name like owner/model"),
        (("tiny/",), InputError, "REPO must be a name like owner/model"),
    ):
        with pytest.raises(kind, match=message):
            pull(*arguments)
    with pytest.raises(HubError, match="has no revision 'v9'; give a branch, tag or commit"):
        pull(REPO, revision="v9")
    del hub.repos[REPO]["config.json"]
    with pytest.raises(HubError, match=r"has no config.json"):
        pull(REPO)
    assert not Path("looped").exists()
    hub.repos[REPO]["config.json"] = b"{}"
    hub.gated.add(REPO)
    with pytest.raises(HubError, match=r"is gated: accept its terms at http://.*/tiny/looped, "):
        pull(REPO)


def test_without_a_network(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(HubError, match=r"cannot reach http://127.0.0.1:\d+ \("):
        pull(REPO)


def test_offline_takes_what_is_there(hub):
    folder = pull(REPO)
    count = len(hub.requests)
    assert pull(REPO, offline=True) == folder
    (folder / WEIGHTS).unlink()
    with pytest.raises(HubError, match="neither the folder nor huggingface_hub's cache has tiny"):
        pull(REPO, offline=True)
    with pytest.raises(HubError, match="at 'v9'"):
        pull(REPO, offline=True, revision="v9")
    assert len(hub.requests) == count


def test_the_library_s_cache_is_used(hub, text_checkpoint):
    from huggingface_hub import hf_hub_download

    for name in names(text_checkpoint):
        hf_hub_download(REPO, name, endpoint=hub.url)
    count = len(hub.requests)
    folder = pull(REPO, "offline", offline=True)
    assert len(hub.requests) == count
    assert names(folder) == names(text_checkpoint)
    pull(REPO, "online")
    assert len(hub.requests) == count + 1  # the listing
    assert (Path("online") / WEIGHTS).read_bytes() == (text_checkpoint / WEIGHTS).read_bytes()


def test_a_folder_of_something_else_is_left_alone(hub):
    folder = Path("looped")
    folder.mkdir()
    (folder / "config.json").write_text("mine")
    with pytest.raises(OutputError, match=r"exists and is not from 'rdlite pull'; .* -o"):
        pull(REPO)
    assert (folder / "config.json").read_text() == "mine"
    pull(REPO, "other")
    hub.repos["tiny/second"] = hub.repos[REPO]
    with pytest.raises(OutputError, match="other holds tiny/looped"):
        pull("tiny/second", "other")
    record = Path("other/.pull/files.json")
    text = record.read_text()
    record.write_text(text.replace("model.safetensors", "../../x.safetensors"))
    with pytest.raises(OutputError, match="names files that are elsewhere"):
        pull(REPO, "other")
    record.write_text(text[:-9])
    with pytest.raises(OutputError, match="is damaged"):
        pull(REPO, "other")


def test_too_little_room_is_seen_before_weights_are_fetched(hub, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OutputError, match=r"GiB are still to come and looped has 0.00 GiB free"):
        pull(REPO)
    assert not hub.fetched(WEIGHTS)


def test_accept_may_refuse_before_weights_are_fetched(hub):
    def refuse(config):
        raise CheckpointError(config["model_type"])

    with pytest.raises(CheckpointError, match="huginn_raven"):
        pull(REPO, accept=refuse)
    assert not hub.fetched(WEIGHTS)
