"""The picture of a trace: answers by depth, how far states moved, and the hardest choice."""

import io
import textwrap
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdlite.utils.files import write_whole
from rdlite.utils.printable import heading, label, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from rdlite.trace.record import TokenTrace, Trace

ROWS = 48  # tokens that are shown
WIDTH = 9.0  # inches
LINES = 6  # tokens or answers that have a line of their own
LONGEST = 40  # characters of an answer
LEAST_ROOM = 4  # pixels that a sign needs
LEAST = 0.01  # probability at its best of an answer that has one
#: Okabe and Ito's colours, which colour-blind readers can tell apart; and marks, for print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = "osD^vP"
#: The part of cividis that black letters can be read on.
PALEST, FULL = 0.45, 1.0


def plot_trace(trace: "Trace", path: Path) -> None:
    """Draw how a text was thought, of at most 48 tokens.

    Args:
        trace: of at least one token.
        path: the picture; its ending says the kind, see `rdlite.plot.KINDS`. Replaced if it exists.
    """
    from matplotlib.figure import Figure

    shown = trace.tokens[:ROWS]
    title = textwrap.wrap(f"{trace.model}: {heading(trace.prompt or '', 200)}", 80)
    heights = (0.75 + 0.3 * len(shown), 3.3)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.25 * len(title)), layout="constrained")
    figure.suptitle("\n".join(_drawable(title)), fontsize=11, parse_math=False)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    answers = above.subplots()
    _draw_answers(answers, trace, shown)
    change, choice = below.subplots(1, 2)
    _draw_change(change, trace, shown)
    _draw_choice(choice, shown)
    for panel in (answers, change, choice):
        _number_steps(panel, max(token.steps for token in shown))
    _name_answers(figure, answers, shown)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=110)
    write_whole(path, picture.getvalue())


