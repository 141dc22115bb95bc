"""Colours of depth: which hue a token gets for its steps, the legend, and the window's icon."""

import math

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap

#: Okabe and Ito's hues, which colour-blind readers tell apart, as `rdlite chat --show-depth` uses
#: them: blue for few steps, then sky, green and orange, vermilion for the most.
HUES = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00")


def level(steps: int, most: int) -> int:
    """Return which of the hues `steps` of at most `most` have: 0 to 4, by their logarithm."""
    if most <= 1:
        return 0
    return round((len(HUES) - 1) * math.log(min(max(1, steps), most)) / math.log(most))


def hue(steps: int, most: int) -> QColor:
    """Return the colour of a bar."""
    return QColor(HUES[level(steps, most)])


def tint(steps: int, most: int) -> QColor:
    """Return the same, faint enough to lie behind text that is dark or light."""
    colour = hue(steps, most)
    colour.setAlphaF(0.30)
    return colour


def legend(most: int) -> str:
    """Return which hue means how many steps, as rich text."""
    ranges: dict[int, list[int]] = {}
    for steps in range(1, most + 1):
        ranges.setdefault(level(steps, most), []).append(steps)
    parts = []
    for which, of in sorted(ranges.items()):
        numbers = f"{of[0]}" if of[0] == of[-1] else f"{of[0]}\N{EN DASH}{of[-1]}"
        parts.append(f'<span style="color:{HUES[which]}">\N{BLACK SQUARE}</span>&nbsp;{numbers}')
    return "steps&nbsp;&nbsp;" + "&nbsp;&nbsp; ".join(parts)


def icon() -> QIcon:
    """Draw the window's icon: a bar of each hue."""
    picture = QPixmap(64, 64)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    for place, (name, height) in enumerate(zip(HUES, (16, 28, 40, 30, 56), strict=True)):
        painter.setBrush(QColor(name))
        painter.drawRoundedRect(QRectF(3 + 12 * place, 60 - height, 10, height), 3, 3)
    painter.end()
    return QIcon(picture)
