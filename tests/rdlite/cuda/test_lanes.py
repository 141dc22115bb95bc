"""Many texts at once on a device: each says what it says alone, whoever is beside it."""

import contextlib
import gc
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from host_device import QUESTIONS, host_device, on_device
from rdlite.quant import quantize_bundle
from rdlite.quant.options import Options
from rdlite.quant.schemes import find_scheme

from rdlite import Cache, Depth, RuntimeFailure
from rdlite.api.together import Together
from rdlite.cuda.lanes import PACKED_WIDTH, WIDTH
from rdlite.decode.loop import generate_tokens
from rdlite.decode.prompt_cache import CachedPrompt
from rdlite.loader import open_bundle
from rdlite.measure.answers import held_out_problems
from rdlite.measure.tasks import TASKS

#: What a plan needs to be told.
PLAIN = {"sampling": None, "seed": 0, "stop": ()}
PROBLEMS = [problem.question for problem in held_out_problems(4, 5, TASKS)[::9]]


def prompts(model, count):
    asked = [[{"role": "user", "content": text}] for text in (QUESTIONS * 4 + PROBLEMS)[:count]]
    return [model.encode_chat(each) for each in asked]


def together(model, texts, at_once=8, **options):
    found = [[] for _ in texts]
    for index, token in model.generate_many(texts, at_once, max_tokens=12, **options):
        found[index].append((token.id, token.steps))
    return found


def alone(model, texts, **options):
    return [
        [(token.id, token.steps) for token in model.generate(ids, 12, **options)] for ids in texts
    ]


@pytest.fixture(scope="module")
def device():
    return host_device(graphs=True)


@pytest.fixture(scope="module")
def model(full_nano, device):
    with on_device(full_nano, device=device) as model:
        yield model


def lanes_of(model):
    return model.pool.check_open().rows


@pytest.mark.parametrize(
    "depth",
    [
        Depth(8),
        Depth(24, exit="latent-diff", threshold=0.05),
        Depth(24, exit="kl", threshold=0.01, check_every=2),
        Depth(16, exit="acceleration", prompt="each"),
    ],
    ids=str,
)
def test_each_text_says_what_it_says_alone(model, depth):
    texts = prompts(model, 11)  # more than there are lanes
    assert together(model, texts, depth=depth) == alone(model, texts, depth=depth)
    assert sorted(lanes_of(model)._free) == [*range(WIDTH)]


def test_texts_of_several_depths_share_calls(model):
    texts = prompts(model, 6)
    depths = [Depth(4), Depth(9), Depth(30), Depth(24, exit="kl"), Depth(2), Depth(9)]
    asked = [{"prompt": ids, "depth": depth} for ids, depth in zip(texts, depths, strict=True)]
    expected = [
        alone(model, [ids], depth=depth)[0] for ids, depth in zip(texts, depths, strict=True)
    ]
    assert together(model, asked) == expected


def test_a_call_takes_all_lanes(model):
    engine, rows = model.pool.check_open(), []
    real = engine.rows.run_pieces
    engine.rows.run_pieces = lambda pieces, *on: (rows.append(len(pieces)), real(pieces))[1]
    try:
        together(model, prompts(model, WIDTH), WIDTH, depth=Depth(8))
    finally:
        del engine.rows.run_pieces
    # The first token comes of the prompt; after it nobody waits for company.
    assert sum(rows) / len(rows) > 0.6 * WIDTH


