"""What quantization did to a model: divergence, states, sensitivity, size and speed, by depth."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdlite.export.exporter import write_bundle

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.bundle.manifest import GROUPS
from rdlite.errors import InputError
from rdlite.loader import open_bundle
from rdlite.measure.answers import answer, encode_problem, held_out_problems
from rdlite.measure.divergence import Divergence, divergence
from rdlite.measure.texts import read_tokens, text_name, windows
from rdlite.utils.progress import Progress, meter
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Storage

from .options import Options
from .sensitivity import divergence_of, grouped, with_bits
from .state_errors import state_errors

DEPTHS = (1, 4, 8, 16, 32)
PROBLEMS, WINDOWS, WINDOW, SPEED_ROUNDS = 4, 64, 128, 5


@dataclass(frozen=True)
class Report:
    """A quantized model against the one that it was made from.

    Attributes:
        name: of the model.
        scheme: of the quantization.
        text: what it was measured on, and how many tokens of it there were.
        depths: core steps, D of them.
        divergence: KL(full || quantized) at each depth.
        float_activations: the same, were activations not rounded to int8; None if they are not.
        state_errors: ||x - y|| / ||y|| of the states after each step up to the greatest depth,
            mean over the positions.
        accuracy: exact answers at each depth: quantized, full; None on a text.
        sensitivity: mean KL at each depth with one group of weights quantized alone.
        sizes: bytes on disk: quantized, full.
        speed: of a core step of one position: full time over quantized time.
    """

    name: str
    scheme: str
    text: str
    depths: tuple[int, ...]
    divergence: list[Divergence]
    float_activations: list[Divergence] | None
    state_errors: list[float]
    accuracy: tuple[list[float], list[float]] | None
    sensitivity: dict[str, list[float]]
    sizes: tuple[int, int]
    speed: float

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return dataclasses.asdict(self)


def make_report(
    original: SourceModel,
    storage: Storage,
    bundle: Path,
    options: Options,
    text: Path | None = None,
    depths: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a quantized bundle against full precision.

    Args:
        original: what was quantized.
        storage: how.
        bundle: what came out.
        options: seed, threads and the folder for temporary bundles.
        text: a text file; None: held-out problems, for models that chat.
        depths: core steps, ascending; None: DEPTHS, or each up to the most that the model was made
            for.
        progress: called with (measurements done, in all).

    Raises:
        InputError: the text is too short, or there is none and the model cannot chat.
    """
    quantization = storage.quantization
    groups = _sensitivity_groups(quantization.bits)
    advance = meter(len(groups) + (4 if text else 5), progress)
    if depths is None:
        most = original.config.recurrence.max_steps
        depths = DEPTHS if most is None else range(1, min(most, DEPTHS[-1]) + 1)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        full = write_bundle(original, Path(folder) / "full")
        advance(1)
        with (
            load(full, threads=options.threads) as reference,
            load(bundle, threads=options.threads) as model,
        ):
            texts, described = _texts(reference, text, options.seed)

            def measure(tried: Storage) -> list[Divergence]:
                return divergence_of(original, tried, reference, texts, depths, options)

            found = divergence(model, reference, texts, depths, options.seed)
            rounded = quantization.accuracy_level == 4
            exact = measure(with_bits(storage, quantization.bits, 1)) if rounded else None
            advance(1)
            states = state_errors(model, reference, texts, depths[-1], options.seed)
            advance(1)
            accuracy = None
            if text is None:
                problems = held_out_problems(PROBLEMS, options.seed)
                ours, theirs = (
                    answer(each, problems, depths, options.seed).accuracy()
                    for each in (model, reference)
                )
                accuracy = ours, theirs
                advance(1)
            sensitivity = {}
            for group, members in groups:
                bits = {name: quantization.bits[name] for name in members}
                alone = dataclasses.replace(with_bits(storage, bits), factors={})
                sensitivity[group] = [each.mean for each in measure(alone)]
                advance(1)
            speed = step_seconds(reference) / step_seconds(model)
            advance(1)
        return Report(
            name=original.name,
            scheme=quantization.scheme,
            text=described,
            depths=tuple(depths),
            divergence=found,
            float_activations=exact,
            state_errors=states,
            accuracy=accuracy,
            sensitivity=sensitivity,
            sizes=(_bytes(bundle), _bytes(full)),
            speed=speed,
        )


