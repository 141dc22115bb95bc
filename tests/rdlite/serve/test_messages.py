"""Messages and parameters as clients send them: what is harmless passes, and does nothing."""

import pydantic
import pytest

from rdlite.serve.requests.protocol import ChatRequest

QUESTION = {"role": "user", "content": "What is 48 + 76?"}


def read(**changes):
    return ChatRequest.model_validate({"model": "nano", "messages": [QUESTION]} | changes)


def told(*messages):
    return [message.for_template() for message in read(messages=list(messages)).messages]


@pytest.mark.parametrize(
    "kept",
    [
        {"id": 1947, "opts": {"visible": True}},  # CodeCompanion
        {"type": "text"},  # lm-evaluation-harness
        {"type": "message", "status": "completed"},
        {"timestamp": 1764236000.5, "metadata": {"a": None}, "children": []},
        {"cache_control": {"type": "ephemeral"}},
        {
            "tool_calls": [],
            "function_call": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
        },
        {"images": [], "prefix": False, "partial": None},
    ],
)
def test_what_clients_keep_with_a_message_does_nothing(kept):
    assert told(QUESTION | kept) == [QUESTION]


def test_what_templates_ask_for_is_told_to_them():
    answer = {"role": "assistant", "content": "124", "name": "a"}
    thought = answer | {"reasoning_content": "carry the one"}
    assert told(QUESTION, thought) == [QUESTION, thought]
    assert told(QUESTION, answer | {"reasoning": "carry the one"}) == [QUESTION, thought]
    for nothing in (None, [], ""):
        assert told(QUESTION, answer | {"reasoning_content": nothing}) == [QUESTION, answer]


def test_an_answer_may_have_no_words():
    for silent in ({}, {"content": None}):
        silent = {"role": "assistant", "reasoning_content": "hm"} | silent
        assert told(QUESTION, silent)[1]["content"] == ""
    with pytest.raises(pydantic.ValidationError, match="content"):
        told({"role": "user"})


def test_parts_are_read_as_their_texts():
    parts = [
        {"type": "text", "text": "What is ", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "48 "},
        {"type": "output_text", "text": "+ ", "annotations": []},
        "76?",
    ]
    assert told({"role": "user", "content": parts}) == [QUESTION]
    with pytest.raises(pydantic.ValidationError, match="at most 65536 are let pass"):
        told({"role": "user", "content": [parts[0] | {"cache_control": "x" * 70000}]})


def test_a_null_is_as_if_it_were_not_there_whatever_its_name():
    plain = read()
    nulls = """prompt_cache_key safety_identifier verbosity web_search_options moderation user tools
        prompt_cache_retention prompt_cache_options stop seed depth something_new""".split()
    assert read(**dict.fromkeys(nulls)) == plain
    assert read(messages=[QUESTION | {"name": None, "tool_call_id": None, "x": None}]) == plain
    with pytest.raises(pydantic.ValidationError, match="extra_forbidden"):
        read(depht=False)


def test_who_asks_and_what_for_changes_nothing():
    kept = {
        "user": "0123456789abcdef",
        "safety_identifier": "u-1",
        "prompt_cache_key": "session-1",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"a": 1},
        "client_metadata": {"session": "b"},
    }
    without = dict.fromkeys(kept)
    assert read(**kept).model_copy(update=without) == read().model_copy(update=without)


def test_variables_of_the_template_come_under_either_name():
    assert read(chat_template_kwargs={"enable_thinking": True}).chat_template_kwargs
    assert read(enable_thinking=False).enable_thinking is False
