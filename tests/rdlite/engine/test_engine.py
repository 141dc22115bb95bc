"""What runs per step is bound once and allocates nothing."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import rdlite
from rdlite.config.cache import Cache
from rdlite.engine.sequence import MAX_RUNNERS
from rdlite.ort import kv_cache
from rdlite.ort import runner as runner_module
from rdlite.ort.kv_cache import next_capacity


def slot(sequence, step):
    """The cache that a core step reads and writes."""
    return sequence.steps_cache.slots[sequence.steps_cache.index(step)]


def take(runner, steps):
    for number in range(steps):
        runner.step(number)


@pytest.mark.parametrize("bits", [None, 8])
def test_a_core_step_allocates_nothing(scaled_bundle, bits):
    sequence = rdlite.load(scaled_bundle, cache=Cache(bits=bits)).new_sequence()
    runner = sequence.begin([1] * 64, 8)

    def run():
        for number in range(8):
            runner.step(number)

    kept, taken = [], []
    tracemalloc.start()
    for _ in range(100):  # the interpreter fills its free lists
        run()
    for _ in range(20):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        run()
        after, peak = tracemalloc.get_traced_memory()
        kept.append(after - before)
        taken.append(peak - before)
    tracemalloc.stop()
    # Even what is freed at once would show in the peak: one state of 64 positions is 16 KiB, a
    # dictionary of the bound arrays 500 bytes. Calling a function takes some of its own, and the
    # interpreter may be busy with something else in one pass, but not in all.
    assert min(kept) < 100
    assert min(taken) < 450


def test_bindings_are_made_once_for_each_step_and_size(model):
    sequence = model.new_sequence()
    runner = sequence.begin([1], 4)
    take(runner, 3)
    steps = list(runner.steps)
    assert [step is None for step in steps] == [False, False, False, True]  # never taken
    sequence.commit(1)
    sequence.begin([1, 2, 3], 4)
    sequence.commit(3)
    again = sequence.begin([2], 4)
    assert again is runner
    take(again, 3)
    assert again.steps == steps
    deeper = sequence.begin([2], 6)
    take(deeper, 6)
    assert deeper.steps[:3] == steps[:3]
    assert len(deeper.steps) == 6


def test_lanes_share_the_room_for_states(model):
    sequence = model.new_sequence()
    small, large = sequence.begin([1] * 40, 1), sequence.begin([1] * 64, 1)
    assert all(np.shares_memory(a, b) for a, b in zip(small.states, large.states, strict=True))
    assert np.shares_memory(small.embeds, large.embeds)
    apart = (*large.states, large.embeds)
    for number, array in enumerate(apart):
        assert not any(np.shares_memory(array, other) for other in apart[:number])


def test_the_cache_is_updated_in_place_and_truncation_forgets(model):
    sequence = model.new_sequence()
    runner = sequence.begin([5, 6], 1)
    runner.states[0].fill(0)
    slot(sequence, 0).data.fill(0)
    runner.step(0)
    data = slot(sequence, 0).data
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
    held = sum(slot(sequence, step).data.nbytes for step in range(8))
    held += sum(sequence.outer_slot(part).data.nbytes for part in ("prelude", "coda"))
    assert held == Cache().bytes_per_token(config, 8) * sequence.capacity


def test_shared_slots_are_reused(text_bundle):
    with rdlite.load(text_bundle, cache=Cache(2)) as model:
        sequence = model.new_sequence()
        sequence.begin([1], 5)
        assert slot(sequence, 0) is slot(sequence, 2) is slot(sequence, 4)
        assert slot(sequence, 1) is slot(sequence, 3)
        assert slot(sequence, 0) is not slot(sequence, 1)


def test_lanes_of_many_sizes_are_not_kept_for_ever(model):
    sequence = model.new_sequence()
    one, two = sequence.begin([1], 1), sequence.begin([1] * 2, 1)
    for size in range(3, 3 * MAX_RUNNERS):
        sequence.begin([1] * size, 1)
        assert len(sequence._runners) <= MAX_RUNNERS
        assert sequence.begin([1], 1) is one  # it is used all the time
    assert sequence.begin([1] * 2, 1) is not two


def test_growth_that_fails_for_lack_of_memory_can_be_tried_again(model, monkeypatch):
    sequence = model.new_sequence()
    ids = list(range(60)) * 4

    def read():
        runner = sequence.begin(ids, 3)
        runner.states[0].fill(0)
        for number in range(3):
            runner.step(number)
        return runner.logits(3)

    read()
    sequence.commit(len(ids))
    empty, calls = kv_cache.np.empty, []

    def scarce(shape, dtype):
        calls.append(shape)
        if len(calls) == 2:
            raise MemoryError
        return empty(shape, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(kv_cache.np, "empty", scarce)
        with pytest.raises(rdlite.RuntimeFailure, match=r"no memory for another .* bytes of cache"):
            sequence.begin(ids, 3)
    whole = model.logits(ids + ids, 3, "zeros", chunk=240)
    assert np.abs(read() - whole[-1]).max() <= 1e-5 * np.abs(whole).max()


def test_growing_lets_the_old_caches_go_one_by_one(model):
    sequence = model.new_sequence()
    sequence.begin([1] * 250, 60)
    sequence.commit(250)
    gc.collect()
    tracemalloc.start()
    before = sequence.cache_bytes
    sequence.begin([1] * 10, 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sequence.cache_bytes == 2 * before
    # the new caches, less the old ones freed on the way, plus one slot and the runner's buffers
    assert peak < 2.2 * before


def test_a_sequence_is_freed_without_the_collector(text_bundle):
    gc.disable()
    try:
        with rdlite.load(text_bundle) as model:
            sequence = model.new_sequence()
            sequence.begin([1, 2], 3)
            engine = weakref.ref(sequence.engine)
            held = weakref.ref(sequence)
            del sequence
            assert held() is None
        del model
        assert engine() is None
    finally:
        gc.enable()


def test_a_small_sequence_serves_again_and_a_large_one_does_not(text_bundle, monkeypatch):
    with rdlite.load(text_bundle) as model:
        model.generate("a", 2).close()
        assert model.pool._idle == []  # never started, so nothing was taken
        list(model.generate("a", 2))
        (kept,) = model.pool._idle
        list(model.generate("b", 2))
        assert model.pool._idle == [kept]
        monkeypatch.setattr("rdlite.engine.pool.KEPT_CACHE_BYTES", 0)
        list(model.generate("c", 2))
        assert model.pool._idle == []


def test_threads_are_passed_on(text_bundle, monkeypatch):
    import onnxruntime

    seen = []
    session = onnxruntime.InferenceSession

    def spy(graph, options, **rest):
        seen.append(options.intra_op_num_threads)
        return session(graph, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    rdlite.load(text_bundle, threads=3).close()
    rdlite.load(text_bundle).close()
    # So small that to hand work over takes longer than the work; the fourth takes several steps.
    assert seen == [3, 3, 3, 3, 1, 1, 1, 1]
    monkeypatch.setattr("rdlite.engine.engine.SMALL", 0)
    rdlite.load(text_bundle).close()
    assert seen[8:] == [0, 0, 0]  # onnxruntime counts the cores


def test_one_model_serves_many_threads(model):
    import threading

    texts = ["one", "two", "three", "four"]
    alone = [model.generate(text, 12).ids for text in texts]
    together = [None] * 4

    def run(i):
        together[i] = model.generate(texts[i], 12).ids

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_room_for_logits_has_a_bound_in_bytes(model, monkeypatch):
    ids = list(range(40))
    whole = model.logits(ids, 2, "zeros", chunk=40)
    monkeypatch.setattr(runner_module, "KEPT_LOGIT_BYTES", 4 * 4 * model.config.vocab_size)
    sequence = model.new_sequence()
    runner = sequence.begin(ids, 2)
    runner.states[0].fill(0)
    take(runner, 2)
    for positions in (40, 1, 4, 5, 40):
        for _ in range(2):
            found = runner.logits(2, positions)
            assert np.abs(found - whole[-positions:]).max() <= 1e-5 * np.abs(whole).max()
    assert sequence.logit_rows(1).base.nbytes == 4 * 4 * model.config.vocab_size
