"""Traces a PyTorch model into a portable bundle: standard operators, the same contract."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from optimum.exporters.onnx.convert import export_models

from rdlite.bundle.writer import check_replaceable, work_folder
from rdlite.utils.progress import Progress

from ..exporter import write_bundle
from ..from_checkpoint import read_checkpoint
from ..optimum.module_tree import load_modules
from ..optimum.part_configs import OPSET, onnx_configs
from ..optimum.parts import check_family, submodels
from ..optimum.traced import take_over
from ..safetensors import open_checkpoint


def export_portable(
    checkpoint: str | Path,
    out: str | Path,
    *,
    model: Any = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Trace a model into a bundle of standard operators.

    Args:
        checkpoint: a Huginn checkpoint folder; its config and text files are the bundle's.
        out: the bundle folder to make. It appears whole or not at all.
        model: a live torch.nn.Module whose parameters have the checkpoint's names and shapes, and
            whose weights are the bundle's; None: the checkpoint's own.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes written, bytes in all) as weights are written.

    Returns:
        The path of the bundle.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, pickled, or its tensors do not fit.
        FamilyError: the model is not Huginn's, or has parts that would be left out.
        OutputError: `out` exists, is or holds `checkpoint`, or cannot be written.
    """
    check_replaceable(Path(out).absolute(), force, Path(checkpoint))  # before any work
    config = read_checkpoint(checkpoint).config
    check_family(config)
    if model is None:
        model = load_modules(config, open_checkpoint(checkpoint))
    parts = submodels(config, model)
    configs = onnx_configs(config)
    with work_folder(Path(out)) as traced:
        with warnings.catch_warnings():
            # Tracing warns of whatever it takes as fixed, and torch of its own exporter.
            warnings.simplefilter("ignore")
            export_models(
                {part: (module, configs[part]) for part, module in parts.items()},
                traced,
                opset=OPSET,
                do_constant_folding=False,  # or weights would lose their names
            )
        return write_traced(traced, checkpoint, out, force=force, progress=progress)


def write_traced(
    traced: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make a bundle of prelude.onnx, core.onnx and coda.onnx as optimum wrote them.

    They must have been traced with `submodels` and `onnx_configs`, without constant folding; the
    other arguments, the result and the errors are those of `export_portable`.
    """
    original = read_checkpoint(checkpoint)
    graphs, source = take_over(Path(traced), original.config, original.weights)
    original = dataclasses.replace(original, source=source)
    return write_bundle(original, out, graphs=graphs, force=force, progress=progress)
