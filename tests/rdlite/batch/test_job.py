"""A job as a whole: its shapes of output, what is refused, and that nothing undoes it."""

import contextlib
import json
import multiprocessing
import random
import subprocess
import sys
import time
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdlite import Depth, InputError, OutputError, RdliteError, RuntimeFailure, Sampling
from rdlite.batch import journal as journal_module
from rdlite.batch.answers import Record
from rdlite.batch.job import Job, run
from rdlite.batch.journal import Totals
from rdlite.batch.local import in_processes, in_this_process
from rdlite.batch.options import Load, Options
from rdlite.loader import open_bundle

#: Does a job without a model, for what does not depend on answers; a kill can be at any call.
SCRIPT = """
import os, sys
from pathlib import Path
from rdlite.batch import job, journal
from rdlite.batch.answers import Record
from rdlite.batch.options import Options
from rdlite.loader import open_bundle

given, out, where, when = sys.argv[1:]
journal.SYNC_EVERY = 0
calls = 0

def dying(function):
    def call(*args):
        global calls
        calls += 1
        if where.startswith("before") and calls == int(when):
            os.kill(os.getpid(), 9)
        result = function(*args)
        if where.startswith("after") and calls == int(when):
            os.kill(os.getpid(), 9)
        return result
    return call

_, _, name = where.partition(" ")
if name:
    for module in (job, journal, journal.Journal):
        if hasattr(module, name):
            setattr(module, name, dying(getattr(module, name)))

def answer(scan, start):
    for row in scan.read(start):
        yield Record(row.number, f"answer {row.value['prompt']}", "stop", 3, 2)

print(job.run(job.Job(Path(given), Path(out), Options(), open_bundle("nano")), answer))
"""


@pytest.fixture(scope="module")
def bundle():
    return open_bundle("nano")


def answer(scan, start):
    for row in scan.read(start):
        if row.problem or "prompt" not in (row.value or {}):
            yield Record(row.number, error="why")
        else:
            yield Record(row.number, row.value["prompt"].upper(), "stop", 6, 2, -0.25)


def write(path, count):
    path.write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(count)))
    return path


def job_of(given, out, bundle, strict=False, **options):
    return Job(given, out, Options(**options), bundle, strict)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if ".part" in path.name)


