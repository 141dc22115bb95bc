"""On a cluster of two nodes on this machine: `rdlite batch --ray` writes the bytes of one machine,
and a BatchPredictor in a pipeline of Ray Data's gives the answers of one.

Not part of `make test`, because starting Ray takes longer than most of it: `make test-ray`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from rdlite import BatchPredictor
from rdlite.batch.job import Job, run
from rdlite.batch.local import in_this_process
from rdlite.batch.on_ray import load_ray, on_ray
from rdlite.batch.options import Load, Options, model_defaults
from rdlite.cli.main import main
from rdlite.errors import RuntimeFailure
from rdlite.loader import open_bundle

ray = load_ray()
pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of itself
ROWS = 400


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray") / "in"
    folder.mkdir()
    rows = [{"id": f"r{n}", "prompt": f"Add {n} and {n % 7}."} for n in range(ROWS)]
    rows[70] = {"id": "r0", "prompt": "again"}
    rows[71] = {"id": "bad"}
    lines = [json.dumps(row) + "\n" for row in rows[:250]]
    (folder / "a.jsonl").write_text("".join(lines) + "no JSON\n")
    pq.write_table(pa.Table.from_pylist(rows[250:]), folder / "b.parquet", row_group_size=60)
    return folder


@pytest.fixture(scope="module")
def bundle():
    return open_bundle("nano")


@pytest.fixture(scope="module")
def options(bundle):
    depth, sampling = model_defaults(bundle)
    return Options(8, depth, sampling, chat=True, logprob=True)


@pytest.fixture(scope="module")
def expected(given, bundle, options):
    """What one process writes."""
    out = given.parent / "expected.jsonl"
    job = Job(given, out, options, bundle)
    totals = run(job, partial(in_this_process, given=Load(threads=1), options=options))
    assert (totals.rows, totals.errors) == (ROWS + 1, 3)
    return out.read_bytes()


def answer_on(cluster, options, at=None, happens=None):
    """Answer on the cluster; something happens before a record is taken."""

    def answer(scan, start):
        records = on_ray(scan, start, Load(), options, cluster.address, 1)
        try:
            for number, record in enumerate(records):
                if number == at:
                    happens()
                yield record
        finally:
            records.close()

    return answer


def actors_of(node):
    """The processes of a node that have a model."""
    raylets = [process.process.pid for process in node.all_processes["raylet"]]
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            title = (path / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if parent in raylets and b"MapWorker" in title:
            found.append(int(path.name))
    return found


def test_two_nodes_write_the_bytes_of_one_process(cluster, given, expected, tmp_path):
    out = tmp_path / "out.jsonl"
    words = ["batch", given, "-o", out, "--chat", "--max-tokens", 8, "--logprob"]
    words += ["--ray", cluster.address]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert f"{ROWS + 1} rows, 3 of them errors" in result.output
    assert out.read_bytes() == expected
    assert not ray.is_initialized()


def test_a_killed_actor_changes_nothing(cluster, given, expected, bundle, options, tmp_path):
    killed = []

    def kill():
        for pid in actors_of(cluster.second):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    out = tmp_path / "out.jsonl"
    run(Job(given, out, options, bundle), answer_on(cluster, options, 40, kill))
    assert killed
    assert out.read_bytes() == expected


def test_a_killed_driver_goes_on_where_it_was(cluster, given, expected, bundle, options, tmp_path):
    def stop():
        raise KeyboardInterrupt

    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(Job(given, out, options, bundle), answer_on(cluster, options, 150, stop))
    assert not out.exists()
    taken = []
    again = answer_on(cluster, options)

    def watched(scan, start):
        taken.append(start)
        return again(scan, start)

    run(Job(given, out, options, bundle), watched)
    assert taken == [150]
    assert out.read_bytes() == expected


def test_a_removed_node_changes_nothing(cluster, given, expected, bundle, options, tmp_path):
    removed = []

    def remove():
        removed.extend(actors_of(cluster.second))
        cluster.remove_node(cluster.second, allow_graceful=False)

    out = tmp_path / "out.jsonl"
    try:
        run(Job(given, out, options, bundle), answer_on(cluster, options, 40, remove))
    finally:
        cluster.second = cluster.add_node(num_cpus=1)
    assert removed
    assert out.read_bytes() == expected


@pytest.fixture
def connected(cluster, monkeypatch):
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "enable_progress_bars", False)
    # Or one actor could do all before the other is there.
    monkeypatch.setattr(context, "wait_for_min_actors_s", 60)
    yield
    ray.shutdown()


def test_a_predictor_in_ray_data_answers_as_one_process(connected, given, expected):
    class Watched(BatchPredictor):  # in here, so that actors get it without this file
        """Tells where it ran, and on which models."""

        def __call__(self, batch):
            from rdlite.batch.predictor import _models

            answers = super().__call__(batch)
            place = [os.getpid(), *map(id, _models.values())]
            return answers.append_column("place", pa.array([place] * len(answers)))

    asked = pq.read_table(given / "b.parquet").to_pylist()
    # In memory: the actors have all the cores, and none is left for a reader.
    answered = ray.data.from_items([*asked, {"id": "none"}], override_num_blocks=10).map_batches(
        Watched,
        fn_constructor_kwargs={"chat": True, "max_tokens": 8, "logprob": True, "threads": 1},
        batch_format="pyarrow",
        batch_size=8,
        num_cpus=1,
        concurrency=2,
    )
    blocks = ray.get(answered.materialize().to_arrow_refs())
    answers = {row.pop("id"): row for row in pa.concat_tables(blocks).to_pylist()}
    assert "needs 'prompt'" in answers.pop("none")["error"]
    wanted = [json.loads(line) for line in expected.splitlines()[251:]]
    assert len(wanted) == ROWS - 250 == len(answers)
    for row in wanted:
        answer = answers[row.pop("id")]
        assert {name: answer[name] for name in row} == row
        assert answer["error"] is None
    places = {tuple(answer["place"]) for answer in answers.values()}
    assert [len(place) for place in places] == [2, 2], "two actors, each with one model"


def test_what_a_node_does_not_have_is_said_in_a_line(cluster, given, bundle, options, tmp_path):
    def answer(cores, scan, start):
        yield from on_ray(scan, start, Load(), options, cluster.address, cores)

    with pytest.raises(RuntimeFailure, match="no node of the cluster has 3 cores"):
        run(Job(given, tmp_path / "out.jsonl", options, bundle), partial(answer, 3))


def test_where_there_is_no_cluster_a_line_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RuntimeFailure, match=f"there is no Ray at '{address}'"):
            list(on_ray(None, 0, Load(), None, address, None))


def test_telemetry_is_off():
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()
    code = (
        "import os; os.environ['RAY_USAGE_STATS_ENABLED'] = '1'; "
        "from rdlite.batch.on_ray import load_ray; load_ray(); "
        "print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
