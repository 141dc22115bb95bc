"""Start the app: `python examples/desktop [MODEL]`; --self-test asks one question and leaves."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from PySide6.QtCore import QModelIndex, QSettings, QTimer
from PySide6.QtWidgets import QApplication

from window import Window

QUESTION, ANSWER = "What is 48 + 76?", "124"
PATIENCE_MS = 120_000


def run(model: str | None) -> int:
    """Run the app until its window is closed; return the exit code."""
    app = QApplication(sys.argv[:1])
    app.setApplicationName("rdlite desktop")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Qt's loop would not let Python see Ctrl-C
    window = Window(QSettings("rdlite", "desktop"), model)
    window.show()
    try:
        return app.exec()
    finally:
        window.close()  # joins the thread, however the loop ended


def self_test(model: str | None) -> int:
    """Show the window (off the screen, unless QT_QPA_PLATFORM says where), ask, leave.

    What happens is printed as it happens, a line each: "window", "model", "token", and the
    question with its answer. The exit code says whether the answer is right.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    app = QApplication(sys.argv[:1])
    with tempfile.TemporaryDirectory() as folder:
        settings = QSettings(str(Path(folder) / "settings.ini"), QSettings.Format.IniFormat)
        window = Window(settings, model)

        def shown() -> None:
            if window.windowHandle().isExposed():  # the display has it, so it is painted
                print("window", flush=True)
            else:
                QTimer.singleShot(1, shown)

        def first_token(parent: QModelIndex, first: int, last: int) -> None:
            if first == 0:
                print("token", flush=True)

        def go_on() -> None:
            if not window.error.isHidden():
                print(window.error.text(), file=sys.stderr)
                app.exit(1)
            elif not window.strip.tokens:
                print("model", flush=True)
                window.question.setPlainText(QUESTION)
                window.send()
            else:
                text = "".join(token.text for token in window.strip.tokens)
                print(f"{QUESTION} {text}", flush=True)
                app.exit(text.strip() != ANSWER)

        window.strip.model().rowsInserted.connect(first_token)
        window.idle.connect(go_on)
        window.show()
        shown()
        QTimer.singleShot(PATIENCE_MS, lambda: app.exit(1))
        code = app.exec()
        window.close()
    return code


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="rdlite-desktop", description="Chat with a model.")
    parser.add_argument(
        "model", nargs="?", help="a bundle or a .gguf file; else the last one, nano"
    )
    parser.add_argument("--self-test", action="store_true", help="ask one question, print, leave")
    arguments = parser.parse_args()
    return (self_test if arguments.self_test else run)(arguments.model)


if __name__ == "__main__":
    raise SystemExit(main())