def test_jsonl_to_jsonl(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    given.write_text(given.read_text() + "{}\n")
    told = []
    totals = run(
        job_of(given, out, bundle, logprob=True), answer, None, lambda *now: told.append(now)
    )
    assert totals == Totals(4, out.stat().st_size, 1, 6, 18)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    expected = {"text": "P1", "finish": "stop", "steps": 6, "tokens": 2, "logprob": -0.25}
    assert lines[1] == {"id": 1, **expected}
    assert lines[3] == {"id": 3, "error": "why"}
    assert [now.rows for now, rows in told] == [0, 1, 2, 3, 4]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("ids", [[7, 8], ["a", "b"], ["a", 8]])
def test_jsonl_to_parquet(tmp_path, bundle, ids):
    given, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    rows = [{"id": ids[0], "prompt": "x"}, {"id": ids[1]}]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def named(scan, start):
        for row, record in zip(rows, answer(scan, start), strict=True):
            yield Record(row["id"], record.text, record.finish, record.steps, 2, error=record.error)

    run(job_of(given, out, bundle), named)
    table = pq.read_table(out)
    whole = all(isinstance(each, int) for each in ids)
    assert table.schema.field("id").type == (pa.int64() if whole else pa.string())
    assert table["id"].to_pylist() == (ids if whole else [str(each) for each in ids])
    assert table["text"].to_pylist() == ["X", None]
    assert table["error"].to_pylist() == [None, "why"]
    assert "logprob" not in table.column_names


def test_a_folder_becomes_one_file_or_a_folder(tmp_path, bundle):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.jsonl", 2)
    write(folder / "b.jsonl", 0)
    pq.write_table(pa.table({"prompt": ["c0"]}), folder / "c.parquet")
    run(job_of(folder, tmp_path / "all.jsonl", bundle), answer)
    lines = (tmp_path / "all.jsonl").read_bytes().splitlines(keepends=True)
    run(job_of(folder, tmp_path / "each", bundle), answer)
    each = tmp_path / "each"
    assert sorted(path.name for path in each.iterdir()) == ["a.jsonl", "b.jsonl", "c.parquet"]
    assert (each / "a.jsonl").read_bytes() == b"".join(lines[:2])
    assert (each / "b.jsonl").read_bytes() == b""
    assert pq.read_table(each / "c.parquet")["text"].to_pylist() == ["C0"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_empty_file_has_an_empty_answer(tmp_path, bundle, name):
    out = tmp_path / name
    assert run(job_of(write(tmp_path / "in.jsonl", 0), out, bundle), answer) == Totals()
    if name.endswith("jsonl"):
        assert out.read_bytes() == b""
    else:
        assert pq.read_table(out).num_rows == 0


def test_strict_stops_at_the_first_row_without_an_answer(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    given.write_text(given.read_text() + "{}\n" + given.read_text())
    with pytest.raises(InputError, match=r"row 2 \(id 2\): why; without --strict"):
        run(job_of(given, out, bundle, strict=True), answer)
    assert not out.exists()
    started = []

    def watched(scan, start):
        started.append(start)
        yield from answer(scan, start)

    assert run(job_of(given, out, bundle), watched).rows == 5
    assert started == [2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out", "must end in .jsonl or .parquet"),
        ("out.csv", "must end in .jsonl or .parquet"),
        ("there.jsonl", "is there already: delete it"),
        ("no/out.jsonl", "cannot write"),
        ("taken.jsonl", "taken.jsonl.part is in the way"),
    ],
)
def test_where_nothing_can_be_written_is_said_at_once(tmp_path, bundle, name, message):
    (tmp_path / "there.jsonl").write_text("mine")
    (tmp_path / "taken.jsonl.part").mkdir()
    (tmp_path / "taken.jsonl.part" / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RdliteError, match=message):
        run(job_of(write(tmp_path / "in.jsonl", 1), tmp_path / name, bundle), None)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "in.jsonl"])


def interrupted(given, out, bundle, after, **options):
    def some(scan, start):
        for number, record in enumerate(answer(scan, start)):
            if number == after:
                raise KeyboardInterrupt
            yield record

    with pytest.raises(KeyboardInterrupt):
        run(job_of(given, out, bundle, **options), some)


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    interrupted(given, out, bundle, 3, max_tokens=7)
    with pytest.raises(OutputError, match=r"begun with another max_tokens \(7, now 8\)"):
        run(job_of(given, out, bundle, max_tokens=8), answer)
    write(given, 6)
    with pytest.raises(OutputError, match="begun with another input"):
        run(job_of(given, out, bundle, max_tokens=7), answer)
    write(given, 5)
    assert run(job_of(given, out, bundle, max_tokens=7), answer).rows == 5


