"""Texts of strangers are shown whole, and do nothing."""

import pytest

from rdlite.utils.printable import heading, label, printable, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("word", "word"),
        (" two words ", "␣two words␣"),
        ("  ", "␣␣"),
        ("", ""),
        ("a\n\n", "a↵↵"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\t\0\r", "\\t\\x00\\r"),
        ("é中\U0001f600", "é中\U0001f600"),
    ],
)
def test_a_label_is_one_line_without_control_codes(text, shown):
    assert label(text) == shown
    assert label(text).isprintable()


def test_a_text_keeps_its_lines():
    assert printable("a\nb\x07\x9b") == "a\nb\\x07\\x9b"


def test_what_is_cut_says_so():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"
    assert heading(" a\n b\x1b ") == "a b\\x1b"
    assert len(heading("x" * 999)) == 300
