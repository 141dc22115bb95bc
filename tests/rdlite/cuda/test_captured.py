"""Calls that are captured and replayed: what ends one, or cannot be captured, spoils no other."""

import gc

import pytest
from host_device import QUESTIONS, HostMemory, on_device

from rdlite import Depth, RuntimeFailure
from rdlite.cuda.arrays import Captured, Device
from rdlite.errors import Interrupted
from rdlite.ort.session import Interrupt, Provider

pytestmark = pytest.mark.host_memory


class Recorder(HostMemory):
    """Makes the call as a real capture does, and fails if it is told to."""

    problem = None

    def capture(self, call):
        call()
        if self.problem is not None:
            raise self.problem
        self.captured += 1
        return lambda: None


class Call:
    """Counts, and fails if it is told to."""

    problem = None
    made = 0

    def __call__(self):
        self.made += 1
        if self.problem is not None:
            raise self.problem


def captured(graphs=None):
    device = Device("host", Recorder(), Provider(), graphs)
    call, interrupt = Call(), Interrupt()
    return device, call, interrupt, Captured(device, call, interrupt)


def test_the_second_call_is_captured_and_replayed_from_then_on():
    device, call, interrupt, run = captured()
    run()
    assert (call.made, device.memory.captured) == (1, 0)
    for _ in range(3):
        run()
    assert (call.made, device.memory.captured) == (2, 1)
    interrupt.set()
    with pytest.raises(Interrupted):
        run()
    interrupt.clear()
    run()
    assert call.made == 2


@pytest.mark.parametrize("problem", [Interrupted(), RuntimeFailure("no memory")])
def test_a_call_that_did_not_come_to_its_end_is_not_captured_next(problem):
    """It may not have all memory that it needs, and a capture must not ask for more."""
    device, call, _, run = captured()
    call.problem = problem
    with pytest.raises(type(problem)):
        run()
    call.problem = None
    run()
    assert device.memory.captured == 0
    run()
    assert device.memory.captured == 1


def test_a_capture_that_is_interrupted_is_made_the_next_time():
    device, call, _, run = captured()
    run()
    call.problem = Interrupted()
    with pytest.raises(Interrupted):
        run()
    assert device.graphs is None
    call.problem = None
    run()
    assert device.memory.captured == 1


def test_where_nothing_can_be_captured_calls_are_made():
    device, call, _, run = captured()
    device.memory.problem = RuntimeFailure("not here")
    run()
    run()
    assert (call.made, device.graphs) == (3, False)  # the second in the capture, and again
    run()
    assert (call.made, device.memory.captured) == (4, 0)


def test_graphs_that_must_be_captured_are_an_error_where_they_cannot_be():
    device, _, _, run = captured(graphs=True)
    device.memory.problem = RuntimeFailure("not here")
    run()
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="not here"):
            run()


class Refusing(HostMemory):
    def capture(self, call):
        raise RuntimeFailure("not here")


@pytest.mark.parametrize("several", [False, True])
def test_a_model_says_the_same_without(full_nano, several):
    def say(memory, graphs=None):
        with on_device(full_nano, device=Device("host", memory, Provider(), graphs)) as model:
            texts = [model.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
            if not several:
                return [model.generate(ids, 6, Depth(4)).ids for ids in texts]
            found = [[] for _ in texts]
            for index, token in model.generate_many(texts, max_tokens=6, depth=Depth(4)):
                found[index].append(token.id)
            return found

    assert say(Refusing()) == say(HostMemory())
    memory = Refusing()
    with pytest.raises(RuntimeFailure, match="not here"):
        say(memory, graphs=True)
    gc.collect()  # what the error led to
    assert memory.blocks == {}
