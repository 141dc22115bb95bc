"""Whose turn it is: rows and calls of single texts, without a model."""

import pytest

from rdlite.engine.row_queue import PATIENCE, RowQueue
from rdlite.ort.text import Ask, Desk


class Runner:
    def __init__(self, size):
        self.size = size


def ask(part="core", size=1):
    return Ask(Runner(size), part, 0)


def rows_of(pieces):
    return [(ask.part, low, high) for ask, low, high in pieces]


def test_nothing_waits_at_first():
    assert RowQueue(4).take() is None


def test_rows_and_chunks_take_turns():
    queue, desks = RowQueue(4), [Desk(), Desk(), Desk()]
    for desk in desks:
        queue.wait(desk)
    asks = [ask(), ask()]
    for each in asks:
        queue.ask(each)
    assert queue.take() is desks[0]
    assert [piece[0] for piece in queue.take()] == asks  # one chunk later, both in one call
    assert queue.take() is desks[1]
    queue.ask(ask())
    assert isinstance(queue.take(), list)
    assert queue.take() is desks[2]
    assert queue.take() is None


def test_chunks_first_until_rows_fill_a_call():
    queue, desks = RowQueue(2, chunks_first=True), [Desk(), Desk(), Desk()]
    for desk in desks:
        queue.wait(desk)
    queue.ask(ask())
    assert queue.take() is desks[0]
    queue.ask(ask())
    assert len(queue.take()) == 2
    queue.ask(ask())
    assert [queue.take(), queue.take()] == desks[1:]
    assert len(queue.take()) == 1
    assert queue.take() is None


def test_what_is_larger_than_a_call_is_cut_and_shares_its_last_one():
    queue = RowQueue(4)
    queue.ask(ask(size=6))
    queue.ask(ask(size=3))
    assert rows_of(queue.take()) == [("core", 0, 4)]
    assert rows_of(queue.take()) == [("core", 4, 6), ("core", 0, 2)]
    assert rows_of(queue.take()) == [("core", 2, 3)]


@pytest.mark.parametrize("part", ["prelude", "coda"])
def test_a_part_that_others_go_before_waits_for_so_many_calls_at_most(part):
    queue = RowQueue(4)
    queue.ask(ask(part))
    for _ in range(PATIENCE[part]):
        for _ in range(4):
            queue.ask(ask())
        assert rows_of(queue.take())[0][0] == "core"
    for _ in range(4):
        queue.ask(ask())
    assert rows_of(queue.take()) == [(part, 0, 1)]


def test_who_leaves_is_not_waited_for():
    queue, desk, gone = RowQueue(4), Desk(), ask()
    queue.wait(desk)
    queue.ask(gone)
    queue.remove(desk, gone)
    assert queue.take() is None
    queue.remove(desk, gone)  # twice is once
