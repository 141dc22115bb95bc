"""Where answers end: one rule, whatever the files of a model say and however they disagree."""

import itertools
import json

import pytest
from checkpoints import byte_tokenizer

from rdlite.tokenizer.chat_template import ChatTemplate
from rdlite.tokenizer.stops import find_stops
from rdlite.tokenizer.tokenizer import Tokenizer

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>")
ADDED = ("</think>", "<tool_call>", "   ", "<|end|>")
BOS, END, START, TURN, THINK, CLOSE, TOOL, SPACES, MARK = range(256, 265)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(json.dumps(byte_tokenizer(SPECIAL, ADDED)).encode(), 288)


#: What a file may give as the end, and whether answers can end there.
GIVEN = {
    None: False,
    END: True,
    TURN: True,
    MARK: True,  # added, not special, but written as a mark
    101: False,  # a letter
    SPACES: False,  # added, and text all the same
    THINK: False,
    CLOSE: False,
    287: False,  # of the model, not of its tokenizer
    65505: False,
    -1: False,
}


def test_every_combination_of_files_and_what_they_say(tokenizer):
    eos = {None: None, "</s>": END, "<|im_end|>": TURN, "</think>": None, "nothing": None}
    template = ChatTemplate(CHATML)
    for generation, config, named, asked in itertools.product(GIVEN, GIVEN, eos, (None, template)):
        ids = [("generation_config.json", generation), ("config.json", config)]
        ids = [(source, id) for source, id in ids if id is not None]
        tokens = [("tokenizer_config.json", named)] if named else []
        special = {"eos_token": named} if named else {}
        stops = find_stops(ids, tokens, tokenizer, asked, 288, special)
        wanted = {id for id in (generation, config) if GIVEN[id]}
        wanted |= {eos[named]} - {None}
        wanted |= {TURN} if asked else set()
        assert stops.ids.keys() == wanted
        for source, id in ids:
            assert (source in stops.ids.get(id, [])) == GIVEN[id]
            assert (f"{id} ({source})" in stops.ignored) != GIVEN[id]
        assert ("chat template" in stops.ids.get(TURN, [])) == (asked is not None)


def test_why_something_is_no_end_is_told(tokenizer):
    ids = [("config.json", id) for id in (101, THINK, 287, 65505, SPACES)]
    stops = find_stops(ids, [("tokenizer_config.json", "</think>")], tokenizer, None, 288)
    assert stops.ids == {}
    assert stops.ignored == {
        "101 (config.json)": "'e' is ordinary text",
        f"{THINK} (config.json)": "<think> is a mark of thinking",
        "287 (config.json)": "the tokenizer has no such token",
        "65505 (config.json)": "outside 0 to 287",
        f"{SPACES} (config.json)": "'   ' is ordinary text",
        "</think> (tokenizer_config.json)": "it is a mark of thinking",
    }


def test_what_the_tokenizer_calls_its_end_is_one_though_it_looks_like_text(tokenizer):
    ids = [("config.json", 66), ("config.json", 67)]
    stops = find_stops(ids, [("its config", "B")], tokenizer, None, 288, {"eos_token": "B"})
    assert stops.ids == {66: ["config.json", "its config"]}


def test_without_a_tokenizer_ids_are_believed_as_far_as_there_are_tokens():
    stops = find_stops([("a", 5), ("b", 288)], [("c", "</s>")], None, None, 288)
    assert stops.ids == {5: ["a"]}
    assert stops.ignored == {"288 (b)": "outside 0 to 287"}


@pytest.mark.parametrize(
    ("after", "ids", "strings"),
    [
        ("<|im_end|>\n", {TURN}, set()),
        (" </s>", {END}, set()),  # Llama 2
        ("", set(), set()),
        ("\n### User:", set(), set()),  # nothing but text: nothing to stop at
        ("<|eot_id|>", set(), {"<|eot_id|>"}),  # a mark that is several tokens here
        ("<think>", set(), set()),
        ("<|im_start|>", {START}, set()),  # the next turn begins: this one has ended
    ],
)
def test_the_templates_own_end_of_a_turn(tokenizer, after, ids, strings):
    source = "{% for m in messages %}" + "{{ m.content + " + repr(after) + " }}{% endfor %}"
    stops = find_stops([], [], tokenizer, ChatTemplate(source), 288)
    assert (stops.ids.keys(), stops.strings.keys()) == (ids, strings)
    assert all(said == ["chat template"] for said in stops.ids.values())


def test_an_end_that_only_the_last_turn_has_counts_too(tokenizer):
    source = (
        "{% for m in messages %}{{ m.content }}{{ '</s>' if loop.last else '<|im_end|>' }}"
        "{% endfor %}"
    )
    assert find_stops([], [], tokenizer, ChatTemplate(source), 288).ids.keys() == {END, TURN}


def test_a_template_that_refuses_is_not_asked(tokenizer):
    refusing = ChatTemplate("{{ raise_exception('tools only') }}")
    assert find_stops([("a", END)], [], tokenizer, refusing, 288).ids == {END: ["a"]}
