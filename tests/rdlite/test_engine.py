"""What runs per step is bound in advance and allocates nothing."""

import gc
import sys

import rdlite
from rdlite.cache import Cache, next_capacity


def test_a_core_step_allocates_nothing(model):
    sequence = model.new_sequence()
    lane = sequence.begin([1], 8)

    def run():
        for step in lane.steps:
            step()

    for _ in range(20):
        run()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        run()
    # 800 steps; what the interpreter itself keeps or frees meanwhile is a few blocks
    assert sys.getallocatedblocks() - before < 100


def test_bindings_are_made_once_for_each_step_and_size(model):
    sequence = model.new_sequence()
    lane = sequence.begin([1], 4)
    steps = list(lane.steps)
    sequence.commit(1)
    sequence.begin([1, 2, 3], 4)
    sequence.commit(3)
    again = sequence.begin([2], 4)
    assert again is lane
    assert all(a is b for a, b in zip(again.steps, steps, strict=True))
    deeper = sequence.begin([2], 6)
    assert deeper.steps[:4] == steps
    assert len(deeper.steps) == 6


def test_the_cache_is_updated_in_place_and_truncation_forgets(model):
    sequence = model.new_sequence()
    lane = sequence.begin([5, 6], 1)
    lane.states[0].fill(0)
    sequence.core_slot(0).data.fill(0)
    lane.steps[0]()
    data = sequence.core_slot(0).data
    assert data[..., :2, :].any()
    assert not data[..., 2:, :].any()
    sequence.commit(2)
    sequence.truncate(1)
    assert sequence.length == 1
    sequence.truncate(4)
    assert sequence.length == 1


def test_capacity_doubles_up_to_the_context():
    assert next_capacity(0, 1, 4096) == 256
    assert next_capacity(256, 257, 4096) == 512
    assert next_capacity(256, 3000, 3500) == 3500
    assert next_capacity(0, 5, 12) == 12


def test_slots_and_memory_of_the_policies(model):
    config = model.config
    assert [Cache(share).slots(8) for share in (None, 1, 4, 16)] == [8, 1, 4, 8]
    layer = 4 * 2 * 4 * 16  # float32, key and value, 4 heads, 16 wide
    assert Cache().bytes_per_token(config, 8) == layer * (1 + 2 * 8 + 1)
    assert Cache(1).bytes_per_token(config, 8) == layer * (1 + 2 + 1)
    sequence = model.new_sequence()
    sequence.begin([1], 8)
    held = sum(sequence.core_slot(step).data.nbytes for step in range(8))
    held += sum(sequence.outer_slot(part).data.nbytes for part in ("prelude", "coda"))
    assert held == Cache().bytes_per_token(config, 8) * sequence.capacity


def test_shared_slots_are_reused(text_bundle):
    with rdlite.load(text_bundle, cache=Cache(2)) as model:
        sequence = model.new_sequence()
        sequence.begin([1], 5)
        assert sequence.core_slot(0) is sequence.core_slot(2) is sequence.core_slot(4)
        assert sequence.core_slot(1) is sequence.core_slot(3)
        assert sequence.core_slot(0) is not sequence.core_slot(1)
