"""The window: lays the parts out, and keeps what the user may do in step with the worker."""

from PySide6.QtCore import QSettings, Qt, QThread, Signal, Slot
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QCloseEvent,
    QKeySequence,
    QShortcut,
)
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

import colours
from picker import NANO, ModelPicker
from question import Question
from rdlite import Stats, Token
from strip import DepthStrip
from transcript import Transcript
from worker import ModelFacts, Turn, Worker


class Window(QMainWindow):
    """A chat with a model, which lives on a thread that this window starts and joins."""

    idle = Signal()  # a model was opened, an answer ended, or either failed
    _open = Signal(str)
    _ask = Signal(object)
    _forget = Signal()

    def __init__(self, settings: QSettings, model: str | None = None) -> None:
        """Show the model at a path; None: the one that was open when the app was last used."""
        super().__init__()
        self.facts: ModelFacts | None = None
        self._turn: Turn | None = None  # the one that is being answered
        self._opening = ""  # the path of the model that is being opened
        self.setWindowTitle("rdlite")
        self.setWindowIcon(colours.icon())
        self.resize(860, 640)
        self._make_parts(settings)
        self._lay_out()
        self._start_thread()
        self._start_opening(model or self.picker.last)

    def _make_parts(self, settings: QSettings) -> None:
        self.picker = ModelPicker(settings)
        self.picker.picked.connect(self.open_model)
        self.new = QPushButton("&New conversation")
        self.new.clicked.connect(self.start_over)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, 1)
        self.slider.setMinimumWidth(180)
        self.slider.setAccessibleName("Depth: core steps a token, at most")
        self.slider.valueChanged.connect(self._show_depth)
        self.steps = QLabel()
        self.steps.setMinimumWidth(self.fontMetrics().horizontalAdvance("000 steps "))
        self.settle = QCheckBox("S&top when settled")
        self.settle.setToolTip("Stop thinking about a token when its state hardly changes any more")
        self.transcript = Transcript()
        self.strip = DepthStrip()
        self.strip.chosen.connect(self._describe)
        self.legend = QLabel()
        self.chosen = QLabel()
        self.error = QLabel()
        self.error.setWordWrap(True)
        self.error.setStyleSheet(f"border-left: 4px solid {colours.HUES[-1]}; padding: 4px 8px")
        self.error.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.error.hide()
        self.question = Question()
        self.question.entered.connect(self.send)
        self.button = QPushButton()
        self.button.setMinimumWidth(90)
        self.button.clicked.connect(self._send_or_stop)
        self.status = QLabel()
        for text in (self.chosen, self.error, self.status):
            text.setTextFormat(Qt.TextFormat.PlainText)  # they show what models and files say
        QShortcut(QKeySequence(Qt.Key.Key_Escape), self, self.cancel)
        QShortcut(QKeySequence(QKeySequence.StandardKey.New), self, self.start_over)

    def _lay_out(self) -> None:
        model, depth = QLabel("&Model"), QLabel("&Depth")
        model.setBuddy(self.picker)
        depth.setBuddy(self.slider)
        top, below, bottom = QHBoxLayout(), QHBoxLayout(), QHBoxLayout()
        left: tuple[QWidget, ...] = (model, self.picker, self.new)
        right: tuple[QWidget, ...] = (depth, self.slider, self.steps, self.settle)
        for part in left:
            top.addWidget(part)
        top.addStretch(1)
        for part in right:
            top.addWidget(part)
        below.addWidget(self.legend)
        below.addStretch(1)
        below.addWidget(self.chosen)
        bottom.addWidget(self.question, 1)
        bottom.addWidget(self.button, 0, Qt.AlignmentFlag.AlignBottom)
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(12, 12, 12, 4)
        column.setSpacing(8)
        column.addLayout(top)
        column.addWidget(self.transcript, 1)
        column.addWidget(self.strip)
        column.addLayout(below)
        column.addWidget(self.error)
        column.addLayout(bottom)
        self.setCentralWidget(page)
        self.statusBar().addWidget(self.status, 1)
        self.statusBar().setContentsMargins(10, 0, 0, 0)
        self.question.setFocus()

    def _start_thread(self) -> None:
        self._thread = QThread()
        self._worker = Worker()
        self._worker.moveToThread(self._thread)
        self._open.connect(self._worker.open)
        self._ask.connect(self._worker.answer)
        self._forget.connect(self._worker.forget)
        self._worker.opened.connect(self._opened)
        self._worker.token.connect(self._show)
        self._worker.ended.connect(self._ended)
        self._worker.failed.connect(self._failed)
        self._worker.forgotten.connect(self._forgotten)
        self._thread.start()

    # What the user does.

    @Slot(str)
    def open_model(self, path: str) -> None:
        """Open a model in place of this one; an answer that is running is cancelled."""
        if not self._opening:
            self.cancel()
            self.error.hide()
            self._start_opening(path)

    def _start_opening(self, path: str) -> None:
        self._opening = path
        self._open.emit(path)
        self.status.setText(f"Opening {path}\N{HORIZONTAL ELLIPSIS}")
        self._refresh()

    @Slot()
    def send(self) -> None:
        """Ask what was typed; while an answer runs the text stays where it is."""
        text = self.question.toPlainText().strip()
        if not text or self.facts is None or self.busy:
            return
        self.question.clear()
        self.error.hide()
        depth = self.facts.depth_of(self.slider.value(), self.settle.isChecked())
        most = self.slider.value()
        self._turn = Turn(text, depth)
        self.transcript.start(text, self.facts.name, most)
        self.strip.start(most)
        self.legend.setText(colours.legend(most))
        self.status.setText("Reading the question\N{HORIZONTAL ELLIPSIS}")
        self._ask.emit(self._turn)
        self._refresh()

    @Slot()
    def cancel(self) -> None:
        """Stop the answer that is running, if one is; what it said so far stays."""
        if self._turn is not None:
            self._turn.cancel()

    @Slot()
    def start_over(self) -> None:
        """Forget the conversation."""
        self.cancel()
        self.error.hide()
        self.question.setFocus()
        self._forget.emit()

    @property
    def busy(self) -> bool:
        """Whether a model is being opened or an answer runs."""
        return bool(self._opening) or self._turn is not None

    def closeEvent(self, event: QCloseEvent) -> None:
        """Stop what runs and wait for the thread; a model that is being opened is opened first."""
        self.hide()
        self.cancel()
        self._thread.quit()
        self._thread.wait()
        super().closeEvent(event)

    # What the worker says.

    @Slot(object)
    def _opened(self, facts: ModelFacts) -> None:
        self.facts = facts
        self._opening = ""
        self.picker.show_open(facts.path)
        self.slider.setRange(1, facts.most)
        self.slider.setValue(facts.depth.max_steps or facts.most)
        self.settle.setChecked(facts.depth.exit is not None)
        self._show_depth()
        self._forgotten()
        self._refresh()
        self.idle.emit()

    @Slot()
    def _forgotten(self) -> None:
        self.transcript.clear()
        self.strip.start(self.slider.value())
        self.status.setText(self.facts.summary if self.facts else "")

    @Slot(object)
    def _show(self, token: Token) -> None:
        self.transcript.append_token(token)
        self.strip.append(token)
        self.status.setText(f"Answering\N{HORIZONTAL ELLIPSIS} {len(self.strip.tokens)} tokens")

    @Slot(object)
    def _ended(self, stats: Stats) -> None:
        self._turn = None
        reasons = {"cancelled": "stopped", "length": "cut: too long", "context": "cut: no room"}
        self.transcript.stop(reasons.get(stats.finish, ""))
        self.status.setText(_describe(stats))
        text = "".join(token.text for token in self.strip.tokens)
        said = QAccessibleAnnouncementEvent(self.transcript, text or "no answer")
        QAccessible.updateAccessibility(said)
        self._refresh()
        self.idle.emit()

    @Slot(str)
    def _failed(self, problem: str) -> None:
        broken, self._opening, self._turn = self._opening, "", None
        self.error.setText(problem)
        self.error.show()
        said = QAccessibleAnnouncementEvent(self.error, problem)
        QAccessible.updateAccessibility(said)
        self.status.setText(self.facts.summary if self.facts else "No model is open")
        self.picker.show_again()
        self._refresh()
        if self.facts is None and broken not in ("", NANO):
            self._start_opening(NANO)  # what was open last time no longer opens
        self.idle.emit()

    # What is shown.

    @Slot()
    def _show_depth(self) -> None:
        steps = self.slider.value()
        self.steps.setText(f"{steps} step{'s' * (steps > 1)}")
        if self._turn is None:
            self.legend.setText(colours.legend(steps))

    @Slot(int)
    def _describe(self, place: int) -> None:
        self.transcript.point_at(place)
        self.chosen.setText(self.strip.describe(place))

    def _send_or_stop(self) -> None:
        if self._turn is not None:
            self.cancel()
        else:
            self.send()

    def _refresh(self) -> None:
        answering = self._turn is not None
        self.button.setText("Sto&p" if answering else "&Send")
        self.button.setToolTip("Escape" if answering else "Enter")
        self.button.setEnabled(answering or (self.facts is not None and not self._opening))
        self.picker.setEnabled(not self._opening)
        self.slider.setEnabled(self.facts is not None)
        self.settle.setEnabled(self.facts is not None)


def _describe(stats: Stats) -> str:
    parts = [f"{stats.new_tokens} token{'s' * (stats.new_tokens != 1)}"]
    if stats.tokens_per_second:
        parts.append(f"{stats.tokens_per_second:.1f} tokens/s")
    if stats.new_tokens:
        parts.append(f"{stats.mean_steps:.1f} steps a token")
    parts.append(f"{stats.reused_tokens} of {stats.prompt_tokens} prompt tokens reused")
    return " \N{MIDDLE DOT} ".join(parts)
