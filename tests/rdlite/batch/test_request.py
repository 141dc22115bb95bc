"""What a row asks for, and the reasons why it cannot."""

import pytest

from rdlite import Depth, InputError, Sampling
from rdlite.batch.options import Options
from rdlite.batch.request import id_of, request_of


def test_an_openai_line_asks_what_it_asks_of_the_server(nano):
    row = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "nano",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is 48 + 76?"}]},
            ],
            "max_completion_tokens": 5,
            "temperature": 0.5,
            "seed": 3,
            "stop": None,
            "n": 1,
            "stream": False,
            "metadata": {"k": "v"},
        },
    }
    request = request_of(row, "a", nano, Options())
    messages = [("system", "Be brief."), ("user", "What is 48 + 76?")]
    said = [{"role": role, "content": content} for role, content in messages]
    assert request["prompt"] == nano.encode_chat(said)
    assert request["max_tokens"] == 5
    assert request["sampling"] == Sampling(temperature=0.5)
    assert request["seed"] == 3
    assert "draws" not in request


def test_a_row_changes_the_options_of_the_job(nano):
    options = Options(max_tokens=9, depth=Depth(4), seed=2, stop=("x",), ignore=("label",))
    plain = request_of({"prompt": "hi", "label": 1}, 0, nano, options)
    assert (plain["max_tokens"], plain["depth"], plain["stop"]) == (9, Depth(4), ("x",))
    own = request_of({"prompt": "hi", "depth": {"max_steps": 8}, "stop": "y"}, 0, nano, options)
    assert (own["depth"], own["stop"]) == (Depth(8), "y")


def test_draws_follow_the_row_and_not_its_place(nano):
    def draws(row, identity, **options):
        return request_of(row, identity, nano, Options(**options))["draws"]

    row = {"prompt": "hi"}
    assert draws(row, "a") == draws(row, "a")
    assert len({draws(row, "a"), draws(row, "b"), draws(row, 1), draws(row, "1")}) == 4
    assert draws(row, "a") != draws(row, "a", seed=1)
    assert draws(row, None) == draws(row, None) != draws({"prompt": "ho"}, None)


def test_chat_reads_a_prompt_as_a_message(nano):
    said = nano.encode_chat([{"role": "user", "content": "hi"}])
    assert request_of({"q": "hi"}, 0, nano, Options(chat=True, column="q"))["prompt"] == said
    assert request_of({"prompt": "hi"}, 0, nano, Options())["prompt"] == said
    assert request_of({"prompt": [5, 6]}, 0, nano, Options())["prompt"] == [5, 6]
    raw = Options(chat=False)
    assert request_of({"prompt": "hi"}, 0, nano, raw)["prompt"] == nano.encode("hi")
    with pytest.raises(InputError, match="at least one token"):
        request_of({"prompt": ""}, 0, nano, raw)


CHAT = {"url": "/v1/chat/completions"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "needs 'prompt' or 'messages', one of them"),
        ({"prompt": "a", "messages": []}, "one of them"),
        ({"prompt": 5}, "must be text or token ids, got int"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "\ud800"}, "cannot be encoded"),
        ({"prompt": "a " * 2000}, "the context is 1024"),
        ({"prompt": "a" * 10_000_000}, "has 10000000 characters, the context is 1024 tokens"),
        ({"prompt": "a", "max_token": 3}, "'max_token' means nothing in a row"),
        ({"prompt": "a", "n": 2}, "'n' means nothing"),
        ({"prompt": "a", "n": True}, "'n' means nothing"),
        ({"prompt": "a", "model": "gpt"}, "asks for the model 'gpt', this job runs nano"),
        ({"prompt": "a", "max_tokens": 3, "max_completion_tokens": 4}, "differ"),
        ({"prompt": "a", "depth": 3}, "depth must be an object"),
        ({"prompt": "a", "depth": {"deep": 3}}, "depth must be an object"),
        ({"prompt": "a", "depth": {"exit": []}}, "exit must be the name of a rule"),
        ({"prompt": "a", "depth": {"exit": "no"}}, "exit must be one of"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature must be a number"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias must map token ids"),
        ({"prompt": "a", "logit_bias": {"9" * 5000: 1}}, "logit_bias must map token ids"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "needs a role, one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "must be text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "'tool_calls'"),
        ({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 1}, "an object"),
        ({**CHAT, "method": "GET", "body": {}}, "method must be POST"),
        ({"url": "/v1/embeddings", "body": {}}, "url must be"),
        ({**CHAT, "body": 3}, "body must be an object"),
        ({**CHAT, "body": {"prompt": "x"}}, "needs 'messages', and not 'prompt'"),
        ({**CHAT, "body": {"messages": []}, "prompt": "x"}, "not 'prompt': leave it out"),
    ],
)
def test_a_row_that_cannot_be_answered_says_why(nano, row, message):
    with pytest.raises(InputError, match=message):
        request_of(row, 0, nano, Options())


@pytest.mark.parametrize("id", [{}, 1.5, True, "x" * 1001, 2**63, "\ud800"])
def test_ids_of_no_use_are_refused(id):
    with pytest.raises(InputError, match="id must be a text"):
        id_of({"id": id})


def test_ids_are_found():
    assert [id_of(row) for row in ({"id": "a"}, {"custom_id": "b", "id": "c"}, {"id": 0})] == [
        "a",
        "b",
        0,
    ]
    assert id_of({"prompt": "x"}) is None is id_of(None)
