"""Pictures of measurements; needs the extra `[plot]`."""

from pathlib import Path
from typing import TYPE_CHECKING

from rdlite.errors import OutputError, RuntimeFailure

if TYPE_CHECKING:
    from rdlite.evaluation import Answers

KINDS = (".png", ".svg", ".pdf")
COLUMNS = 3


def check_plot(path: Path) -> None:
    """Raise OutputError or RuntimeFailure unless a picture could be written to this path."""
    if path.suffix not in KINDS:
        raise OutputError(f"a picture's name must end in {', '.join(KINDS)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path.absolute().parent} is not a folder, so {path} cannot be written")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RuntimeFailure("pictures need matplotlib: pip install 'rdlite[plot]'") from None


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
    tasks = list(dict.fromkeys(problem.task for problem in answers.problems))
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
        difficulties = sorted({p.difficulty for p in answers.problems if p.task == task})
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
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format=path.suffix[1:], dpi=110)
    part.replace(path)
