"""`rdlite batch` against a loop of `model.generate`; its memory; kills at random moments.

    .venv/bin/python bench/batch.py --rows 20000 --kills 20

Rows are nano's problems as chats. The loop runs in this process, on a sample of the rows, before
and after the batch; with as many threads as rdlite chooses, and with one, which suits so small a
model better. Memory is the resident memory of all processes of the batch, from its 1,000th row on.
With --kills, batches of --kill-rows rows are killed (SIGKILL), each time after a random part of
the time that one takes, and must then write the bytes of one that was left alone.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import click
import psutil
from report import finish

import rdlite
from rdlite.measure.tasks import TASKS, draw

FLAT_FROM = 1000


def write_problems(path: Path, rows: int) -> list[str]:
    """Write rows of problems of all kinds and difficulties; returns the questions."""
    rng, questions = random.Random(0), []
    kinds = [(task, d) for task in TASKS for d in range(1, TASKS[task].highest + 1)]
    with path.open("w") as file:
        for number in range(rows):
            question = draw(rng, *kinds[number % len(kinds)], held_out=True).question
            questions.append(question)
            file.write(json.dumps({"id": f"p{number}", "prompt": question}) + "\n")
    return questions


def loop_speed(questions: list[str], threads: int | None) -> float:
    """Tokens per second of one text after the other."""
    with rdlite.load(threads=threads) as model:
        prompts = [model.encode_chat([{"role": "user", "content": q}]) for q in questions]
        for _ in model.generate(prompts[0]):
            pass
        clock, tokens = time.perf_counter(), 0
        for prompt in prompts:
            for _ in model.generate(prompt):
                tokens += 1
        return tokens / (time.perf_counter() - clock)


def command(given: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "rdlite", "batch", str(given), "-o", str(out)]


def resident(process: psutil.Process) -> int:
    """Bytes of a process and those it started."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            total += each.memory_info().rss
    return total


def rows_done(journal: Path) -> int:
    """Rows that the journal vouches for."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        return int(json.loads(journal.read_text().splitlines()[-1])["rows"])
    return 0


def run_batch(given: Path, out: Path) -> tuple[float, list[int]]:
    """Answer a file; returns the seconds, and memory from FLAT_FROM rows on, in bytes."""
    clock, memory = time.perf_counter(), []
    with psutil.Popen(command(given, out), stderr=subprocess.DEVNULL) as job:
        while job.poll() is None:
            if rows_done(out.with_name(out.name + ".part") / "journal") >= FLAT_FROM:
                with suppress(psutil.Error):
                    memory.append(resident(job))
            time.sleep(0.5)
    assert job.returncode == 0, "the batch has failed"
    return time.perf_counter() - clock, memory


def kill_often(folder: Path, rows: int, kills: int) -> bool:
    """Whether a batch killed so often writes what one writes that was left alone."""
    given, whole = folder / "kill.jsonl", folder / "whole.jsonl"
    write_problems(given, rows)
    seconds, _ = run_batch(given, whole)
    rng, done = random.Random(1), 0
    for number in count():
        out = folder / f"killed{number}.jsonl"
        while not out.exists():
            with subprocess.Popen(command(given, out), stderr=subprocess.DEVNULL) as job:
                try:
                    job.wait(rng.uniform(0, seconds) if done < kills else None)
                except subprocess.TimeoutExpired:
                    for child in psutil.Process(job.pid).children():
                        if rng.random() < 0.5:  # those that answer, at times before their parent
                            child.kill()
                    job.kill()
                    done += 1
        if out.read_bytes() != whole.read_bytes():
            return False
        if done == kills:
            print(f"killed {done} times in {number + 1} batches of {rows} rows: the same bytes")
            return True
    return False


@click.command(help=__doc__)
@click.option("--rows", default=2000, show_default=True, type=click.IntRange(FLAT_FROM))
@click.option("--sample", default=300, show_default=True, help="Rows of each loop.")
@click.option("--kills", default=0, show_default=True)
@click.option("--kill-rows", default=400, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON here as well.")
def main(rows: int, sample: int, kills: int, kill_rows: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given, answers = folder / "in.jsonl", folder / "out.jsonl"
        questions = write_problems(given, rows)
        some = questions[:: max(1, rows // sample)]
        before = {threads: loop_speed(some, threads) for threads in (None, 1)}
        seconds, memory = run_batch(given, answers)
        after = {threads: loop_speed(some, threads) for threads in (None, 1)}
        found = [json.loads(line) for line in answers.read_text().splitlines()]
        assert [row["id"] for row in found] == [f"p{number}" for number in range(rows)]
        tokens = sum(row["tokens"] for row in found)
        result: dict[str, Any] = {"rows": rows, "tokens": tokens}
        result["batch, tokens/s"] = round(tokens / seconds, 1)
        for threads, told in ((None, "loop"), (1, "loop of one thread")):
            loop = (before[threads] + after[threads]) / 2
            result[f"{told}, tokens/s"] = round(loop, 1)
            result[f"of the {told}"] = f"{tokens / seconds / loop:.2f}x"
        if memory:
            result["memory at row 1,000, MiB"] = round(memory[0] / 2**20, 1)
            result["then"] = f"{min(memory) / memory[0]:.1%} to {max(memory) / memory[0]:.1%}"
        finish("batch", [result], out)
        if kills and not kill_often(folder, kill_rows, kills):
            raise click.ClickException("a killed batch wrote other bytes")


if __name__ == "__main__":
    main()
