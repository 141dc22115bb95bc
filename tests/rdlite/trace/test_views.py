"""Pages and pictures of traces: hostile texts stay texts, and any trace can be drawn."""

import re
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from rdlite import Depth, Sampling, Stats
from rdlite.trace.html import trace_page
from rdlite.trace.plot import ROWS, plot_trace
from rdlite.trace.record import Candidate, Thought, TokenTrace, Trace, trace

HOSTILE = (
    "</td><script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "'><img src=http://evil.example/x>",
    "--><!-- ]]> <![CDATA[",
    "</title></style><style>*{display:none}",
    "&lt;&#60;b&#62;",
    "\x1b[2J\x9b\x00\x07",
    "\u202eabc\u2066",
    "$\\frac{1}{0}$ $x^",
    "\N{FULL BLOCK}" * 5000,
    "中文 \U0001f600 \u0301\u0301",
    " \n\t ",
    "",
)


def thought(texts, change=0.5, value=None):
    share = 0.9 / len(texts)
    found = tuple(Candidate(sum(map(ord, text)), text, share) for text in texts)
    return Thought(change, value, share, found)


def made(tokens, prompt="why?", name="m", depth=None):
    stats = Stats(new_tokens=len(tokens))
    return Trace(name, prompt, True, depth or Depth(4), Sampling(), 0, tuple(tokens), stats)


@pytest.fixture(scope="module")
def hostile():
    turns = [HOSTILE[i:] + HOSTILE[:i] for i in range(len(HOSTILE))]
    return made(
        [
            TokenTrace(0, text, text, -1.0, tuple(map(thought, turns[i:] + turns[:i])))
            for i, text in enumerate(HOSTILE)
        ],
        prompt=" ".join(HOSTILE),
        name=HOSTILE[0],
    )


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.comments = set(), set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attributes}

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def test_nothing_that_a_model_says_becomes_markup(hostile, nano):
    page = Reader(trace_page(hostile))
    harmless = Reader(trace_page(trace(nano, "What is 4848 + 1576?", chat=True)))
    assert page.tags == harmless.tags
    assert page.attributes == harmless.attributes
    assert not page.comments
    assert "script" not in page.tags
    assert "</td><script>alert(1)</script>" in page.text
    assert '" onmouseover="alert(1)" x="' in page.text
    assert "&lt;&#60;b&#62;" in page.text
    assert "\\x1b[2J\\x9b\\x00\\x07" in page.text
    assert "\\u202eabc\\u2066" in page.text


def test_a_page_holds_no_control_codes_and_needs_no_network(hostile):
    page = trace_page(hostile)
    assert all(c.isprintable() or c == "\n" for c in page)
    page.encode()
    tags = re.findall(r"<[a-z][^>]*>", page)
    assert not [tag for tag in tags if re.search(r"\b(src|href=[^#]|url|on[a-z]+=)", tag[:20])]
    assert "default-src 'none'" in page
    assert "url(" not in page
    assert "@import" not in page


def test_a_page_tells_all(nano):
    found = trace(nano, "What is 4848 + 1576?", chat=True)
    page = trace_page(found)
    text = "".join(Reader(page).text)
    for token in found.tokens:
        assert f"{token.token}, {token.steps} steps, the likeliest settled at" in text
    assert page.count("<td style") + page.count("<td class=new") == found.stats.core_steps
    assert "6424" in text
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_hostile_texts_are_drawn_as_texts(hostile, kind, tmp_path):
    path = tmp_path / f"trace.{kind}"
    plot_trace(hostile, path)  # warnings, as of signs that a font lacks, are errors
    assert path.stat().st_size > 10_000
    if kind == "svg":
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not tags & {"script", "foreignObject", "a"}


def token(changes, tops=None):
    tops = tops or ["a"] * len(changes)
    thoughts = (thought([top, "b", "c"], change) for top, change in zip(tops, changes, strict=True))
    return TokenTrace(0, "a", "a", -1.0, tuple(thoughts))


@pytest.mark.parametrize(
    "tokens",
    [
        [token([1.0])],
        [token([None])],
        [token([0.0, 0.0])],
        [token([1.0, None, 1e-9])],
        [token([0.5] * 1024, [str(i) for i in range(1024)])],
        [token([1.0 / (i + 1) for i in range(n % 7 + 1)]) for n in range(3 * ROWS)],
    ],
)
def test_any_trace_can_be_drawn(tokens, tmp_path):
    for depth in (Depth(4), Depth(4, exit="latent-diff", threshold=0.0)):
        plot_trace(made(tokens, depth=depth), tmp_path / "trace.svg")
    text = (tmp_path / "trace.svg").read_text()
    cut = f"(the first {ROWS} of {len(tokens)} tokens)"
    assert (cut in text) == (len(tokens) > ROWS)


def test_answers_are_written_into_their_blocks(nano, tmp_path):
    found = trace(nano, "What is 4848 + 1576?", chat=True, depth=Depth(8))
    plot_trace(found, tmp_path / "trace.svg")
    text = (tmp_path / "trace.svg").read_text()
    for part in ("nano: What is 4848 + 1576?", "Likeliest answer after each core step"):
        assert f"<!-- {part} -->" in text
    for each in found.tokens:
        assert f"<!-- {escape(each.token)} -->" in text


def test_a_trace_of_one_token_is_settled_from_the_start():
    assert token([1.0]).settled == 1
    assert token([1.0] * 4, ["a", "b", "a", "a"]).settled == 3
