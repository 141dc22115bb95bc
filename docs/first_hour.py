"""Prints docs/first-hour.md: a terminal session, recorded in tmux. `make docs` writes it.

Every command is typed into a shell on a terminal of 90 columns and waited for, in an empty home
folder. The model with a name comes from the hub server of the tests, on this machine.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds for each step; none of them measures time
NAME = "example/tiny-looped"
PROMPT = "$ "

INTRODUCTION = """\
# The first hour

A terminal session from the first question to a model of one's own choice, recorded by
`docs/first_hour.py` (`make docs`); a test records it again and compares. Speeds are of the machine
that it was recorded on.
"""


@dataclass
class Section:
    """A part of the session: a title, a word on it, what is typed and what to wait for."""

    title: str
    words: str
    steps: list[tuple[str, str]]


SECTIONS = [
    Section(
        "One question",
        "nano comes with rdlite, so there is nothing to download.",
        [('rdlite generate "What is 48 + 76?"', "124")],
    ),
    Section(
        "A chat",
        "`/help` lists the commands. With few steps nano cannot think far enough; `/steps` alone\n"
        "goes back to the model's own depth. Ctrl-C clears the line, and a second one leaves. The\n"
        "last line is the status bar: how much is read of the conversation, and how long nano's\n"
        "texts were in training; the oldest turns are left out there.",
        [
            ("rdlite chat", "context 0 of"),
            ("Tom has 5 pens. Eats 4. Finds 9. How many pens now?", "10\n["),
            ("/steps 2", "2 steps a token from now on"),
            ("What is 348 + 276?", "; prompt 53 tokens"),
            ("/steps", "32 steps a token from now on"),
            ("What is 348 + 276?", "624\n"),
            ("/save talk.chat", "Saved to talk.chat."),
        ],
    ),
    Section(
        "A model by its name",
        f"`{NAME}` stands for any model of the hub, such as `huginn`; here a small random\n"
        "one on a server of this machine. It is asked for once, and then it is there.",
        [
            (f"rdlite inspect {NAME} --json | head -4", "Download it? [Y/n]:"),
            ("y", '"family"'),
            ("rdlite models", "  used\n"),
            ("rdlite models rm example/tiny-looped", "Deleted"),
        ],
    ),
    Section(
        "Names, settings and mistakes",
        "What is mistyped is one line, with the way out.",
        [
            ("rdlite chat hugin", "did you mean huginn?"),
            ("rdlite config steps 8", "steps    8"),
            ("rdlite config", "color"),
            ("rdlite config depth 8", "there is no setting"),
            ("rdlite generate x --steps deep", "is not a valid integer"),
        ],
    ),
]


class Terminal:
    """A shell in tmux, under a server of its own."""

    def __init__(self, socket: Path, home: Path, environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", os.devnull]
        outer = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        subprocess.run(
            [
                *(*self._tmux, "new-session", "-d", "-x", "90", "-y", "50", "-c", str(home)),
                *("bash", "--norc", "--noprofile"),
            ],
            env=outer | environment,
            check=True,
        )
        self.wait("")

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> str:
        """Return all that was drawn, what has scrolled away included."""
        text = self._run("capture-pane", "-p", "-J", "-S", "-")
        return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))

    def ready(self) -> bool:
        """Whether something waits for a line at the cursor: the shell, a chat or a question."""
        place = self._run("display-message", "-p", "#{cursor_x} #{cursor_y}")
        column, row = map(int, place.split())
        line = self._run("capture-pane", "-p", "-S", str(row), "-E", str(row)).rstrip()
        return (line in ("$", ">") and column == 2) or line.endswith("[Y/n]:")

    def wait(self, wanted: str) -> None:
        """Wait until there is a text, and a line can be typed; raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while not (wanted in self.screen() + "\n" and self.ready()):
            if time.monotonic() > end:
                raise TimeoutError(f"no {wanted!r} in:\n{self.screen()}")
            time.sleep(0.1)

    def type(self, text: str, wanted: str) -> None:
        """Type a line and wait for what comes of it."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", "Enter")
        self.wait(wanted)

    def close(self) -> None:
        """End the server and all that runs in it."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve a small random model as the hub would; gives the address."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    spec = importlib.util.spec_from_file_location("hub", ROOT / "tests" / "rdlite" / "conftest.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = hub_config(
        width=64, heads=4, inner=96, vocabulary=288, context=640, mean_steps=4, layers=(1, 2, 1)
    )
    checkpoint = write_random_checkpoint(folder / "checkpoint", config)
    with module.HubServer() as server:
        server.repos[NAME] = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def record() -> dict[str, str]:
    """Return what stood on the terminal at the end of each section, by title."""
    with tempfile.TemporaryDirectory() as name, hub(Path(name)) as address:
        folder = Path(name)
        home, bin_ = folder / "home", folder / "bin"
        home.mkdir()
        bin_.mkdir()
        (bin_ / "rdlite").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rdlite "$@"\n')
        (bin_ / "rdlite").chmod(0o755)
        environment = {
            "HOME": str(home),
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PS1": PROMPT,
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "hub"),
            "RDLITE_HOME": str(home / "rdlite"),
            "BASH_SILENCE_DEPRECATION_WARNING": "1",
        }
        found = {}
        for number, section in enumerate(SECTIONS):
            terminal = Terminal(folder / f"{number}.socket", home, environment)
            try:
                for typed, wanted in section.steps:
                    terminal.type(typed, wanted)
                shown = terminal.screen()
            finally:
                terminal.close()
            shown = re.sub(r"\n{3,}", "\n\n", shown.removesuffix("\n$"))
            found[section.title] = shown.replace(str(home), "~")
        return found


def stable(text: str) -> str:
    """Return a recording without what another machine, or another nano, has otherwise."""
    text = re.sub(r"-:--:--|\d[\d.,:-]*", "N", text)  # the first: a bar that ends at once
    return re.sub(r"\s+", " ", text)


def page() -> str:
    """Return the whole page."""
    found = record()
    parts = [INTRODUCTION]
    for section in SECTIONS:
        parts.append(f"## {section.title}\n\n{section.words}\n")
        parts.append(f"```text\n{found[section.title]}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if shutil.which("tmux") is None:
        sys.exit("tmux is missing: apt-get install tmux")
    print(page(), end="")
