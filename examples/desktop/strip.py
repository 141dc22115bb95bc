"""The depth strip: a bar for each token of the last answer, as tall as its steps are many.

It is a list view with a painter of its own, so keyboard, tooltips, selection and what a screen
reader says come from Qt's views: every bar is an item with a text.
"""

import html
from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QModelIndex,
    QPersistentModelIndex,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QPainter, QPalette
from PySide6.QtWidgets import QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

import colours
from rdlite import Token
from rdlite.utils.printable import label

Index = QModelIndex | QPersistentModelIndex
BAR, GAP, HEIGHT = 10, 2, 64


class Tokens(QAbstractListModel):
    """The tokens of one answer, and the steps that each of them could have taken."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.tokens: list[Token] = []
        self.most = 1

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Count the tokens."""
        return 0 if parent.isValid() else len(self.tokens)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Say what a token is, to the eye and to the ear."""
        if not index.isValid():
            return None
        token = self.tokens[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            # Tooltips that look like HTML are read as HTML, and tokens may look like anything.
            return f"<qt><b>{html.escape(label(token.text))}</b><br>{self.steps_of(token)}</qt>"
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{label(token.text) or 'end'}, {self.steps_of(token)}"
        return None

    def steps_of(self, token: Token) -> str:
        """Say how many steps a token took."""
        return f"{token.steps} of {self.most} steps"

    def start(self, most: int) -> None:
        """Forget the tokens; the next ones may take so many steps."""
        self.beginResetModel()
        self.tokens.clear()
        self.most = most
        self.endResetModel()

    def append(self, token: Token) -> None:
        """Add one."""
        end = len(self.tokens)
        self.beginInsertRows(QModelIndex(), end, end)
        self.tokens.append(token)
        self.endInsertRows()


class _Bars(QStyledItemDelegate):
    """Paints a token as a bar."""

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        return QSize(BAR + GAP, HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        tokens = index.model()
        assert isinstance(tokens, Tokens)
        steps, most = tokens.tokens[index.row()].steps, tokens.most
        place: QRectF = QRectF(option.rect)
        state: QStyle.StateFlag = option.state
        room = place.height() - 6
        height = max(3.0, room * min(steps, most) / most)
        bar = QRectF(place.left() + GAP / 2, place.bottom() - height, BAR, height)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if state & QStyle.StateFlag.State_Selected:
            shade = option.palette.color(QPalette.ColorRole.Highlight)
            shade.setAlphaF(0.35)
            painter.fillRect(place, shade)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colours.hue(steps, most))
        painter.drawRoundedRect(bar, 2, 2)
        painter.restore()


class DepthStrip(QListView):
    """Bars from left to right; arrow keys go from one to the next, `chosen` says to which."""

    chosen = Signal(int)  # the token's place in the answer; -1: none

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._tokens = Tokens(self)
        self.setModel(self._tokens)
        self.setItemDelegate(_Bars(self))
        self.setFlow(QListView.Flow.LeftToRight)
        self.setUniformItemSizes(True)
        self.setHorizontalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFixedHeight(HEIGHT + self.horizontalScrollBar().sizeHint().height() + 6)
        self.setAccessibleName("Steps of each token")
        self.setAccessibleDescription("Arrow keys go from token to token")
        self.selectionModel().currentChanged.connect(self._moved)

    def start(self, most: int) -> None:
        """Empty it for an answer whose tokens take at most so many steps."""
        self._tokens.start(most)
        self.chosen.emit(-1)

    def append(self, token: Token) -> None:
        """Show the next token."""
        bar = self.horizontalScrollBar()
        at_end = bar.value() == bar.maximum()
        self._tokens.append(token)
        if at_end:
            self.scrollToBottom()

    @property
    def tokens(self) -> list[Token]:
        """The tokens that are shown."""
        return list(self._tokens.tokens)

    def describe(self, place: int) -> str:
        """Say in a line what the token at a place is; nothing where there is none."""
        index = self._tokens.index(place, 0)
        return str(index.data(Qt.ItemDataRole.AccessibleTextRole) or "")

    def _moved(self, current: QModelIndex, before: QModelIndex) -> None:
        self.chosen.emit(current.row() if current.isValid() else -1)
