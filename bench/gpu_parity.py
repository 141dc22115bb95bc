"""Whether models on a GPU say what they say on the CPU; rows for bench/gpu.py."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rdlite.export import export_checkpoint

import rdlite
from rdlite import Cache, Depth, Model
from rdlite.measure.answers import held_out_problems
from rdlite.measure.tasks import TASKS

DATA = Path(__file__).parents[1] / "tests" / "data"
CHECKPOINT = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"
SAME, TOLERANCE = 0.99, 0.02  # of prompts; of the largest logit
DEPTHS = [
    Depth(16),
    Depth(32, exit="latent-diff"),
    Depth(32, exit="latent-diff", prompt="each"),
    Depth(32, exit="latent-diff", check_every=4),
    Depth(32, exit="acceleration"),
    Depth(32, exit="cosine"),
    Depth(32, exit="kl"),
    Depth(32, exit="minp-kl"),
    Depth(32, exit="entropy-diff"),
    Depth(32, exit="argmax-stability"),
]
Row = dict[str, Any]
#: A bundle's path, whether core steps are captured, and the cache, if another than the default.
Open = Callable[..., Model]


def parity(open_model: Open, prompts: int = 104) -> list[Row]:
    """Compare; every row says what was compared and whether it holds."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for graphs in (False, True):
            for checkpoint in ("huginn-tiny", "huginn-tiny-bf16"):
                bundle = export_checkpoint(DATA / checkpoint, Path(name) / checkpoint, force=True)
                rows.append(_checked(f"oracle {checkpoint}", graphs, _oracle, bundle, open_model))
            bundle = export_checkpoint(CHECKPOINT, Path(name) / "nano", force=True)
            for depth in DEPTHS:
                what = f"nano, {depth.exit or 'fixed'} {depth.prompt} {depth.check_every}"
                few = prompts if depth.exit is None else 26
                rows.append(
                    _checked(what, graphs, _greedy, bundle, open_model, depth, Cache(), few)
                )
            for cache in (Cache(1), Cache(4), Cache("last")):
                what = f"nano, cache share {cache.share}"
                rows.append(
                    _checked(what, graphs, _greedy, bundle, open_model, Depth(16), cache, 26)
                )
            rows.append(_checked("nano, drafts", graphs, _drafts, bundle, open_model))
    return rows


def _checked(what: str, graphs: bool, compare: Callable[..., str], *arguments: Any) -> Row:
    row: Row = {"what": what, "graphs": graphs}
    try:
        return row | {"note": compare(graphs, *arguments)}
    except Exception as problem:
        return row | {"failed": " ".join(f"{type(problem).__name__}: {problem}".split())[:300]}


def _oracle(graphs: bool, bundle: Path, open_model: Open) -> str:
    """Logits of the published implementation, from its own initial states."""
    expected = np.load(DATA / bundle.name / "expected.npz")
    ids, states = expected["input_ids"][0].tolist(), expected["input_states"][0]
    worst = 0.0
    with open_model(bundle, graphs) as model:
        for steps in (1, 2, 4, 8):
            right = expected[f"logits_state_r{steps}"][0]
            ours = model.logits(ids, steps, states.astype(np.float32))
            worst = max(worst, float(np.abs(ours - right).max() / np.abs(right).max()))
    if worst > TOLERANCE:
        raise AssertionError(f"logits differ by {worst:.2%} of the largest")
    return f"logits within {worst:.2%} of the largest"


def _answers(model: Model, depth: Depth, count: int, **how: Any) -> list[list[int]]:
    problems = held_out_problems(4, 5, TASKS)
    step = max(1, len(problems) // count)
    return [
        model.chat(depth=depth, **how).send(problem.question, 12).ids
        for problem in problems[::step][:count]
    ]


def _greedy(
    graphs: bool, bundle: Path, open_model: Open, depth: Depth, cache: Cache, count: int
) -> str:
    with open_model(bundle, graphs, cache) as model:
        ours = _answers(model, depth, count)
    return _alike(ours, _on_cpu(bundle, depth, cache, count))


@functools.cache
def _on_cpu(bundle: Path, depth: Depth, cache: Cache, count: int) -> list[list[int]]:
    with rdlite.load(bundle, cache=cache) as model:
        return _answers(model, depth, count)


def _drafts(graphs: bool, bundle: Path, open_model: Open) -> str:
    with open_model(bundle, graphs) as model:
        plain = _answers(model, Depth(24), 26)
        return _alike(_answers(model, Depth(24), 26, speculate=(4, 4)), plain)


def _alike(ours: list[list[int]], right: list[list[int]]) -> str:
    same = sum(a == b for a, b in zip(ours, right, strict=True))
    if same < SAME * len(right):
        raise AssertionError(f"{same} of {len(right)} answers are the same")
    return f"{same} of {len(right)} answers are the same"
