"""The desktop window, on the display that `make test-ui` brings, and ways to wait for it."""

import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESKTOP = ROOT / "examples" / "desktop"
PATIENCE = 60.0  # seconds after which a test gives up; none measures time


@pytest.fixture(scope="session")
def app():
    """Return Qt's application, on a real display."""
    from PySide6.QtWidgets import QApplication

    assert os.environ.get("DISPLAY"), "these tests need a display: run make test-ui"
    sys.path.insert(0, str(DESKTOP))  # the app's modules import each other by their bare names
    application = QApplication.instance() or QApplication([])
    assert application.platformName() == "xcb"
    yield application
    sys.path.remove(str(DESKTOP))


@pytest.fixture
def until(app):
    """Let Qt run until something holds."""
    from PySide6.QtCore import QEventLoop

    def wait(holds):
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            app.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)

    return wait


@pytest.fixture
def settings(tmp_path):
    """Return settings of the test's own."""
    from PySide6.QtCore import QSettings

    return QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat)


@pytest.fixture
def open_window(app, until, settings):
    """Open a window with a model in it; it is closed, and its thread joined, after the test."""
    from window import Window

    windows = []

    def make(model=None):
        window = Window(settings, model)
        windows.append(window)
        window.show()
        until(lambda: not window.busy)
        return window

    yield make
    for window in windows:
        window.close()
        window.deleteLater()
    app.processEvents()


@pytest.fixture(scope="session")
def talkative(tmp_path_factory):
    """Return a bundle with random weights whose answers never stop by themselves."""
    from rdlite.export import export_checkpoint
    from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint

    folder = tmp_path_factory.mktemp("talkative")
    config = hub_config(
        width=256, heads=4, inner=512, vocabulary=288, context=2048, mean_steps=4, layers=(1, 2, 1)
    )
    checkpoint = write_random_checkpoint(folder / "checkpoint", config)
    (checkpoint / "generation_config.json").write_text("{}")
    return export_checkpoint(checkpoint, folder / "talkative")


@pytest.fixture
def talker(talkative, open_window):
    """Return a window with that model."""
    return open_window(str(talkative))


@pytest.fixture
def window(open_window):
    """Return a window with nano in it."""
    return open_window()


@pytest.fixture
def ask(until):
    """Type a question, press Enter, wait for the answer's end; returns what was answered."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    def ask(window, question, wait=True):
        window.question.setPlainText(question)
        QTest.keyClick(window.question, Qt.Key.Key_Return)
        if wait:
            until(lambda: not window.busy)
        return "".join(token.text for token in window.strip.tokens)

    return ask
