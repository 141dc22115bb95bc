"""The line and its slots: bounded, cancellable, and honest about how they are."""

import queue
import threading
import time

import pytest

import rdlite
from rdlite import Depth, RuntimeFailure
from rdlite.serve import worker as module
from rdlite.serve.prefix_cache import PrefixCache
from rdlite.serve.worker import BusyError, Job, Worker


@pytest.fixture(scope="module")
def model():
    with rdlite.load() as model:
        yield model


@pytest.fixture
def make(model):
    """Makes a worker, and jobs for it whose tokens are collected."""
    workers = []

    def worker(slots=1, waiting=2):
        workers.append(Worker(slots, waiting, PrefixCache(model, 2**24), lambda stats: None))
        return workers[-1]

    yield worker
    for each in workers:
        each.stop()


def job(model, count=2, deliver=None, prompt=(1, 2, 3), **how):
    items = queue.SimpleQueue()
    plan = model.plan(count, Depth(4), None, 0, (), **how)
    made = Job(list(prompt), plan, (Depth(4), 0), deliver or items.put)
    return made, items


def blocking(model, **how):
    """A job that goes on until it is let go, and the events that say so."""
    started, go = threading.Event(), threading.Event()

    def deliver(item):
        started.set()
        go.wait(30)

    made, _ = job(model, 100, deliver, **how)
    return made, started, go


def collected(items):
    found = []
    while (item := items.get(timeout=30)) is not None:
        found.append(item)
        if isinstance(item, Exception):
            break
    return found


def test_jobs_are_run_in_order(make, model):
    worker = make()
    jobs = [job(model, prompt=(1, 2, number)) for number in range(3)]
    for each, _ in jobs:
        worker.submit(each)
    for each, items in jobs:
        expected = model.generate(each.prompt, 2, Depth(4)).ids
        assert [token.id for token in collected(items)] == expected


def test_a_full_line_takes_no_more_and_a_cancelled_job_leaves_it(make, model):
    worker = make(waiting=2)
    running, started, go = blocking(model)
    worker.submit(running)
    assert started.wait(30)
    waiting = [job(model) for _ in range(2)]
    for each, _ in waiting:
        worker.submit(each)
    with pytest.raises(BusyError, match="2 requests are waiting already") as busy:
        worker.submit(job(model)[0])
    assert 1 <= busy.value.retry_after <= 60
    worker.cancel(waiting[0][0])
    worker.submit(job(model)[0])
    assert worker.check().waiting == 2
    go.set()
    assert len(collected(waiting[1][1])) == 2
    assert waiting[0][1].empty()


def test_who_has_seen_the_end_of_a_job_finds_its_slot_free(make, model):
    worker, seen = make(), queue.SimpleQueue()

    def deliver(item):
        if item is None:
            seen.put(worker.check().busy)

    made, _ = job(model, deliver=deliver)
    worker.submit(made)
    assert seen.get(timeout=30) == 0


def test_a_job_is_cancelled_while_it_runs(make, model):
    worker = make()
    running, started, go = blocking(model)
    worker.submit(running)
    assert started.wait(30)
    worker.cancel(running)
    go.set()
    after, items = job(model)
    worker.submit(after)
    assert len(collected(items)) == 2
    assert running.plan.stats.finish == "cancelled"
    worker.cancel(running)  # has ended; nothing happens
    assert worker.check().problem is None


def test_what_goes_wrong_is_the_jobs_and_not_the_slots(make, model, caplog):
    worker = make()

    class Broken(list):
        def __init__(self, error):
            super().__init__([1, 2, 3])
            self.error = error

        def __iter__(self):
            raise self.error

    for error, kind in ((ZeroDivisionError, ZeroDivisionError), (MemoryError, RuntimeFailure)):
        items = queue.SimpleQueue()
        plan = model.plan(3, Depth(4), None, 0, ())
        worker.submit(Job(Broken(error), plan, (Depth(4), 0), items.put))
        (problem,) = collected(items)
        assert isinstance(problem, kind)
    after, items = job(model)
    worker.submit(after)
    assert len(collected(items)) == 2
    assert worker.check().problem is None