def test_one_process_at_a_time(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"

    def meanwhile(scan, start):
        with pytest.raises(OutputError, match="another process works on"):
            run(job_of(given, out, bundle), answer)
        yield from answer(scan, start)

    assert run(job_of(given, out, bundle), meanwhile).rows == 2


def test_input_that_changes_meanwhile_gives_no_output(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"

    def changing(scan, start):
        yield from answer(scan, start)
        write(given, 3)

    with pytest.raises(InputError, match="was changed while it was worked on"):
        run(job_of(given, out, bundle), changing)
    assert not out.exists()


@pytest.mark.parametrize("tail", [b"", b"{", b'{"rows": 1', b"\xff\x00"])
def test_the_last_whole_line_of_the_journal_holds(tmp_path, bundle, tail):
    given, out = write(tmp_path / "in.jsonl", 6), tmp_path / "out.jsonl"
    interrupted(given, out, bundle, 4)
    part = tmp_path / "out.jsonl.part"
    with (part / "journal").open("ab") as file:
        file.write(tail)
    with (part / "records").open("ab") as file:
        file.write(b'{"id": 4, "text"')
    started = []

    def watched(scan, start):
        started.append(start)
        yield from answer(scan, start)

    run(job_of(given, out, bundle), watched)
    assert started == [4]
    run(job_of(given, tmp_path / "whole.jsonl", bundle), answer)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_records_that_the_disk_lost_are_made_again(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(journal_module, "SYNC_EVERY", 0)
    given, out = write(tmp_path / "in.jsonl", 6), tmp_path / "out.jsonl"
    interrupted(given, out, bundle, 4)
    records = tmp_path / "out.jsonl.part" / "records"
    records.write_bytes(records.read_bytes()[:-3])
    run(job_of(given, out, bundle), answer)
    run(job_of(given, tmp_path / "whole.jsonl", bundle), answer)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("before sync", 1),
        ("after add", 3),
        ("before make", 1),
        ("after make", 1),
        ("after finish", 1),
        ("after put_in_place", 1),
    ],
)
def test_a_kill_anywhere_loses_nothing(tmp_path, bundle, where, when):
    given = write(tmp_path / "in.jsonl", 6)

    def start(name, where):
        command = [sys.executable, "-c", SCRIPT, given, tmp_path / name, where, str(when)]
        return subprocess.run(command, capture_output=True, text=True)

    name = "out.parquet" if "make" in where else "out.jsonl"
    assert start(name, where).returncode == -9
    again = start(name, "never")
    assert again.returncode == 0, again.stderr
    assert "Totals(rows=6" in again.stdout
    assert leftovers(tmp_path) == []

    def scripted(scan, start):
        for row in scan.read(start):
            yield Record(row.number, f"answer {row.value['prompt']}", "stop", 3, 2)

    run(job_of(given, tmp_path / f"whole{name}", bundle), scripted)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{name}").read_bytes()


def test_a_process_that_is_killed_ends_the_job_and_it_goes_on(tmp_path, bundle):
    given, out = write(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    options = Options(max_tokens=2, depth=Depth(2), sampling=Sampling())
    job = Job(given, out, options, bundle)

    def losing(scan, start):
        with contextlib.closing(in_processes(scan, start, Load(threads=1), options, 2)) as records:
            for record in records:
                yield record
                for child in multiprocessing.active_children():
                    child.kill()

    with pytest.raises(RuntimeFailure, match=r"has ended \(exit code -9\)"):
        run(job, losing)
    assert not multiprocessing.active_children()
    run(job, partial(in_processes, given=Load(threads=1), options=options, processes=2))
    alone = job_of(given, tmp_path / "alone.jsonl", bundle)
    run(alone, partial(in_this_process, given=Load(threads=1), options=options))
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


NANO = """
import rdlite.batch.journal as journal
from rdlite.cli.main import main
journal.SYNC_EVERY = 0
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_nano_killed_again_and_again_writes_the_same_bytes(tmp_path, processes):
    script = tmp_path / "run.py"
    script.write_text(NANO)
    given = tmp_path / "in.jsonl"
    rows = [{"id": f"r{n}", "prompt": f"Add {n} and {n % 7}."} for n in range(80)]
    rows[11] = {"id": "bad", "prompt": 1}
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(out):
        options = ["--chat", "--temp", "1", "--logprob", "--max-tokens", "8", "--threads", "1"]
        words = [given, "-o", tmp_path / out, *options, "--processes", str(processes)]
        return [sys.executable, script, "batch", *words]

    subprocess.run(command("whole.jsonl"), check=True, capture_output=True)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == 80
    records = tmp_path / "out.jsonl.part" / "records"
    rng = random.Random(processes)
    kills = 0
    for size in sorted(rng.randrange(1, len(whole)) for _ in range(2)):
        with subprocess.Popen(command("out.jsonl"), stderr=subprocess.PIPE) as job:
            deadline = time.monotonic() + 60
            while job.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(FileNotFoundError):
                    if records.stat().st_size >= size:
                        break
                time.sleep(0.002)
            job.kill()
        kills += job.returncode == -9
    assert kills
    subprocess.run(command("out.jsonl"), check=True, capture_output=True)
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert leftovers(tmp_path) == []