def _draw_answers(panel: "Axes", trace: "Trace", shown: "tuple[TokenTrace, ...]") -> None:
    """A row for each token, a column for each step: how sure it was of its likeliest answer."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    sure = np.full((len(shown), max(token.steps for token in shown)), np.nan)
    for row, token in zip(sure, shown, strict=True):
        row[: token.steps] = [thought.likeliest[0].probability for thought in token.thoughts]
    colors = ListedColormap(colormaps["cividis"](np.linspace(PALEST, FULL, 256)))
    extent = (0.5, sure.shape[1] + 0.5, len(shown), 0)
    image = panel.imshow(sure, colors, vmin=0, vmax=1, aspect="auto", extent=extent)
    shrink = min(1, 5 / len(shown))
    bar = panel.figure.colorbar(
        image, ax=panel, pad=0.02, shrink=shrink, anchor=(0, 1), aspect=8, format="{x:.0%}"
    )
    bar.set_label("how sure", fontsize=8)
    bar.set_ticks([0, 1] if len(shown) < 3 else [0, 0.5, 1])
    bar.ax.tick_params(labelsize=7)
    rest = f" (the first {len(shown)} of {len(trace.tokens)} tokens)"
    panel.set_title(
        "Likeliest answer after each core step" + rest * (len(shown) < len(trace.tokens)),
        fontsize=10,
    )
    names = [shorten(label(token.token), 14) for token in shown]
    panel.set_yticks(np.arange(len(shown)) + 0.5, _drawable(names), fontsize=9, parse_math=False)
    panel.set_ylabel("said")
    panel.tick_params(left=False)
    panel.tick_params("x", labelsize=8)
    for side in panel.spines.values():
        side.set_visible(False)
    for edge in range(1, len(shown)):
        panel.axhline(edge, color="white", linewidth=3)


def _name_answers(figure: "Figure", panel: "Axes", shown: "tuple[TokenTrace, ...]") -> None:
    """Write each answer into the block of steps at which it was the likeliest, where it fits."""
    figure.draw_without_rendering()  # places the panels, so that there is something to fit into
    step = panel.get_window_extent().width / max(token.steps for token in shown)
    for row, token in enumerate(shown):
        first = 0
        edges = []
        for _, block in groupby(token.thoughts, lambda thought: thought.likeliest[0].id):
            thoughts = list(block)
            size = len(thoughts)
            middle = first + 0.5 + size / 2
            text = panel.text(
                middle,
                row + 0.5,
                "",
                fontsize=9,
                ha="center",
                va="center_baseline",
                parse_math=False,
            )
            _fit(text, label(thoughts[0].likeliest[0].token), 0.94 * step * size - 2)
            first += size
            edges.append(first + 0.5)
        panel.vlines(edges[:-1], row, row + 1, color="white", linewidth=min(2, step / 4))


def _fit(text: "Text", name: str, room: float) -> None:
    """Let a text say as much of a name as has room, in pixels; nothing if that is no sign."""
    (name,) = _drawable([shorten(name, LONGEST)])
    fits, too_many = 0, len(name) + 1
    while room > LEAST_ROOM and too_many - fits > 1:
        most = (fits + too_many) // 2
        text.set_text(shorten(name, most) if most > 1 else name[:1])
        if text.get_window_extent().width <= room:
            fits = most
        else:
            too_many = most
    text.set_text("" if not fits else shorten(name, fits) if fits > 1 else name[:1])


def _draw_change(panel: "Axes", trace: "Trace", shown: "tuple[TokenTrace, ...]") -> None:
    """How far each step moved the states; of many tokens the median is told apart."""
    curves = [
        np.array([np.nan if t.change is None else t.change for t in token.thoughts])
        for token in shown
    ]
    few = len(shown) <= LINES
    for index, (token, curve) in enumerate(zip(shown, curves, strict=True)):
        style: dict[str, Any] = {"color": "#999999", "linewidth": 0.6}
        if few:
            (name,) = _drawable([f"{index + 1}: {shorten(label(token.token), 13)}"])
            style = {"color": COLORS[index], "marker": MARKS[index], "markersize": 4, "label": name}
        panel.plot(range(1, len(curve) + 1), curve, **style)
    if not few:
        depths = range(max(map(len, curves)))
        middle = [np.nanmedian([c[i] for c in curves if i < len(c)] or [np.nan]) for i in depths]
        panel.plot([i + 1 for i in depths], middle, color=COLORS[0], linewidth=2, label="median")
    if trace.depth.exit == "latent-diff" and trace.depth.threshold:
        below = trace.depth.threshold
        style = {"color": "black", "linestyle": "--", "linewidth": 1}
        panel.axhline(below, label=f"exit below {below:.2g}", **style)
    moves = np.concatenate(curves)
    if moves[moves > 0].size and np.nanmax(moves) > 20 * moves[moves > 0].min():
        panel.set_yscale("log")
        panel.minorticks_off()
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_title("How far a step moved the state, relative to it", fontsize=10)
    _legend(panel)


def _draw_choice(panel: "Axes", shown: "tuple[TokenTrace, ...]") -> None:
    """The answers that the token which settled last was chosen from."""
    doubts = [(t.settled, -min(thought.probability for thought in t.thoughts)) for t in shown]
    index = doubts.index(max(doubts))
    token = shown[index]
    seen: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for step, thought in enumerate(token.thoughts, 1):
        for found in thought.likeliest:
            seen.setdefault((found.id, found.token), []).append((step, found.probability))
    likely = {key: max(chance for _, chance in points) for key, points in seen.items()}
    likely[token.id, token.token] = 2  # what was chosen comes first
    best = sorted(((key, seen.get(key, [])) for key in likely), key=lambda item: -likely[item[0]])
    best = [item for item in best if likely[item[0]] >= LEAST][:LINES]
    for (key, points), color, mark in zip(best, COLORS, MARKS, strict=False):
        by_step = dict(points)
        if key[0] == token.id:
            by_step = {i: thought.probability for i, thought in enumerate(token.thoughts, 1)}
        steps = range(1, token.steps + 1)
        (name,) = _drawable([shorten(label(key[1]), 13)])
        values = [by_step.get(step, np.nan) for step in steps]
        panel.plot(steps, values, color=color, marker=mark, markersize=4, label=name)
    panel.set_ylim(-0.04, 1.04)
    panel.yaxis.set_major_formatter("{x:.0%}")
    panel.set_title(f"Likeliest answers, token {index + 1} (the last to settle)", fontsize=10)
    _legend(panel)


def _legend(panel: "Axes") -> None:
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
    # Below the panel, where it hides nothing.
    legend = panel.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _number_steps(panel: "Axes", steps: int) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlim(0.5, steps + 0.5)
    panel.xaxis.set_major_locator(
        MaxNLocator(16, integer=True, steps=[1, 2, 4, 5, 10], min_n_ticks=1)
    )
    panel.set_xlabel("core step", fontsize=9)


def _drawable(names: "list[str]") -> "list[str]":
    r"""Return texts with what the font lacks written like "\u4e2d"."""
    known = _known_signs()
    return [
        "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in name)
        for name in names
    ]


@cache
def _known_signs() -> "frozenset[int]":
    """What matplotlib's font can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
