"""docs/recipes.md: every program on it runs, and prints what stands below it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
BLOCK = re.compile(
    r"^## (?P<title>[^\n]+)$|^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def recipes():
    title = ""
    for found in BLOCK.finditer(PAGE.read_text()):
        title = found["title"] or title
        if found["code"]:
            yield pytest.param(found["code"], found["output"], id=title)


def test_every_block_is_found():
    page = PAGE.read_text()
    assert len(list(recipes())) == page.count("```python\n")
    assert sum(output is not None for _, output in (p.values for p in recipes())) == page.count(
        "```text\n"
    )


@pytest.mark.parametrize(("code", "output"), list(recipes()))
def test_a_recipe_prints_what_stands_below_it(code, output, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoint").symlink_to(ROOT / "examples" / "nano" / "checkpoint")
    exec(compile(code, str(PAGE), "exec"), {"__name__": "recipe"})
    printed = capsys.readouterr().out
    assert output is None or printed == output
