"""Thinking is told from the answer, however the text is cut."""

import itertools

import pytest

from rdlite.tokenizer.thinking import Piece, ThinkingSplitter, opens_thinking, split_thinking

CASES = [
    ("<think>\nso it is\n</think>\n\nFour.", False, "so it is", "Four."),
    ("so it is</think>Four.", True, "so it is", "Four."),
    ("Four.", False, "", "Four."),
    ("\n Four. ", False, "", "\n Four. "),
    ("The tag <think> opens </think> it.", False, "", "The tag <think> opens </think> it."),
    ("<think>cut off", False, "cut off", ""),
    ("<think>\n\n</think>\n\nFour.", False, "", "Four."),
    ("<think>a </th b </think>c", False, "a </th b", "c"),
    ("<think>a</think>\n<think>b</think> c</think>", False, "ab", "c</think>"),
    ("<thin", False, "", "<thin"),
    ("a <", True, "a <", ""),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "opened", "reasoning", "content"), CASES)
def test_every_way_to_cut_a_text_gives_the_same(text, opened, reasoning, content):
    assert split_thinking(text, opened) == Piece(reasoning, content)
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        splitter, thought, said = ThinkingSplitter(opened), "", ""
        pieces = (text[:first], text[first:second], text[second:])
        for piece in [*(splitter.push(each) for each in pieces), splitter.finish()]:
            thought, said = thought + piece.reasoning, said + piece.content
        assert (thought, said) == (reasoning, content), (first, second)


def test_nothing_is_held_back_longer_than_it_is_unclear():
    splitter = ThinkingSplitter()
    assert splitter.push("<thi") == Piece("", "")
    assert splitter.push("nk>so") == Piece("so", "")
    assert splitter.thinking
    assert splitter.push(" it") == Piece(" it", "")
    assert splitter.push(" </") == Piece("", "")
    assert splitter.push("b>") == Piece(" </b>", "")
    assert splitter.push("</think>") == Piece("", "")
    assert not splitter.thinking
    assert splitter.push("\nFour") == Piece("", "Four")
    assert splitter.push(" <think>") == Piece("", " <think>")


def test_a_prompt_may_open_the_block():
    assert opens_thinking("<|im_start|>assistant\n<think>\n")
    assert not opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_thinking("say <think>\n<|im_start|>assistant\n")