@pytest.mark.parametrize("cache", [Cache(1), Cache(3), Cache("last")], ids=str)
def test_every_cache(full_nano, cache):
    with on_device(full_nano, cache=cache) as model:
        texts = prompts(model, 5)
        depth = Depth(12, exit="latent-diff")
        assert together(model, texts, depth=depth) == alone(model, texts, depth=depth)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_float16_copies_say_what_packed_weights_say(full_nano, scheme, tmp_path, monkeypatch):
    wide = find_scheme(scheme, Options(block_size=256))  # wider than GPUs have kernels for
    bundle = quantize_bundle(full_nano, tmp_path / scheme, wide)
    assert open_bundle(bundle).manifest.quantization.block_of("core.adapter.weight") == 256
    with on_device(bundle) as packed:
        assert lanes_of(packed).width == PACKED_WIDTH
        texts = prompts(packed, 5)
        expected = packed.logits(texts[1], 4)
        answers = together(packed, texts, depth=Depth(8))
    monkeypatch.setattr("rdlite.cuda.dense.LEAST", 1)
    with on_device(bundle) as dense:
        assert "dense.core" in dense.pool.check_open().sessions
        assert lanes_of(dense).width == WIDTH
        assert np.abs(dense.logits(texts[1], 4) - expected).max() < 0.02 * np.abs(expected).max()
        assert together(dense, texts, depth=Depth(8)) == answers


def test_drafts_beside_other_texts(model):
    texts = prompts(model, 5)
    asked = [{"prompt": texts[0], "speculate": (3, 4)}, *texts[1:]]
    assert together(model, asked, depth=Depth(16)) == alone(model, texts, depth=Depth(16))


@pytest.mark.host_memory
def test_calls_are_captured_once_for_all_texts(model, device):
    texts = prompts(model, WIDTH)
    together(model, texts, depth=Depth(8))
    before = device.memory.captured
    together(model, texts[::-1], depth=Depth(8))
    # Prompts and what a text does when it is the last one are its own.
    assert device.memory.captured - before < 3 * 10


@pytest.mark.host_memory
def test_a_position_beside_others_says_its_length_with_theirs(model, device, monkeypatch):
    sizes, upload = [], device.memory.upload

    def counted(address, array):
        sizes.append(array.nbytes)
        upload(address, array)

    with contextlib.closing(model.generate_many(prompts(model, 2), 2, depth=Depth(4))) as many:
        begun = [next(many) for _ in range(2)]  # both prompts are read
        monkeypatch.setattr(device.memory, "upload", counted)
        both = {index for index, _ in [*begun, *(next(many) for _ in range(2))]}
    assert both == {0, 1}
    own, all_lanes = (np.dtype(np.int32).itemsize * count for count in (1, lanes_of(model).width))
    assert own not in sizes
    assert all_lanes in sizes


def test_a_text_that_ends_early_leaves_others_as_they_were(model):
    texts = prompts(model, 4)
    expected = alone(model, texts, depth=Depth(8))
    many = model.generate_many(texts, 4, max_tokens=12, depth=Depth(8))
    index, token = next(many)
    many.close()
    assert (token.id, token.steps) == expected[index][0]
    assert sorted(lanes_of(model)._free) == [*range(WIDTH)]
    assert together(model, texts, depth=Depth(8)) == expected


@pytest.mark.host_memory
def test_without_memory_for_lanes_texts_take_turns(full_nano):
    device = host_device()
    with on_device(full_nano, device=device) as model:
        lanes = lanes_of(model)
        assert lanes.width == WIDTH
    device.memory.most = sum(len(block) for block in device.memory.blocks.values()) + 2**20
    with on_device(full_nano, device=device) as model:
        assert lanes_of(model).width == 1
        device.memory.most = 2**40
        texts = prompts(model, 3)
        assert together(model, texts, depth=Depth(4)) == alone(model, texts, depth=Depth(4))


@pytest.mark.host_memory
def test_memory_of_lanes_is_given_back(full_nano):
    device = host_device()
    with on_device(full_nano, device=device) as model:
        together(model, prompts(model, 3), depth=Depth(4))
    del model
    gc.collect()
    assert device.memory.blocks == {}


@pytest.mark.host_memory
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_texts_that_have_not_begun_keep_no_lane(model, turns):
    engine = model.pool.check_open()
    together = Together(engine)
    for number, ids in enumerate(prompts(model, 3)):
        plan, sequence = model.plan(max_tokens=4, depth=Depth(4), **PLAIN), model.new_sequence()
        together.add(number, sequence, generate_tokens(sequence, ids, plan))
    for _ in range(turns):
        together.turn()
    together.close()
    assert sorted(engine.rows._free) == [*range(WIDTH)]


