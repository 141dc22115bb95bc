"""The chat on a real terminal: prompts, Ctrl-C once and twice, leaving."""

import sys

import pytest

pexpect = pytest.importorskip("pexpect", reason="no pseudo-terminals here")


@pytest.fixture
def terminal(bundle_copy, sign):
    # without stops, an answer of 500 tokens at 200 steps each takes many seconds
    (bundle_copy / "generation_config.json").write_text("{}")
    sign(bundle_copy)
    child = pexpect.spawn(
        sys.executable,
        [
            "-m",
            "rdlite",
            "chat",
            str(bundle_copy),
            *"--max-tokens 500 --steps 200 --temp 0".split(),
        ],
        encoding="utf-8",
        codec_errors="replace",
        timeout=30,
        dimensions=(24, 100),
    )
    child.expect("/help for help")
    child.expect("> ")
    yield child
    child.close(force=True)


def test_commands_and_leaving(terminal):
    terminal.sendline("/help")
    terminal.expect("forget the conversation")
    terminal.expect("> ")
    terminal.sendline("/steps 2")
    terminal.expect("2 steps a token from now on")
    terminal.expect("> ")
    terminal.sendline("hello")
    terminal.expect("tokens/s, 2.0 steps a token.*cut off by --max-tokens")
    terminal.expect("> ")
    terminal.sendline("/quit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_a_second_one_leaves(terminal):
    terminal.sendline("hello")
    terminal.expect("hello\r\n")
    terminal.expect(".")  # the answer has begun
    terminal.sendintr()
    terminal.expect(r"\[stopped\]")
    terminal.expect("> ")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_ctrl_d_leaves(terminal):
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0


def test_export_draws_a_bar_on_a_terminal(text_checkpoint, tmp_path):
    arguments = ["-m", "rdlite", "export", str(text_checkpoint), "-o", str(tmp_path / "out")]
    child = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=30)
    child.expect("weights.*━")
    child.expect("Next: rdlite chat")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
