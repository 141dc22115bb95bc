"""Int8 caches: attention over what they hold, slot by slot, and what they cost in exactness."""

import dataclasses
import tracemalloc
from itertools import chain

import numpy as np
import onnx
import pytest
from rdlite.export.safetensors import open_checkpoint

import rdlite
from rdlite import Cache, Depth
from rdlite.bundle.cache_scales import CacheScales, read_cache_scales
from rdlite.config.model import LayerCounts
from rdlite.errors import GraphError
from rdlite.graphs.derived.int8_kv import with_int8_cache
from rdlite.measure.answers import answer, encode_problem, held_out_problems
from rdlite.measure.divergence import divergence
from rdlite.ort.kv_cache import FILL_POSITIONS, HostSlots
from rdlite.ort.step_caches import StepCaches

STEPS = 3


class Reference:
    """Huginn in NumPy, attending to the entries that a model under test has in its cache.

    Its own keys and values are checked against them: an entry times its scale is the number that
    was rounded, to half a scale.
    """

    def __init__(self, checkpoint, config):
        self.checkpoint, self.config = open_checkpoint(checkpoint), config
        self.clipped = 0

    def weight(self, name):
        return self.checkpoint.read(f"transformer.{name}")

    def norm(self, x, name):
        scale = np.sqrt(np.square(x).mean(-1, keepdims=True) + self.config.norm_eps)
        return x / scale * self.weight(f"{name}.weight")

    def rotate(self, x, start):
        """Interleaved rotary on [S, heads, D]."""
        size = x.shape[-1]
        frequencies = self.config.rotary.base ** -(np.arange(0, size, 2) / size)
        angles = np.outer(np.arange(start, start + len(x)), frequencies)[:, None]
        cos, sin = np.cos(angles), np.sin(angles)
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    def attention(self, x, name, start, slot, layer):
        heads, size = self.config.num_attention_heads, self.config.head_dim
        qkv = (x @ self.weight(f"{name}.Wqkv.weight").T).reshape(len(x), 3, heads, size)
        bias = self.weight(f"{name}.qk_bias")[:, 0]
        q, k = (self.rotate(qkv[:, i] + bias[i], start) for i in (0, 1))
        end = start + len(x)
        entries = slot.data[layer, :, 0, :, :end].astype(np.float64)  # [2, K, end, D]
        scales = slot.scales[layer, :, 0]
        for kind, own in enumerate((k, qkv[:, 2])):
            exact = own.transpose(1, 0, 2) / scales[kind]
            written = entries[kind, :, start:]
            assert (np.abs(np.clip(exact, -128, 127) - written) <= 0.51).all()
            self.clipped += (np.abs(exact) > 128).sum()
        keys, values = entries * scales
        scores = np.einsum("shd,hpd->hsp", q, keys) / np.sqrt(size)
        scores[:, np.arange(end) > np.arange(start, end)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hsp,hpd->shd", weights, values).reshape(len(x), -1)
        return out @ self.weight(f"{name}.proj.weight").T

    def blocks(self, x, part, start, slot):
        for layer in range(slot.data.shape[0]):
            name = f"{part}.{layer}"
            y = self.attention(self.norm(x, f"{name}.norm_1"), f"{name}.attn", start, slot, layer)
            x = self.norm(x + y, f"{name}.norm_2")
            fc = self.norm(x, f"{name}.norm_3") @ self.weight(f"{name}.mlp.fc.weight").T
            gate, up = np.split(fc, 2, axis=-1)
            y = (gate / (1 + np.exp(-gate)) * up) @ self.weight(f"{name}.mlp.proj.weight").T
            x = self.norm(x + y, f"{name}.norm_4")
        return x

    def prelude(self, ids, start, slot):
        x = self.weight("wte.weight")[ids] * self.config.embedding_scale
        return self.blocks(x, "prelude", start, slot)

    def core(self, state, embeds, start, slot):
        x = np.concatenate([state, embeds], -1) @ self.weight("adapter.weight").T
        return self.blocks(x, "core_block", start, slot)

    def coda(self, state, start, slot):
        x = self.norm(self.blocks(self.norm(state, "ln_f"), "coda", start, slot), "ln_f")
        return x @ self.weight("wte.weight").T


def agree(ours, theirs):
    return np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def spread(scales, seed=0):
    """The same scales, each up to half or twice as large, so that no two slots agree."""
    rng = np.random.default_rng(seed)

    def change(array):
        return (array * 2 ** rng.uniform(-1, 1, array.shape)).astype(np.float32)

    return CacheScales(change(scales.prelude), change(scales.core), change(scales.coda))


@pytest.mark.parametrize("share", [None, 1, 2])
def test_attention_is_that_over_the_entries_of_each_slot(
    scaled_bundle, text_checkpoint, share, monkeypatch
):
    monkeypatch.setattr(
        "rdlite.engine.engine.read_cache_scales",
        lambda bundle: spread(read_cache_scales(bundle)),
    )
    with rdlite.load(scaled_bundle, cache=Cache(share, 8)) as model:
        reference = Reference(text_checkpoint, model.config)
        sequence = model.new_sequence()
        caches = sequence.steps_cache
        rng = np.random.default_rng(1)
        for size in (10, 1, 1, 5, 1):  # a prompt, single tokens, several with a past
            ids = rng.integers(0, 256, size).tolist()
            start = sequence.length
            runner = sequence.begin(ids, STEPS)
            embeds = reference.prelude(ids, start, sequence.outer_slot("prelude"))
            assert agree(runner.embeds[0], embeds)
            runner.states[0].fill(0.1)
            for step in range(STEPS):
                before = runner.states[step % 2][0].copy()
                runner.step(step)
                slot = caches.slots[caches.index(step)]
                assert slot.data.dtype == np.int8
                expected = reference.core(before, runner.embeds[0], start, slot)
                assert agree(runner.states[(step + 1) % 2][0], expected)
            state = runner.states[STEPS % 2][0].copy()
            logits = runner.logits(STEPS, size)
            assert agree(logits, reference.coda(state, start, sequence.outer_slot("coda")))
            sequence.commit(size)
        slots = [slot.scales for slot in caches.slots]
        assert len(slots) == (share or STEPS)
        assert all(not np.array_equal(slots[0], other) for other in slots[1:])
        assert reference.clipped  # some scales are too small, and the reference clips as well


def test_cutting_a_text_changes_next_to_nothing(scaled_bundle):
    """New entries are rounded before anything attends to them."""
    with rdlite.load(scaled_bundle, cache=Cache(bits=8)) as model:
        ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
        whole = model.logits(ids, 4)
        # A number that lies between two entries may fall to either side.
        for chunk in (1, 7):
            assert np.abs(model.logits(ids, 4, chunk=chunk) - whole).max() < 0.01 * whole.max()


class _Slots(StepCaches):
    """Two int8 slots of 2 layers, 3 heads, 16 channels, 40 positions, with given scales."""

    def __init__(self, model, first, second):
        config = dataclasses.replace(
            model.config,
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=16,
            layers=LayerCounts(0, 2, 0),
        )
        none = np.zeros((0, 2, 1, 3, 1, 16), np.float32)
        scales = CacheScales(none, np.stack([first, second]), none)
        super().__init__(config, Cache(bits=8), scales, HostSlots(config))
        self.provide(2, 40)


def test_what_a_deeper_step_sees_of_those_that_left_is_rescaled(model):
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.01, 0.02, (2, 2, 2, 1, 3, 1, 16)).astype(np.float32)
    caches = _Slots(model, first, second)
    source, target = caches.slots
    source.data[...] = rng.integers(-128, 128, source.data.shape)
    target.data.fill(99)
    length = 2 * FILL_POSITIONS + 3
    caches.backfill(1, 2, 2 + 1)  # as if the step was taken there
    target.data.fill(99)
    caches.backfill(1, length, length + 1)
    meant = source.data * first / second
    filled = slice(3, length)
    assert np.abs(np.clip(meant, -128, 127) - target.data)[..., filled, :].max() <= 0.5 + 1e-4
    assert (np.abs(meant) > 128).any()  # so clipping was needed
    assert (target.data[..., :3, :] == 99).all()
    assert (target.data[..., length:, :] == 99).all()
    same = _Slots(model, first, first)
    same.slots[0].data[...] = source.data
    same.backfill(1, 40, 40)
    assert np.array_equal(same.slots[1].data, source.data)