def test_its_end_tells_those_that_wait(make, model):
    worker = make()
    running, started, go = blocking(model)
    worker.submit(running)
    assert started.wait(30)
    waiting, items = job(model)
    worker.submit(waiting)
    worker.hurry()
    (problem,) = collected(items)
    assert isinstance(problem, RuntimeFailure)
    with pytest.raises(RuntimeFailure, match="shutting down"):
        worker.submit(job(model)[0])
    go.set()
    worker.stop()
    assert "died" in worker.check().problem  # the threads have ended


def test_a_slot_that_gets_nowhere_is_a_problem(make, model, monkeypatch):
    worker = make(slots=2)
    running, started, go = blocking(model)
    worker.submit(running)
    assert started.wait(30)
    health = worker.check()
    assert (health.problem, health.slots, health.busy, health.waiting) == (None, 2, 1, 0)
    monkeypatch.setattr(module, "STUCK_S", 0.01)
    time.sleep(0.05)
    assert "has done nothing for 0 s" in worker.check().problem
    go.set()
    worker.cancel(running)
    end = time.monotonic() + 30
    while worker.check().busy and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.check().problem is None


def test_a_job_is_not_stuck_for_what_the_one_before_it_did(make, model, monkeypatch):
    """Health may be asked so seldom that no idle slot is seen in between."""
    worker = make(slots=1)
    for first, patience in ((1, 900.0), (2, 0.01)):
        monkeypatch.setattr(module, "STUCK_S", patience)
        running, started, go = blocking(model, prompt=(first, 2, 3))
        worker.submit(running)
        assert started.wait(30)
        assert worker.check().problem is None
        worker.cancel(running)
        go.set()
        end = time.monotonic() + 30
        while worker._slots[0].job is not None and time.monotonic() < end:
            time.sleep(0.01)


@pytest.mark.parametrize("alone", [False, True])
def test_choices_take_one_place_and_read_their_prompt_once(make, model, alone):
    worker, prompt = make(waiting=0), list(range(1, 100))
    depth = Depth(16, exit="latent-diff")
    chain = []
    for draws in range(3):
        items = queue.SimpleQueue()
        plan = model.plan(4, depth, rdlite.Sampling(30), 0, (), draws=draws)
        made = Job(prompt, plan, (depth, 0), items.put, alone)
        if chain:
            chain[-1][0].then = made
        chain.append((made, items))
    worker.submit(chain[0][0])
    texts = [[token.id for token in collected(items)] for _, items in chain]
    stats = [made.plan.stats for made, _ in chain]
    assert [each.reused_tokens for each in stats] == [0, 98, 98]
    assert [each.new_tokens for each in stats] == [4, 4, 4]
    assert len({tuple(text) for text in texts}) == 3
    worker.submit(job(model)[0])  # the slot is free again


def test_no_choice_follows_one_that_was_cancelled(make, model):
    worker = make()
    first, started, go = blocking(model)
    first.then, items = job(model)
    worker.submit(first)
    assert started.wait(30)
    worker.cancel(first)
    go.set()
    last, ended = job(model)
    worker.submit(last)
    assert len(collected(ended)) == 2
    assert items.empty()


def test_who_cannot_take_an_answer_ends_only_that_one(make, model, caplog):
    worker = make(slots=2)

    def deliver(item):
        raise ValueError("gone")

    lost, _ = job(model, 1000, deliver)
    other, items = job(model, 20)
    worker.submit(lost)
    worker.submit(other)
    expected = model.generate(other.prompt, 20, Depth(4)).ids
    assert [token.id for token in collected(items)] == expected
    following, items = job(model)
    worker.submit(following)
    collected(items)
    assert worker.check().problem is None
    assert lost.plan.stats.finish == "cancelled"
    assert lost.plan.stats.new_tokens < 3
    assert "could not be handed over" in caplog.text


def test_a_refused_cache_ends_only_that_answer(make, model, monkeypatch):
    def refuse(capacity, more):
        if capacity > 256:
            raise RuntimeFailure("no memory for so long a text")

    monkeypatch.setattr("rdlite.engine.sequence.check_growth", refuse)
    worker = make(slots=2)
    long, refused = job(model, prompt=[1] * 300)
    other, items = job(model, 20)
    worker.submit(long)
    worker.submit(other)
    expected = model.generate(other.prompt, 20, Depth(4)).ids
    assert [token.id for token in collected(items)] == expected
    assert isinstance(collected(refused)[-1], RuntimeFailure)
