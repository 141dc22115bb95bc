"""The desktop app: a real window on a real display, with nano and a model that talks on and on."""

import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import pytest

import rdlite

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "build" / "ui" / "desktop.png"
SUM = "What is 48 + 76?"
CHAIN = "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10?"
LONG = "What can you do?"  # nano's longest answer


def key(window, name):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    window.activateWindow()  # where shortcuts work
    assert QTest.qWaitForWindowActive(window.window(), 60_000)  # ms, for machines that are busy
    QTest.keyClick(window, getattr(Qt.Key, f"Key_{name}"))


def test_an_answer_streams_and_is_that_of_the_library(window, ask, until):
    shown = []
    window.strip.model().rowsInserted.connect(
        lambda *_: shown.append((window.busy, window.transcript.toPlainText()))
    )
    said = ask(window, SUM)
    chat = rdlite.load().chat()
    assert said == chat.send(SUM).text == "124"
    shown.clear()
    said = ask(window, LONG)
    expected = list(chat.send(LONG))
    assert said == "".join(token.text for token in expected)
    assert [token.steps for token in window.strip.tokens] == [token.steps for token in expected]
    assert len(shown) == len(expected) > 20
    assert all(busy for busy, _ in shown)
    texts = [text for _, text in shown]
    assert len(set(texts)) > 20  # it grew token by token
    assert window.transcript.toPlainText().endswith(said)
    assert "tokens/s" in window.status.text()
    assert "prompt tokens reused" in window.status.text()
    assert " 0 of" not in window.status.text()  # the first question was in the cache


def test_the_window_lives_while_an_answer_runs(talker, ask, until):
    from PySide6.QtCore import QTimer

    ticks = []
    timer = QTimer(interval=0)
    timer.timeout.connect(lambda: ticks.append(len(talker.strip.tokens)))
    timer.start()
    ask(talker, "go on")
    timer.stop()
    assert len(set(ticks)) > 20  # it came round between tokens, all the way through


def test_escape_stops_an_answer(talker, ask, until):
    ask(talker, "go on", wait=False)
    until(lambda: len(talker.strip.tokens) >= 3)
    assert talker.button.text() == "Sto&p"
    key(talker, "Escape")
    until(lambda: not talker.busy)
    count = len(talker.strip.tokens)
    assert 3 <= count < 200
    assert talker.transcript.toPlainText().endswith("[stopped]")
    assert talker.error.isHidden()
    assert talker.button.text() == "&Send"
    ask(talker, "and on", wait=False)  # the conversation goes on
    until(lambda: len(talker.strip.tokens) >= 3)
    talker.button.click()
    until(lambda: not talker.busy)


def test_an_answer_is_stopped_before_it_begins(talker, ask, until):
    question = " ".join(["on"] * 500)
    ask(talker, question, wait=False)
    talker.cancel()  # what was asked is being read, or is not even looked at yet
    until(lambda: not talker.busy)
    assert not talker.strip.tokens
    assert talker.transcript.toPlainText().endswith("[stopped]")
    assert "0 tokens" in talker.status.text()


def test_the_depth_of_the_next_answer_is_chosen(window, ask):
    window.slider.setValue(2)
    assert ask(window, CHAIN) == "2"  # four operations cannot be thought through in two steps
    assert {token.steps for token in window.strip.tokens} <= {1, 2}
    window.slider.setValue(32)
    window.settle.setChecked(True)
    assert ask(window, CHAIN) == "4"
    assert max(token.steps for token in window.strip.tokens) < 32
    window.settle.setChecked(False)
    assert ask(window, CHAIN) == "4"
    assert {token.steps for token in window.strip.tokens} == {32}


def test_moving_the_slider_changes_no_answer_that_runs(talker, ask, until):
    talker.settle.setChecked(False)
    talker.slider.setValue(3)
    ask(talker, "go on", wait=False)
    until(lambda: len(talker.strip.tokens) >= 2)
    talker.slider.setValue(1)
    until(lambda: len(talker.strip.tokens) >= 40)
    assert {token.steps for token in talker.strip.tokens} == {3}
    talker.cancel()


def test_a_model_that_does_not_open_leaves_the_window_as_it_was(
    window, ask, until, bundle_copy, tmp_path
):
    ask(window, SUM)
    data = (bundle_copy / "core.onnx").read_bytes()
    (bundle_copy / "core.onnx").write_bytes(data[:-1] + b"x")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but no more")
    for path in (bundle_copy, tmp_path / "broken.gguf", tmp_path / "nowhere"):
        window.open_model(str(path))
        until(lambda: not window.busy)
        assert window.error.isVisible()
        assert window.error.text().count("\n") == 0
        assert path.name in window.error.text() or "core.onnx" in window.error.text()
        assert window.picker.currentText().startswith("nano")
        assert window.picker.recent() == []
        assert ask(window, SUM) == "124"
        assert window.error.isHidden()


