"""Start the app: `python examples/desktop`; --self-test asks nano one question and leaves."""

import os
import sys
import tempfile

QUESTION, ANSWER = "What is 48 + 76?", "124"
PATIENCE_MS = 120_000


def main() -> int:
    """Run the app; return its exit code."""
    from PySide6.QtCore import QSettings
    from PySide6.QtWidgets import QApplication

    from window import Window

    app = QApplication(sys.argv)
    app.setApplicationName("rdlite desktop")
    window = Window(QSettings("rdlite", "desktop"))
    window.show()
    try:
        return app.exec()
    finally:
        window.close()  # joins the thread, however the loop ended


def self_test() -> int:
    """Show the window (off the screen, unless QT_QPA_PLATFORM says where), ask nano, leave.

    What happens is printed as it happens, a line each: "window", "model", "token", the answer.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6.QtCore import QModelIndex, QSettings, QTimer
    from PySide6.QtWidgets import QApplication

    from window import Window

    app = QApplication(sys.argv[:1])
    with tempfile.TemporaryDirectory() as folder:
        settings = QSettings(os.path.join(folder, "settings.ini"), QSettings.Format.IniFormat)
        window = Window(settings)

        def step() -> None:
            if window.error.isVisible():
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

        def first_token(parent: QModelIndex, first: int, last: int) -> None:
            if first == 0:
                print("token", flush=True)

        window.idle.connect(step)
        window.strip.model().rowsInserted.connect(first_token)
        QTimer.singleShot(PATIENCE_MS, lambda: app.exit(1))
        QTimer.singleShot(0, lambda: print("window", flush=True))
        window.show()
        code = app.exec()
        window.close()
    return code


if __name__ == "__main__":
    raise SystemExit(self_test() if "--self-test" in sys.argv[1:] else main())
