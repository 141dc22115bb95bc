"""docs/first-hour.md: the session is recorded again, and still goes as the page shows it."""

import runpy
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing: apt-get install tmux")
def test_the_first_hour_goes_as_recorded():
    script = runpy.run_path(str(DOCS / "first_hour.py"))
    page, stable = script["page"](), script["stable"]
    assert "124" in page
    assert "624" in page
    assert stable(page) == stable((DOCS / "first-hour.md").read_text()), "run `make docs`"
