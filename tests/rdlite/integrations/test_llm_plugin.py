"""The plugin, in the real `llm`: answers, streams, conversations, options, models by path."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

llm = pytest.importorskip("llm", reason="llm is not installed")

import rdlite  # noqa: E402
from rdlite.integrations.llm_plugin import LoopedModel  # noqa: E402

SUM = "What is 48 + 76?"
PENS = "Tom has 5 pens. Eats 4. Finds 9. How many pens now?"


@pytest.fixture
def looped():
    return LoopedModel("nano", "nano")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command of `llm`, with a folder for its settings of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    from llm.cli import cli

    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_llm_finds_the_plugin(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "rdlite-nano", SUM],
        capture_output=True,
        text=True,
        env=os.environ | {"LLM_USER_PATH": str(tmp_path)},
    )
    assert (answer.stdout, answer.stderr) == ("124\n", "")


def test_a_conversation_goes_on(command):
    assert command("-m", "rdlite-nano", SUM).stdout == "124\n"
    assert command("-c", PENS).stdout == "10\n"
    turns = json.loads(command("logs", "--json").stdout)
    assert [turn["model"] for turn in turns] == ["rdlite-nano"] * 2
    assert turns[0]["conversation_id"] == turns[1]["conversation_id"]


def test_models_are_added_by_path(command, text_bundle):
    assert (
        "Next: llm -m rdlite-mine 'Hello'" in command("rdlite", "add", "mine", text_bundle).stdout
    )
    assert command("rdlite", "list").stdout == f"rdlite-mine: {text_bundle}\n"
    assert "rdlite: rdlite-mine\n" in command("models").stdout
    assert command("-m", "rdlite-mine", "hi", "-o", "max_tokens", 3).exit_code == 0
    assert command("rdlite", "remove", "mine").exit_code == 0
    assert command("rdlite", "list").stdout == ""


def test_what_cannot_be_added_is_one_line(command, tmp_path):
    for arguments, message in (
        (("add", "x", tmp_path), "Error: "),
        (("add", "nano", tmp_path), "Error: NAME must be letters, digits, '-' and '.', and not"),
        (("remove", "x"), "Error: 'x' was not added"),
    ):
        result = command("rdlite", *arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert result.stderr.startswith(message)
    (tmp_path / "llm" / "rdlite.json").write_text("[")
    result = command("-m", "rdlite-nano", SUM)
    assert result.stdout == "124\n"
    assert "rdlite.json is damaged" in result.stderr


def test_answers_come_token_by_token(looped):
    response = looped.prompt(SUM)
    pieces = list(response)
    assert "".join(pieces) == "124"
    assert len(pieces) > 2
    usage = response.usage()
    assert usage.output == 4
    assert usage.details["mean_steps"] > 1


def test_a_conversation_is_replayed_and_its_cache_used(looped):
    talk = looped.conversation()
    talk.prompt(SUM).text()
    second = talk.prompt(PENS)
    with rdlite.load() as model:
        chat = model.chat()
        chat.send(SUM).text  # noqa: B018
        assert second.text() == chat.send(PENS).text == "10"
    assert second.usage().details["reused"] > 20
    told = [llm.user(SUM), llm.assistant("124"), llm.user(PENS)]
    retold = LoopedModel("nano", "nano").prompt(messages=told)  # as after a restart
    assert retold.text() == "10"
    assert retold.usage().input == second.usage().input
    other = looped.prompt(PENS)  # knows nothing of it
    assert other.text() == "10"
    assert other.usage().input < second.usage().input
    assert other.usage().details["reused"] == 0


def test_two_conversations_at_once_do_not_mix(looped):
    one, two = iter(looped.conversation().prompt(SUM)), iter(looped.conversation().prompt(PENS))
    begun = next(one), next(two)
    assert begun[1] + "".join(two) == "10"
    assert begun[0] + "".join(one) == "124"


def test_a_system_prompt_and_messages_reach_the_model(looped):
    plain, with_system = looped.prompt(SUM), looped.prompt(SUM, system="Be brief.")
    plain.text(), with_system.text()
    assert with_system.usage().input > plain.usage().input


def test_options_reach_the_model(looped):
    with rdlite.load() as model:
        chat = model.chat(depth=rdlite.Depth(2), sampling=rdlite.Sampling(temperature=2.0), seed=5)
        wanted = chat.send(SUM, 6).text
    response = looped.prompt(SUM, steps=2, exit="off", temperature=2.0, seed=5, max_tokens=6)
    assert response.text() == wanted
    assert response.usage().details["mean_steps"] == 2
    for bad, message in (
        ({"steps": 0}, "steps"),
        ({"exit": "latent"}, "did you mean latent-diff"),
        ({"nonsense": 1}, "nonsense"),
    ):
        with pytest.raises(Exception, match=message):
            looped.prompt(SUM, **bad).text()


def test_an_error_of_the_model_is_llm_s_error():
    with pytest.raises(llm.ModelError, match="nowhere is not a folder"):
        LoopedModel("x", "nowhere").prompt("hi").text()
