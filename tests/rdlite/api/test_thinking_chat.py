"""A thinking model in a chat and behind the server: told apart, switched, not read again."""

import json

import openai
import pytest
from click.testing import CliRunner

import rdlite
from rdlite import InputError
from rdlite.cli.main import main
from rdlite.cli.run.chat_screen import Terminal
from rdlite.tokenizer.thinking import Piece

QUESTION = "What is 48 + 76?"


@pytest.fixture(scope="module")
def thinker(thinking_nano):
    with rdlite.load(thinking_nano) as model:
        yield model


def test_what_was_thought_is_not_in_the_next_turn(thinker):
    talk = thinker.chat()
    answer = talk.send(QUESTION)
    assert answer.text == "<think>hm</think>4"
    splitter = talk.splitter()
    assert splitter.push(answer.text) == Piece("hm", "4")
    assert talk.messages[-1] == {"role": "assistant", "content": "4"}
    rendered = thinker.chat_template.render(talk.messages)
    assert "think" not in rendered


def test_an_answer_that_was_stopped_in_thought_says_nothing(thinker):
    talk = thinker.chat()
    assert talk.send(QUESTION, max_tokens=1).text == "<think>hm"
    assert talk.messages[-1] == {"role": "assistant", "content": ""}


def test_thinking_can_be_switched(thinker, nano):
    talk = thinker.chat()
    first = talk.send(QUESTION)
    list(first)
    talk.reset()
    talk.think(False)
    second = talk.send(QUESTION)
    list(second)
    assert second.stats.prompt_tokens > first.stats.prompt_tokens
    talk.think(True)
    assert talk.template_variables == {"enable_thinking": True}
    with pytest.raises(InputError, match="no switch for thinking"):
        nano.chat().think(False)


def test_a_saved_chat_knows_the_switch(thinker, tmp_path):
    talk = thinker.chat()
    talk.think(False)
    talk.save(tmp_path / "talk.chat")
    other = thinker.chat()
    other.load(tmp_path / "talk.chat")
    assert other.template_variables == {"enable_thinking": False}


def chat(model, *options, said=QUESTION, code=0):
    result = CliRunner().invoke(main, ["chat", str(model), *options], input=said + "\n")
    assert result.exit_code == code, result.output
    return result


def test_a_pipe_gets_the_answer_alone(thinking_nano):
    assert chat(thinking_nano).stdout == "4\n"
    shown = chat(thinking_nano, "--show-thinking")
    assert (shown.stdout, shown.stderr.strip()) == ("4\n", "hm")
    *tokens, last = map(json.loads, chat(thinking_nano, "--json").stdout.splitlines())
    assert "".join(token["text"] for token in tokens) == "<think>hm</think>4"
    assert (last["text"], last["reasoning"]) == ("4", "hm")


def test_the_switch_can_be_typed(thinking_nano):
    said = chat(thinking_nano, said="/think off\n/think on\n/think", code=2)
    assert "answers without thinking first from now on" in said.stderr
    assert "thinks before it answers from now on" in said.stderr
    assert "give /think on or /think off" in said.stderr
    refused = CliRunner().invoke(main, ["chat", "--think", "off"], input="x\n")
    assert (refused.exit_code, "no switch for thinking" in refused.stderr) == (2, True)


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_dims_or_hides_what_is_thought(shown, capsys, monkeypatch):
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    screen = Terminal.__new__(Terminal)
    screen._thinking, screen._thought, screen._depth = shown, False, False
    for piece in (Piece("so", ""), Piece(" it is", ""), Piece("", "4"), Piece("", "2")):
        screen.show(None, piece, 4)
    said = capsys.readouterr().out
    dim = "\x1b[2mso\x1b[0m\x1b[2m it is\x1b[0m" if shown else "\x1b[2mthinking...\x1b[0m"
    assert said == f"{dim}\n\n42"


@pytest.fixture(scope="module")
def client(thinking_nano):
    from fastapi.testclient import TestClient

    from rdlite.serve.app import create_app
    from rdlite.serve.settings import Settings

    with rdlite.load(thinking_nano) as model:
        settings = Settings(depth=model.default_depth, sampling=model.generation_config.sampling)
        with TestClient(create_app(model, settings), base_url="http://127.0.0.1") as http:
            yield openai.OpenAI(api_key="none", base_url="http://127.0.0.1/v1", http_client=http)


def ask(client, **options):
    question = {"role": "user", "content": QUESTION}
    return client.chat.completions.create(model="nano", messages=[question], seed=0, **options)


def test_the_server_tells_thinking_apart(client):
    (choice,) = ask(client).choices
    assert (choice.message.content, choice.message.reasoning_content) == ("4", "hm")
    thought = said = ""
    for chunk in ask(client, stream=True):
        delta = chunk.choices[0].delta
        thought += getattr(delta, "reasoning_content", None) or ""
        said += delta.content or ""
    assert (said, thought) == ("4", "hm")


def test_the_server_switches_thinking(client):
    plain = ask(client).usage.prompt_tokens
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    assert ask(client, extra_body=kwargs).usage.prompt_tokens > plain