def _sensitivity_groups(bits: Any) -> list[tuple[str, list[str]]]:
    """Parts, then projections."""
    parts = [(part, [n for n in bits if n.split(".")[0] == part]) for part in GROUPS]
    return [(part, names) for part, names in parts if names] + [
        (kind, names) for kind, names in grouped(bits).items() if "." in kind
    ]


def check_measurable(original: SourceModel, text: Path | None) -> None:
    """Raise InputError if the model lacks what a report needs: before it is quantized."""
    needed = ("tokenizer.json",) if text else ("tokenizer.json", "chat_template.jinja")
    for name in needed:
        if name not in original.text_files:
            hint = "; give a text to measure on" if name == needed[-1] and not text else ""
            raise InputError(f"a report needs a {name}, and {original.name} has none{hint}")


def _texts(model: Model, text: Path | None, seed: int) -> tuple[list[Sequence[int]], str]:
    if text is None:
        problems = held_out_problems(PROBLEMS, seed)
        pairs = [encode_problem(model, problem) for problem in problems]
        texts: list[Sequence[int]] = [[*prompt, *said] for prompt, said in pairs]
        name = "held-out problems"
    else:
        ids = read_tokens(model, text, WINDOWS * WINDOW)
        texts = list(windows(ids, min(WINDOW, model.context), model.context))[:WINDOWS]
        name = text_name(text)
    if not texts:
        raise InputError("there is no text to measure on")
    return texts, f"{name}, {sum(map(len, texts))} tokens"


def step_seconds(model: Model) -> float:
    """Return the seconds of a core step of one position: the median of several runs."""
    sequence = model.new_sequence()
    runner = sequence.begin([0], 8)
    times = []
    for _ in range(SPEED_ROUNDS + 1):
        clock = time.perf_counter()
        for step in range(8):
            runner.step(step)
        times.append((time.perf_counter() - clock) / 8)
    return statistics.median(times[1:])


def _bytes(bundle: Path) -> int:
    return sum(entry.bytes for entry in open_bundle(bundle).manifest.files.values())


def as_markdown(report: Report) -> str:
    """Return the report as Markdown tables."""
    quantized, full = report.sizes
    lines = [
        f"# {report.name}: {report.scheme} against full precision",
        "",
        f"Measured on {report.text}. {quantized / 2**20:.1f} MiB instead of {full / 2**20:.1f}; a "
        f"core step of one position takes 1/{report.speed:.2f} of the time.",
        "",
    ]

    def table(first: str, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
        lines.append(f"| {first} | " + " | ".join(map(str, report.depths)) + " |")
        lines.append("|---|" + "---|" * len(report.depths))
        lines.extend(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)
        lines.append("")

    def numbers(values: Sequence[float]) -> list[str]:
        return [f"{value:.2e}" for value in values]

    def kl(found: list[Divergence], name: str) -> list[str]:
        return numbers([getattr(each, name) for each in found])

    rows = [
        ("KL, mean", kl(report.divergence, "mean")),
        ("KL, median", kl(report.divergence, "median")),
        ("KL, 99%", kl(report.divergence, "percentile_99")),
        ("KL, max", kl(report.divergence, "maximum")),
        ("same top token", [f"{each.same_top:.2%}" for each in report.divergence]),
        ("state error", [f"{report.state_errors[depth - 1]:.2%}" for depth in report.depths]),
    ]
    if report.float_activations:
        rows.append(("KL, mean, float32 activations", kl(report.float_activations, "mean")))
    if report.accuracy:
        ours, theirs = report.accuracy
        rows.append(("exact answers", [f"{value:.1%}" for value in ours]))
        rows.append(("exact answers, full precision", [f"{value:.1%}" for value in theirs]))
    table("core steps", rows)
    lines += ["Mean KL with one group of weights quantized alone:", ""]
    table("quantized", [(name, numbers(found)) for name, found in report.sensitivity.items()])
    return "\n".join(lines)