def test_rescaling_takes_no_memory_to_speak_of(scaled_bundle):
    with rdlite.load(scaled_bundle, cache=Cache(bits=8)) as model:
        sequence = model.new_sequence()
        runner = sequence.begin([1] * 250, 4)
        runner.states[0].fill(0.1)
        runner.step(0)
        sequence.commit(250)
        runner = sequence.begin([1], 4)
        runner.step(0)
        runner.step(1)
        slot = sequence.steps_cache.slots[2].data
        slot.fill(0)
        tracemalloc.start()
        runner.step(2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert slot[..., 100:250, :].any()
        assert peak < 40_000  # a buffer of NumPy's own; the entries are 64,000 as int8


def test_graphs_take_scales_and_int8_entries(model):
    graph = onnx.ModelProto.FromString(with_int8_cache(model.bundle.graphs["core"])).graph
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    float_names = {
        value.name for value in onnx.ModelProto.FromString(model.bundle.graphs["core"]).graph.input
    }
    scales = {f"cache_scale.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")}
    assert set(inputs) == float_names | scales
    for name, tensor in inputs.items():
        if name.startswith("past_key_values"):
            assert tensor.elem_type == onnx.TensorProto.INT8
        if name in scales:
            assert [dim.dim_value for dim in tensor.shape.dim] == [1, 4, 1, 16]
    assert with_int8_cache(model.bundle.graphs["core"]) == with_int8_cache(
        model.bundle.graphs["core"]
    )