def test_two_companies_at_once(model):
    """The lanes are the first one's; texts of the other take turns."""
    texts = prompts(model, 8)
    expected = alone(model, texts, depth=Depth(8))
    found, had_lanes = [[] for _ in texts], []
    sides = [
        model.generate_many(part, 4, max_tokens=12, depth=Depth(8))
        for part in (texts[:4], texts[4:])
    ]
    for pair in itertools.zip_longest(*sides):
        for first, event in zip((0, 4), pair, strict=True):
            if event is not None:
                found[first + event[0]].append((event[1].id, event[1].steps))
        had_lanes.append(WIDTH - len(lanes_of(model)._free))
    assert found == expected
    assert max(had_lanes) == 4
    assert lanes_of(model)._company is None


def test_companies_in_several_threads(model):
    texts = prompts(model, 12)
    expected = alone(model, texts, depth=Depth(8))
    barrier = threading.Barrier(4)

    def run(part):
        barrier.wait(60)
        return together(model, part, at_once=4, depth=Depth(8))

    def chat(part):
        barrier.wait(60)
        return alone(model, part, depth=Depth(8))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run, texts[first : first + 4]) for first in (0, 4, 8)]
        beside = pool.submit(chat, texts[:4])
        assert [each for one in running for each in one.result()] == expected
        assert beside.result() == expected[:4]
    assert sorted(lanes_of(model)._free) == [*range(WIDTH)]


@pytest.mark.host_memory
def test_a_lane_that_cannot_be_made_is_gone_without(full_nano, monkeypatch):
    device = host_device()
    with on_device(full_nano, device=device) as model:
        real = device.memory.allocate

        def allocate(size):
            if size == WIDTH * model.config.vocab_size * 4:  # logits of all lanes
                raise RuntimeFailure("there is no memory")
            return real(size)

        monkeypatch.setattr(device.memory, "allocate", allocate)
        texts = prompts(model, 3)
        assert together(model, texts, depth=Depth(4)) == alone(model, texts, depth=Depth(4))
        assert sorted(lanes_of(model)._free) == [*range(WIDTH)]


@pytest.mark.host_memory
def test_caches_of_texts_that_have_ended_wait_for_no_collector(full_nano):
    """They are gigabytes, and nothing tells Python's collector so."""
    device = host_device(graphs=True)
    model = on_device(full_nano, device=device)
    texts, taken = prompts(model, 3), []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            together(model, texts, depth=Depth(4))
            taken.append(len(device.memory.blocks))
        model.close()
        del model
        assert device.memory.blocks == {}
    finally:
        gc.enable()
    assert taken == taken[:1] * 3


@pytest.mark.host_memory
def test_what_there_was_no_memory_to_keep_is_read_again(full_nano):
    device = host_device()
    with on_device(full_nano, device=device) as model:
        texts = prompts(model, 2)
        company, how = Together(model.pool.check_open()), (Depth(4), 0)
        kept = [CachedPrompt(model.new_sequence()) for _ in texts]
        for each, ids in zip(kept, texts, strict=True):
            plan = model.plan(max_tokens=6, min_tokens=6, depth=Depth(4), **PLAIN)
            company.add(each, each.sequence, each.generate(ids, plan, how))
        while not all(
            each.sequence.length > len(ids) for each, ids in zip(kept, texts, strict=True)
        ):
            company.turn()
        device.memory.most = 0
        while len(company):
            assert not any(isinstance(event, Exception) for _, event in company.turn())
        device.memory.most = 2**40
        first, ids = kept[0], texts[0]
        assert first.tokens
        assert first.common([*ids, 1], how) == first.sequence.length == 0
        plan = model.plan(max_tokens=6, depth=Depth(4), **PLAIN)
        again = [(token.id, token.steps) for token in first.generate(ids, plan, how)]
        assert again == alone(model, [ids], depth=Depth(4))[0][:6]
