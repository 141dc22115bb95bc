"""The conversation as a text to read: questions, and answers tinted by the steps of each token."""

from PySide6.QtGui import (
    QColor,
    QFont,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextFrameFormat,
)
from PySide6.QtWidgets import QTextBrowser, QTextEdit, QWidget

import colours
from rdlite import Token
from rdlite.utils.printable import printable

SHADE = QColor(128, 128, 128, 40)  # behind questions, on a light page as on a dark one


class Transcript(QTextBrowser):
    """Texts are inserted as plain text: what a model says is never read as HTML."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setOpenLinks(False)
        self.setAccessibleName("Conversation")
        self.setPlaceholderText("Ask something below.")
        self.document().setDocumentMargin(16)
        font = self.font()
        font.setPointSizeF(font.pointSizeF() + 1.5)
        self.setFont(font)
        self._spans: list[tuple[int, int]] = []  # of the last answer's tokens
        self._most = 1

    def start(self, question: str, name: str, most: int) -> None:
        """Show a question, and who is about to answer it in at most so many steps a token."""
        self._spans, self._most = [], most
        self.setExtraSelections([])
        cursor = self._end()
        if self.document().isEmpty():  # a frame comes after a line; the first one needs no height
            flat = QTextBlockFormat()
            flat.setLineHeight(1, QTextBlockFormat.LineHeightTypes.FixedHeight.value)
            cursor.setBlockFormat(flat)
        bubble = QTextFrameFormat()
        bubble.setBackground(SHADE)
        bubble.setPadding(9)
        bubble.setLeftMargin(120)
        bubble.setTopMargin(8)
        bubble.setBottomMargin(8)
        cursor.insertFrame(bubble)
        cursor.insertText(printable(question), QTextCharFormat())
        cursor = self._end()
        cursor.setBlockFormat(QTextBlockFormat())
        small = QTextCharFormat()
        small.setFontWeight(QFont.Weight.Bold)
        small.setFontPointSize(max(7.0, self.font().pointSizeF() - 1.5))
        cursor.insertText(printable(name), small)
        answer = QTextBlockFormat()
        answer.setBottomMargin(16)
        answer.setLineHeight(125, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        cursor.insertBlock(answer, QTextCharFormat())
        self._show_end()

    def append_token(self, token: Token) -> None:
        """Show the next token of the answer."""
        bar = self.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 4
        cursor = self._end()
        look = QTextCharFormat()
        look.setBackground(colours.tint(token.steps, self._most))
        first = cursor.position()
        cursor.insertText(printable(token.text), look)
        self._spans.append((first, cursor.position()))
        if at_end:
            self._show_end()

    def stop(self, why: str) -> None:
        """End the answer; say why in a word if it did not end by itself."""
        if why:
            look = QTextCharFormat()
            look.setFontItalic(True)
            self._end().insertText(f" [{why}]", look)
            self._show_end()

    def point_at(self, place: int) -> None:
        """Mark a token of the last answer; -1 marks none."""
        if not 0 <= place < len(self._spans):
            self.setExtraSelections([])
            return
        mark = QTextEdit.ExtraSelection()
        cursor = QTextCursor(self.document())
        first, end = self._spans[place]
        cursor.setPosition(first)
        cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
        mark.cursor = cursor
        palette = self.palette()
        mark.format.setBackground(palette.highlight())
        mark.format.setForeground(palette.highlightedText())
        self.setExtraSelections([mark])

    def _end(self) -> QTextCursor:
        cursor = QTextCursor(self.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        return cursor

    def _show_end(self) -> None:
        bar = self.verticalScrollBar()
        bar.setValue(bar.maximum())