def test_another_model_is_opened_while_an_answer_runs(talker, ask, until, talkative):
    ask(talker, "go on", wait=False)
    until(lambda: talker.strip.tokens)
    talker.open_model("nano")
    until(lambda: not talker.busy)
    assert talker.facts.name == "nano"
    assert talker.transcript.toPlainText() == ""
    assert ask(talker, SUM) == "124"
    assert talker.picker.recent() == [str(talkative)]


def test_models_are_remembered(open_window, settings, talkative, bundle_copy):
    open_window(str(talkative)).close()
    settings.sync()
    again = open_window()
    assert again.facts.path == str(talkative)
    again.close()
    settings.setValue("last", str(bundle_copy))
    (bundle_copy / "core.onnx").unlink()
    fallen_back = open_window()
    assert fallen_back.facts.path == "nano"
    assert "core.onnx" in fallen_back.error.text()
    settings.setValue("recent", "no list")  # as another program, or one path, may leave it
    assert fallen_back.picker.recent() == ["no list"]


@pytest.mark.parametrize("chosen", [True, False])
def test_a_model_is_picked_in_a_dialog(window, until, text_bundle, app, chosen):
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QFileDialog

    def choose():
        dialog = app.activeModalWidget()
        if not isinstance(dialog, QFileDialog):
            QTimer.singleShot(20, choose)
        elif chosen:
            dialog.selectFile(str(text_bundle))
            dialog.accept()
        else:
            dialog.reject()

    picker = window.picker
    (row,) = (i for i in range(picker.count()) if "folder" in picker.itemText(i))
    QTimer.singleShot(20, choose)
    picker.setCurrentIndex(row)
    picker.activated.emit(row)  # the dialog opens, and is gone when this returns
    until(lambda: not window.busy)
    assert window.facts.path == (str(text_bundle) if chosen else "nano")
    assert picker.currentData() == window.facts.path


def test_a_model_that_was_open_before_is_picked(open_window, until, text_bundle):
    window = open_window(str(text_bundle))
    window.open_model("nano")
    until(lambda: not window.busy)
    row = window.picker.findData(str(text_bundle))
    window.picker.setCurrentIndex(row)
    window.picker.activated.emit(row)
    until(lambda: not window.busy)
    assert window.facts.path == str(text_bundle)


def test_a_cache_that_would_be_too_large_is_shared(app):
    from worker import cache_for

    config = rdlite.load().config
    assert cache_for(config).share is None
    assert cache_for(dataclasses.replace(config, context_length=2**17)).share == 1


def test_a_gguf_file_is_a_model(open_window, ask, tmp_path):
    from rdlite.export.read import read_model
    from rdlite.export.to_gguf import export_gguf

    file = tmp_path / "nano.gguf"
    export_gguf(read_model("nano", as_stored=True), file)
    assert ask(open_window(str(file)), SUM) == "124"


def test_a_new_conversation_forgets_the_old_one(talker, ask, until):
    ask(talker, "go on", wait=False)
    until(lambda: talker.strip.tokens)
    talker.new.click()
    until(lambda: not talker.busy and talker.transcript.toPlainText() == "")
    assert talker.strip.tokens == []
    ask(talker, "hello", wait=False)
    until(lambda: talker.strip.tokens)
    talker.cancel()
    until(lambda: not talker.busy)
    assert "0 of " in talker.status.text() or "prompt tokens reused" in talker.status.text()


def test_a_question_that_does_not_fit_is_refused_in_a_line(window, ask):
    ask(window, "word " * 2000)
    assert "the context is" in window.error.text()
    assert ask(window, SUM) == "124"


def test_bars_can_be_walked_through_and_tell_what_they_are(window, ask):
    from PySide6.QtCore import Qt
    from PySide6.QtGui import QAccessible

    ask(window, LONG)
    strip, tokens = window.strip, window.strip.tokens
    strip.setFocus()
    key(strip, "Home")
    key(strip, "Right")
    assert strip.currentIndex().row() == 1
    assert window.chosen.text().endswith(f"{tokens[1].steps} of {window.slider.value()} steps")
    (mark,) = window.transcript.extraSelections()
    assert mark.cursor.selectedText() == tokens[1].text
    tip = strip.model().index(1, 0).data(Qt.ItemDataRole.ToolTipRole)
    assert tokens[1].text.strip() in tip
    read = QAccessible.queryAccessibleInterface(strip)
    assert read.text(QAccessible.Text.Name) == "Steps of each token"
    assert read.childCount() == len(tokens)
    assert read.child(1).text(QAccessible.Text.Name) == window.chosen.text()


