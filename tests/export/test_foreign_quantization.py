"""Checkpoints that other tools quantized: read to the bit, or refused by the tool's name."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoints import make_checkpoint
from rdlite.export import export_checkpoint
from rdlite.export.foreign_quantization import decoded
from rdlite.export.safetensors import open_checkpoint
from safetensors.numpy import load_file, save_file

from rdlite import CheckpointError

NAME = "model.layers.0.mlp.down_proj.weight"
BASE = NAME.removesuffix(".weight")


def quantized(folder, config, tensors, drop=(NAME,), card=None):
    """The tiny Ouro with some tensors in place of others."""
    files = {} if card is None else {"README.md": card}
    checkpoint = make_checkpoint(folder / "in", "ouro-tiny", config=config, files=files)
    file = checkpoint / "model.safetensors"
    kept = {name: array for name, array in load_file(file).items() if name not in drop}
    save_file(kept | tensors, file)
    return checkpoint


def read(checkpoint):
    opened = decoded(open_checkpoint(checkpoint))
    return opened.read(NAME)


@pytest.fixture
def weight():
    from checkpoints import DATA

    return load_file(DATA / "ouro-tiny" / "model.safetensors")[NAME]


def pack(numbers, bits):
    """The stream of bits that mlx writes for each row: of each number the lowest first."""
    spread = (numbers[..., None] >> np.arange(bits)) & 1
    stream = spread.reshape(len(numbers), -1).astype(np.uint8)
    return np.packbits(stream, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_mlx_groups_are_read_to_the_bit(tmp_path, weight, bits, dtype):
    group, rng = 32, np.random.default_rng(bits)
    rows, columns = weight.shape
    numbers = rng.integers(0, 2**bits, weight.shape)
    scales = rng.normal(size=(rows, columns // group)).astype(dtype)
    biases = rng.normal(size=scales.shape).astype(dtype)
    said = {"group_size": group, "bits": bits, "mode": "affine"}
    tensors = {NAME: pack(numbers, bits), f"{BASE}.scales": scales, f"{BASE}.biases": biases}
    checkpoint = quantized(tmp_path, {"quantization": said, "quantization_config": said}, tensors)
    wide = [np.repeat(x.astype(np.float32), group, axis=1) for x in (scales, biases)]
    assert np.array_equal(read(checkpoint), numbers.astype(np.float32) * wide[0] + wide[1])
    assert export_checkpoint(checkpoint, tmp_path / "out")


def test_mlx_says_of_single_layers_how_they_are_packed(tmp_path, weight):
    numbers = np.arange(weight.size).reshape(weight.shape) % 256
    ones = np.ones((len(weight), weight.shape[1] // 32), np.float32)
    said = {"group_size": 64, "bits": 4, BASE: {"group_size": 32, "bits": 8}}
    tensors = {NAME: pack(numbers, 8), f"{BASE}.scales": ones, f"{BASE}.biases": 0 * ones}
    assert np.array_equal(read(quantized(tmp_path, {"quantization": said}, tensors)), numbers)


def test_mlx_packed_otherwise_than_the_config_says_is_refused(tmp_path, weight):
    ones = np.ones((len(weight), weight.shape[1] // 32), np.float32)
    packed = pack(np.zeros(weight.shape, int), 8)
    tensors = {NAME: packed, f"{BASE}.scales": ones, f"{BASE}.biases": ones}
    for said, message in (
        ({"group_size": 64, "bits": 8}, "which are not of 8 bits in groups of 64"),
        ({"group_size": 32, "bits": 4}, "which are not of 4 bits in groups of 32"),
        ({"group_size": 32, "bits": 7}, "7 bits in groups of 32; mlx writes 2, 3, 4, 5, 6, 8"),
        ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, "quantized by mlx .*mxfp8.* not read"),
    ):
        folder = tmp_path / str(said["bits"] * said["group_size"] + len(said))
        folder.mkdir()
        with pytest.raises(CheckpointError, match=message):
            read(quantized(folder, {"quantization": said}, tensors))


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 24]}


@pytest.mark.parametrize(
    ("said", "end", "dtype", "shape"),
    [
        (FP8, "_scale_inv", ml_dtypes.float8_e4m3fn, "blocks"),  # DeepSeek, kekzl/imp#1424 (2026)
        (FP8, "_scale_inv", ml_dtypes.float8_e5m2, "blocks"),
        # youssofal/MTPLX#474 (2026): one scale for all of it
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "_scale", ml_dtypes.float8_e4m3fn, ()),
        ({"quant_method": "compressed-tensors"}, "_scale", ml_dtypes.float8_e4m3fn, "rows"),
        ({"quant_method": "fbgemm_fp8"}, "_scale", ml_dtypes.float8_e4m3fn, "row"),
        ({"quant_method": "compressed-tensors"}, "_scale", np.int8, "rows"),
        (None, "_scale", ml_dtypes.float8_e4m3fn, "rows"),  # nobody says so
    ],
)
def test_scaled_weights_are_read_to_the_bit(tmp_path, weight, said, end, dtype, shape):
    rng, (rows, columns) = np.random.default_rng(0), weight.shape
    stored = rng.integers(-100, 100, weight.shape).astype(dtype)
    blocks = (-(-rows // 16), -(-columns // 24))
    shape = {"blocks": blocks, "rows": (rows, 1), "row": (rows,)}.get(shape, shape)
    scale = rng.uniform(0.1, 1, shape).astype(np.float32)
    tensors = {NAME: stored, NAME + end: np.asarray(scale), f"{BASE}.input_scale": np.ones(1)}
    tensors[f"{BASE}.input_scale"] = np.ones(1, np.float32)
    config = {} if said is None else {"quantization_config": said}
    if scale.shape == blocks:
        wide = np.repeat(np.repeat(scale, 16, axis=0), 24, axis=1)[:rows, :columns]
    else:
        wide = scale.reshape(-1, 1) if scale.ndim else scale
    checkpoint = quantized(tmp_path, config, tensors)
    assert np.array_equal(read(checkpoint), stored.astype(np.float32) * wide)
    assert export_checkpoint(checkpoint, tmp_path / "out")


def test_scales_that_are_powers_of_two_are_read(tmp_path, weight):
    # radixark/miles#2737, Avarok-Cybersecurity/atlas#400 (2026): MXFP8
    stored = np.ones(weight.shape, ml_dtypes.float8_e4m3fn)
    scale = np.full((len(weight), weight.shape[1] // 32), 0.25, ml_dtypes.float8_e8m0fnu)
    said = {"quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
    tensors = {NAME: stored, NAME + "_scale_inv": scale}
    assert (read(quantized(tmp_path, {"quantization_config": said}, tensors)) == 0.25).all()


def test_scales_that_are_lost_or_do_not_fit_are_named(tmp_path, weight):
    # unslothai/unsloth#6978 (2026): without its scale a weight is 200 times too large
    stored = weight.astype(ml_dtypes.float8_e4m3fn)
    for i, (tensors, message) in enumerate(
        (
            ({}, f"{NAME}' is F8_E4M3 without a scale"),
            ({NAME + "_scale": np.ones((3, 5), np.float32)}, r"has the shape \[3, 5\], which does"),
            (
                {
                    NAME + "_scale": np.ones(1, np.float32),
                    NAME + "_zero_point": np.ones(1, np.int8),
                },
                "with a zero point, which is not read",
            ),
        )
    ):
        (tmp_path / str(i)).mkdir()
        with pytest.raises(CheckpointError, match=message):
            read(
                quantized(tmp_path / str(i), {"quantization_config": FP8}, {NAME: stored} | tensors)
            )


WORDS = np.zeros((4, 4), np.int32)


@pytest.mark.parametrize(
    ("said", "tensors", "tool"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            {f"{BASE}.qweight": WORDS},
            "GPTQ",
        ),
        ({"quant_method": "awq", "bits": 4}, {f"{BASE}.qweight": WORDS}, r"AWQ \(4 bits\)"),
        ({"quant_method": "bitsandbytes"}, {NAME: np.zeros(8, np.uint8)}, "bitsandbytes"),
        ({"quant_method": "hqq"}, {f"{BASE}.W_q": WORDS}, "HQQ"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            {f"{BASE}.weight_packed": WORDS},
            "compressed-tensors",
        ),
        ({"quant_method": "newest"}, {NAME: np.zeros(8, np.uint8)}, "newest"),
        (None, {f"{BASE}.qweight": WORDS}, "GPTQ"),
        (None, {NAME + ".absmax": np.ones(4, np.float32)}, "bitsandbytes"),
    ],
)
def test_what_is_not_read_is_refused_with_the_way_out(tmp_path, said, tensors, tool):
    card = "---\nbase_model:\n- ByteDance/Ouro-1.4B\n---\n"
    config = {} if said is None else {"quantization_config": said}
    checkpoint = quantized(tmp_path, config, tensors, card=card)
    with pytest.raises(CheckpointError, match=f"was quantized by {tool}") as refused:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert "made from, ByteDance/Ouro-1.4B, and quantize that" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "said", [{"group_size": 64, "bits": 4, "mode": "affine"}, {"quant_method": "bitsandbytes"}]
)
def test_a_config_of_other_weights_is_named(tmp_path, said):
    # mlx-community/Ouro-1.4B-4bit, ml-explore/mlx-lm#599
    checkpoint = make_checkpoint(tmp_path / "in", "ouro-tiny", config={"quantization_config": said})
    with pytest.raises(CheckpointError, match=r"quantized it.* but no tensor is quantized"):
        export_checkpoint(checkpoint, tmp_path / "out")


def test_no_quantization_is_none(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "in", "ouro-tiny", config={"quantization_config": None})
    opened = open_checkpoint(checkpoint)
    assert decoded(opened) is opened
    assert json.loads((checkpoint / "config.json").read_text())["quantization_config"] is None
