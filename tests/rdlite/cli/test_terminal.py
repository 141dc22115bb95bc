"""The chat on a real terminal, seen through an emulated screen."""

import os
import re
import sys
import time

import pytest

pexpect = pytest.importorskip("pexpect", reason="no pseudo-terminals here")
pyte = pytest.importorskip("pyte", reason="no screen to look at")
termios = pytest.importorskip("termios", reason="no terminals here")
PATIENCE = 60  # seconds after which a test gives up; none measures time


class Screen:
    """A program on a terminal of some size: what is typed goes in, what it draws can be read."""

    def __init__(self, arguments, home, rows=24, columns=100, **env):
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.stream = pyte.Stream(self.screen)
        not_ours = ("XDG_CONFIG_HOME", "NO_COLOR", "COLUMNS", "LINES")  # the terminal says its size
        outer = {n: v for n, v in os.environ.items() if n not in not_ours}
        env = {**outer, "TERM": "xterm-256color", "HOME": str(home), **env}
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "rdlite", *map(str, arguments)],
            encoding="utf-8",
            codec_errors="replace",
            timeout=PATIENCE,
            dimensions=(rows, columns),
            env=env,
        )
        # Terminals answer when they are asked where the cursor is.
        self.screen.write_process_input = self.child.send

    def text(self):
        """All that was drawn, what has scrolled away included."""
        top = [
            "".join(line[i].data for i in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return "\n".join(line.rstrip() for line in [*top, *self.screen.display])

    def read(self):
        try:
            self.stream.feed(self.child.read_nonblocking(65536, timeout=0.1))
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            return False
        return True

    def until(self, holds, wanted):
        """Read until something holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert self.read() or holds(), self.text()
            assert time.monotonic() < end, f"no {wanted} in:\n{self.text()}"

    def wait(self, *wanted):
        """Read until all of these are on the screen."""
        self.until(lambda: all(text in self.text() for text in wanted), wanted)

    def prompts(self):
        """Whether there is a prompt: only then keys are read one by one."""
        return not termios.tcgetattr(self.child.child_fd)[3] & termios.ICANON

    def type(self, text, end="\r"):
        """Type at the prompt, as soon as there is one: elsewhere Enter would be another key."""
        self.until(self.prompts, "prompt")
        self.child.send(text + end)

    def quit(self):
        """Leave as soon as there is a prompt to type at; returns the exit status."""
        self.until(self.prompts, "prompt")
        self.child.sendeof()
        return self.leave()

    def leave(self):
        end = time.monotonic() + PATIENCE
        while self.read():
            assert time.monotonic() < end
        self.child.wait()
        return self.child.exitstatus


@pytest.fixture
def start(tmp_path):
    screens = []

    def begin(*arguments, **options):
        screens.append(Screen(arguments, tmp_path / "home", **options))
        return screens[-1]

    (tmp_path / "home").mkdir()
    yield begin
    for screen in screens:
        screen.child.close(force=True)


@pytest.fixture
def endless(bundle_copy, sign):
    """A model whose answer of 500 tokens at 1,000 steps each takes many seconds."""
    (bundle_copy / "generation_config.json").write_text("{}")
    sign(bundle_copy)
    return ["chat", bundle_copy, *"--max-tokens 500 --steps 1000 --cache-share 4 --temp 0".split()]


def test_commands_and_leaving(start, endless):
    screen = start(*endless)
    screen.wait("1000 steps a token, context 640", "context 0 of")
    screen.type("/help")
    screen.wait("forget the conversation", "pressed twice, it leaves.")
    screen.type("/steps 2")
    screen.wait("2 steps a token from now on")
    screen.type("hello")
    screen.wait("--max-tokens]", "2.0 steps a token")
    screen.type("/quit")
    assert screen.leave() == 0


def test_ctrl_c_stops_the_answer_and_a_second_one_leaves(start, endless):
    screen = start(*endless)
    screen.wait("context 0 of")
    screen.type("hello")
    screen.wait("> hello")

    def answers():  # there is text, and it is not the status line of the prompt
        text = screen.text().partition("> hello")[2]
        return text.strip() and "context" not in text

    screen.until(answers, "answer")
    screen.child.sendintr()
    screen.wait("[stopped]")
    screen.until(screen.prompts, "prompt")
    screen.type("not sent\x03", end="")
    screen.wait("Ctrl-C again leaves; /save FILE keeps the conversation")
    assert "> not sent" not in screen.screen.display
    screen.type("typed after all\x03", end="")  # the line again, not the chat
    screen.wait("Ctrl-C again leaves")
    screen.type("\x03", end="")
    assert screen.leave() == 0


def test_a_download_is_asked_for_and_drawn(start, hub, tmp_path):
    more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "RDLITE_HOME": str(tmp_path / "r")}
    screen = start("inspect", "tiny/looped", **more)
    screen.wait("tiny/looped is not here: ", "Download it? [Y/n]:")
    screen.child.send("n\r")
    assert screen.leave() == 130
    assert len(hub.fetched("model.safetensors")) == 1  # the header
    screen = start("inspect", "tiny/looped", **more)
    screen.wait("Download it? [Y/n]:")
    screen.child.send("\r")
    screen.wait("note: tiny/looped:int8 is in ", "hidden_size")
    assert screen.leave() == 0
    assert "weights ━" in screen.text()
    assert len(hub.fetched("model.safetensors")) == 2


def test_a_report_draws_a_bar(start, text_bundle, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    out = ["-o", tmp_path / "out", "--scheme", "int8", "--report", tmp_path / "r.md"]
    screen = start("quantize", text_bundle, *out, "--text", text)
    screen.wait("measuring ━", "r.md: what quantization costs")
    assert screen.leave() == 0


def test_ctrl_d_leaves(start, endless):
    screen = start(*endless)
    screen.wait("context 0 of")
    assert screen.quit() == 0


def test_history_multiple_lines_and_editing(start, tmp_path):
    screen = start("chat")
    screen.wait("context 0 of")
    screen.child.send("What is 48\x1b\r+ 76?")  # Alt-Enter
    screen.wait("> What is 48\n  + 76?")
    screen.child.send("\x01x\x01\x04")  # to the front of the line; what is typed there goes again
    screen.type("")
    screen.wait("tokens/s")
    screen.type("Sort 52714.")
    screen.wait("12457")
    screen.type("\x1b[A\x1b[A", end="")  # up, up: the question of two lines
    screen.wait("> What is 48\n  + 76?")
    screen.child.send("\x03\x03")
    assert screen.leave() == 0
    files = [path for path in (tmp_path / "home").rglob("history") if path.is_file()]
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o077 == 0
    again = start("chat")
    again.wait("context 0 of")
    again.child.send("\x1b[A")
    again.wait("> Sort 52714.")
    again.child.send("\x03\x03")
    assert again.leave() == 0


def test_no_history(start, tmp_path):
    screen = start("chat", "--no-history")
    screen.wait("context 0 of")
    screen.type("Sort 21.")
    screen.wait("tokens/s")
    screen.type("/quit")
    assert screen.leave() == 0
    assert list((tmp_path / "home").rglob("history")) == []


def test_saving_loading_and_answering_again(start, tmp_path):
    path = tmp_path / "my talk.chat"
    screen = start("chat", columns=200)
    screen.wait("context 0 of")
    screen.type("What is 48 + 76?")
    screen.wait("124")
    screen.type(f"/save {path}")
    screen.wait("Saved to")
    screen.type("/reset")
    screen.wait("is forgotten", "context 0 of")
    screen.type(f"/load {path}")
    screen.wait("1 question so far")
    screen.type("/regen")
    screen.until(lambda: screen.text().count("first token after") == 2, "second answer")
    screen.type("/show")
    screen.wait("user: What is 48 + 76?", "assistant: 124")
    screen.type("/load nothing.chat")
    screen.wait("error: nothing.chat cannot be read")
    screen.type("/temp 0.5")
    screen.wait("The temperature is 0.5.")
    screen.type("/exit-rule off")
    screen.wait("32 steps a token from now on.")
    screen.type("/quit")
    assert screen.leave() == 0
    again = start("chat", "--load", path)
    again.wait("context 2")
    again.type("/show")
    again.wait("assistant: 124")
    assert again.quit() == 0


def test_tokens_are_coloured_by_their_steps(start):
    screen = start("chat", "--show-depth", "--steps", "32", "--exit", "latent-diff")
    screen.wait("context 0 of")
    screen.type("a = 7, b = a + 5, c = b * 3; what is c mod 10?")
    screen.wait("steps: ■ 1", "tokens/s")
    lines = screen.screen.display
    row = next(i for i, line in enumerate(lines) if line.strip() == "6")
    legend = next(i for i, line in enumerate(lines) if line.startswith("steps: "))
    colours = {
        screen.screen.buffer[legend][i].fg for i, mark in enumerate(lines[legend]) if mark == "■"
    }
    assert len(colours) == 5
    assert screen.screen.buffer[row][lines[row].index("6")].fg in colours
    assert screen.quit() == 0


def test_colours_are_left_out_where_nobody_wants_them(start):
    screen = start("chat", "--show-depth", NO_COLOR="1")
    screen.wait("context 0 of")
    screen.type("What is 48 + 76?")
    screen.wait("124", "tokens/s")
    assert "steps: ■" not in screen.text()
    assert screen.quit() == 0


@pytest.mark.parametrize("columns", [20, 200])
def test_narrow_and_wide_screens(start, columns):
    screen = start("chat", rows=12, columns=columns)
    screen.wait(">")
    screen.type("What is 48 + 76?")
    screen.wait("124")
    screen.until(screen.prompts, "prompt")
    assert all(len(line) <= columns for line in screen.screen.display)
    assert screen.quit() == 0


def test_forty_columns_break_lines_between_words(start):
    screen = start("chat", "--show-depth", rows=40, columns=40)
    screen.wait("context 0 of 896 · /help")
    screen.type("What is 48 + 76?")
    screen.wait("steps: ■ 1", "tokens/s")
    screen.type("/help")
    screen.wait("it leaves.")
    words = screen.text().split()
    for word in ("conversation", "likeliest", "prompt;", "■"):
        assert word in words
    assert re.search(r"■ \d+-32$", screen.text(), re.MULTILINE)
    assert screen.quit() == 0


def test_errors_about_files_name_what_was_asked_for(start, tmp_path):
    screen = start("chat", columns=200)
    screen.wait("context 0 of")
    screen.type("Sort 21.")
    screen.wait("tokens/s")
    screen.type(f"/save {tmp_path}/no/talk.chat")
    screen.wait(f"cannot write {tmp_path}/no/talk.chat: No such file or directory")
    screen.type(f"/save {tmp_path}/talk.chat")
    screen.wait("Saved to")
    screen.type("/steps 2")
    screen.type(f"/load {tmp_path}/talk.chat")
    screen.wait("was saved with 32 steps", "not 2 steps")
    assert "Depth(" not in screen.text()
    screen.type("/exit")  # a name of /quit that /help does not list
    assert screen.leave() == 0


def test_a_resize_while_typing(start):
    screen = start("chat", rows=20, columns=100)
    screen.wait("context 0 of")
    screen.child.send("What is 48")
    screen.wait("> What is 48")
    screen.child.setwinsize(20, 40)
    screen.screen.resize(20, 40)
    screen.type(" + 76?")
    screen.wait("124")
    assert screen.quit() == 0


def test_export_draws_a_bar_on_a_terminal(text_checkpoint, tmp_path):
    arguments = ["-m", "rdlite", "export", str(text_checkpoint), "-o", str(tmp_path / "out")]
    child = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=PATIENCE)
    child.expect("weights.*━")
    child.expect("Next: rdlite chat")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