def test_what_a_model_says_is_never_read_as_html(window):
    from PySide6.QtCore import Qt

    hostile = "<img src='/etc/passwd'><b>x</b>\u202e"
    token = rdlite.Token(id=0, text=hostile, steps=1, exit_value=None, logprob=0.0)
    window.transcript.start("<b>q</b>", "<i>name</i>", 4)
    window.transcript.append_token(token)
    window.strip.append(token)
    text = window.transcript.toPlainText()
    assert "<b>q</b>" in text
    assert "<i>name</i>" in text
    assert "<img src='/etc/passwd'><b>x</b>\\u202e" in text
    tip = window.strip.model().index(0, 0).data(Qt.ItemDataRole.ToolTipRole)
    assert "<img" not in tip
    assert "&lt;img" in tip
    for plain in (window.error, window.chosen, window.status):
        assert plain.textFormat() == Qt.TextFormat.PlainText


def test_nothing_that_a_user_does_in_any_order_brings_it_down(window, ask, until, talkative, app):
    draw = random.Random(0)
    models = ["nano", str(talkative), str(talkative / "nowhere")]
    actions = (
        lambda: ask(window, draw.choice((SUM, LONG, "go on")), wait=False),
        lambda: key(window, "Escape"),
        lambda: window.open_model(draw.choice(models)),
        lambda: window.new.click(),
        lambda: window.slider.setValue(draw.randrange(1, 9)),
        lambda: window.settle.toggle(),
        lambda: window.button.click(),
    )
    for _ in range(150):
        draw.choice(actions)()
        for _ in range(draw.randrange(3)):
            app.processEvents()
    window.cancel()
    until(lambda: not window.busy)
    window.open_model("nano")
    until(lambda: not window.busy)
    assert ask(window, SUM) == "124"


CLOSING = """
import sys
sys.path.insert(0, sys.argv[1])
from PySide6.QtCore import QSettings, Qt, QTimer
from PySide6.QtWidgets import QApplication
from window import Window

app = QApplication([])
window = Window(QSettings(sys.argv[2], QSettings.Format.IniFormat), sys.argv[3])
window.show()
when = sys.argv[4]
def go():
    window.question.setPlainText("go on " * 80)
    window.send()
    if when == "reading":
        window.close()
if when == "opening":
    QTimer.singleShot(0, window.close)
else:
    window.idle.connect(go, Qt.ConnectionType.SingleShotConnection)
window.strip.model().rowsInserted.connect(
    lambda _, first, last: (first == 3 and when == "answering" and window.close())
)
app.exec()
print(window._thread.isFinished(), len(window.strip.tokens))
"""


@pytest.mark.parametrize("when", ["opening", "reading", "answering"])
def test_closing_the_window_ends_everything(app, talkative, tmp_path, when):
    result = subprocess.run(
        [
            *(sys.executable, "-c", CLOSING, str(ROOT / "examples" / "desktop")),
            *(str(tmp_path / "settings.ini"), str(talkative), when),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    finished, tokens = result.stdout.split()
    assert finished == "True"
    assert (int(tokens) >= 4) is (when == "answering")


def test_the_self_test_of_the_command(app, tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "desktop"), "--self-test"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sorted(result.stdout.splitlines()) == [f"{SUM} 124", "model", "token", "window"]
    assert result.returncode == 0
    broken = tmp_path / "nothing"
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "desktop"), "--self-test", str(broken)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert str(broken) in result.stderr


def test_a_picture_shows_bars_and_tinted_tokens(window, ask, app):
    import colours

    for question in (SUM, CHAIN, LONG):
        ask(window, question)
    window.strip.setCurrentIndex(window.strip.model().index(7, 0))
    app.processEvents()
    picture = window.grab()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    assert picture.save(str(PICTURE))
    image = picture.toImage()
    place = window.strip.mapTo(window, window.strip.rect().topLeft())
    seen = {
        image.pixelColor(x, y).name()
        for x in range(place.x(), place.x() + window.strip.width())
        for y in range(place.y(), place.y() + window.strip.height())
    }
    hues = {colours.hue(token.steps, 32).name() for token in window.strip.tokens}
    assert len(hues) > 1
    assert hues <= seen