def test_a_graph_cannot_have_a_value_of_that_name(model):
    proto = onnx.ModelProto.FromString(model.bundle.graphs["core"])
    proto.graph.node[0].output[0] = "cache_scale.1.value"
    with pytest.raises(GraphError, match=r"cache_scale\.1\.value is the name of an input"):
        with_int8_cache(proto.SerializeToString())


def test_a_node_may_end_in_inputs_that_are_left_out(model):
    proto = onnx.ModelProto.FromString(model.bundle.graphs["core"])
    expected = with_int8_cache(proto.SerializeToString())
    for node in proto.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.input.extend([""] * 7)
    changed = onnx.ModelProto.FromString(with_int8_cache(proto.SerializeToString()))
    for ours, theirs in zip(
        changed.graph.node, onnx.ModelProto.FromString(expected).graph.node, strict=True
    ):
        assert ours.input == theirs.input


@pytest.fixture(scope="module")
def nano8():
    with rdlite.load("nano", threads=1, cache=Cache(bits=8)) as model:
        yield model


@pytest.fixture(scope="module")
def problems():
    return held_out_problems(1, seed=21)


@pytest.mark.parametrize("share", [None, 1])
def test_nano_is_as_good_with_it(nano, problems, share):
    texts = [list(chain(*encode_problem(nano, problem))) for problem in problems]
    with rdlite.load("nano", threads=1, cache=Cache(share, 8)) as model:
        for found in divergence(model, nano, texts[::3], (16, 32)):
            assert found.mean < 6e-3
            assert found.median < 1e-4
            assert found.same_top > 0.98
        exact = answer(nano, problems, (16, 32)).right
        assert (answer(model, problems, (16, 32)).right != exact).sum() <= 2


def replies(model, problems, depth, **options):
    return [
        model.generate(encode_problem(model, problem)[0], 24, depth, **options).text
        for problem in problems
    ]


@pytest.mark.parametrize("share", [None, 1])
@pytest.mark.parametrize("depth", [Depth(16), Depth(32, exit="latent-diff")])
def test_nano_says_the_same_with_it(nano, problems, depth, share):
    """At a fixed depth, and where tokens that left early stand in at deeper steps."""
    some = problems[::2]
    exact = replies(nano, some, depth)
    with rdlite.load("nano", threads=1, cache=Cache(share, 8)) as model:
        ours = replies(model, some, depth)
    assert sum(a != b for a, b in zip(ours, exact, strict=True)) <= 1


def test_speculation_gives_what_plain_decoding_gives(nano8, problems):
    for depth in (Depth(12), Depth(16, exit="latent-diff", threshold=0.05)):
        for number, problem in enumerate(problems[::5]):
            ids = encode_problem(nano8, problem)[0]
            plain = nano8.generate(ids, 16, depth, seed=number)
            fast = nano8.generate(ids, 16, depth, seed=number, speculate=(4, 6))
            assert [(t.id, t.steps) for t in fast] == [(t.id, t.steps) for t in plain]


def test_huginn_with_one_shared_slot_keeps_4096_tokens_in_400_megabytes(model):
    config = dataclasses.replace(
        model.config,
        hidden_size=5280,
        num_attention_heads=55,
        num_key_value_heads=55,
        head_dim=96,
        context_length=4096,
        layers=LayerCounts(2, 4, 2),
    )
    assert 4096 * Cache(share=1, bits=8).bytes_per_token(config, 32) < 400e6
    assert Cache(bits=8).bytes_per_token(config, 32) * 4 == Cache().bytes_per_token(config, 32)


def test_the_memory_is_what_bytes_per_token_says(scaled_bundle):
    cache = Cache(2, 8)
    with rdlite.load(scaled_bundle, cache=cache) as model:
        sequence = model.new_sequence()
        sequence.begin([1], 4)
        assert sequence.cache_bytes == cache.bytes_per_token(model.config, 4) * sequence.capacity
