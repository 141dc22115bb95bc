"""Pictures of measurements; needs the extra `[plot]`."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rdlite.errors import OutputError, RuntimeFailure
from rdlite.utils.files import check_output_file, write_whole
from rdlite.utils.install import install_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdlite.measure.answers import Answers
    from rdlite.measure.exit_tuning import Curve

KINDS = (".png", ".svg", ".pdf")
COLUMNS = 3


def check_plot(path: Path) -> None:
    """Raise OutputError or RuntimeFailure unless a picture could be written to this path."""
    if path.suffix not in KINDS:
        raise OutputError(f"a picture's name must end in {', '.join(KINDS)}, got {path}")
    check_output_file(path)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RuntimeFailure(f"pictures need matplotlib: {install_hint('plot')}") from None


def plot_accuracy(answers: "Answers", path: Path) -> None:
    """Draw accuracy over depth: one panel for all tasks, and one for each with its difficulties.

    Args:
        answers: what `rdlite.evaluation.answer` returns.
        path: the picture; its ending says the kind, see KINDS. Replaced if it exists.
    """
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    depths = answers.depths
    tasks = answers.tasks
    rows = -(-(len(tasks) + 1) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 2.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flat)
    for unused in panels[len(tasks) + 1 :]:
        unused.remove()

    def prepare(panel: Axes, title: str) -> None:
        panel.set_title(title, fontsize=11)
        panel.set_xscale("log", base=2)
        panel.set_xticks(depths, [str(depth) for depth in depths])
        panel.minorticks_off()
        panel.set_ylim(-0.03, 1.03)
        panel.yaxis.set_major_formatter("{x:.0%}")
        panel.grid(alpha=0.3)

    prepare(panels[0], "all tasks")
    panels[0].plot(depths, answers.accuracy(), color="black", linewidth=2.5, marker="o")
    for task, panel in zip(tasks, panels[1:], strict=False):
        prepare(panel, task)
        difficulties = answers.difficulties(task)
        colors = colormaps["viridis"]
        for difficulty in difficulties:
            shade = (difficulty - 1) / max(1, difficulties[-1] - 1)
            panel.plot(
                depths,
                answers.accuracy(task, difficulty),
                color=colors(0.9 * (1 - shade)),
                marker=".",
                label=str(difficulty),
            )
        panel.legend(title="difficulty", fontsize=6, title_fontsize=7, ncols=2, loc="lower right")
    figure.supxlabel("core steps")
    figure.supylabel("exact answers")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=110)
    write_whole(path, picture.getvalue())


def plot_tuning(curves: "Sequence[Curve]", path: Path) -> None:
    """Draw what every exit rule agrees with full depth against the steps it takes.

    Args:
        curves: of `rdlite.tuning.curve`.
        path: the picture; its ending says the kind, see KINDS. Replaced if it exists.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for curve in curves:
        points = sorted(curve.points, key=lambda point: point.steps)
        steps, agreement = zip(*((p.steps, p.agreement) for p in points), strict=True)
        (line,) = panel.plot(steps, agreement, linewidth=1.5, label=curve.rule)
        if curve.chosen:
            chosen = curve.chosen
            panel.plot(chosen.steps, chosen.agreement, "o", color=line.get_color())
    panel.set_xlabel("core steps a token, mean")
    panel.set_ylabel("answers as at full depth")
    panel.yaxis.set_major_formatter("{x:.0%}")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=110)
    write_whole(path, picture.getvalue())


def plot_errors(curves: "Mapping[str, Sequence[float]]", path: Path) -> None:
    """Draw the relative error of a quantized model's states after each core step.

    Args:
        curves: errors after step 1, 2 and so on, by name.
        path: the picture; its ending says the kind, see KINDS. Replaced if it exists.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for name, errors in curves.items():
        panel.plot(range(1, len(errors) + 1), errors, linewidth=1.5, label=name)
    panel.set_xlabel("core steps")
    panel.set_ylabel("relative error of the state")
    panel.yaxis.set_major_formatter("{x:.0%}")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=110)
    write_whole(path, picture.getvalue())
