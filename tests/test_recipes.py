"""docs/recipes.md and embedding.md: every program there runs, and prints what stands below it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("recipes.md", "embedding.md")]
BLOCK = re.compile(
    r"^## (?P<title>[^\n]+)$|^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def recipes(page):
    title = ""
    for found in BLOCK.finditer(page.read_text()):
        title = found["title"] or title
        if found["code"]:
            yield pytest.param(found["code"], found["output"], id=title)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_found(page):
    text, found = page.read_text(), [recipe.values for recipe in recipes(page)]
    assert len(found) == text.count("```python\n") > 0
    assert sum(output is not None for _, output in found) == text.count("```text\n")


@pytest.mark.parametrize(("code", "output"), [r for page in PAGES for r in recipes(page)])
def test_a_recipe_prints_what_stands_below_it(code, output, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoint").symlink_to(ROOT / "examples" / "nano" / "checkpoint")
    exec(compile(code, "recipe", "exec"), {"__name__": "recipe"})
    printed = capsys.readouterr().out
    assert output is None or printed == output
