"""What the page is made of; tests/ui looks at it in a browser."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from rdlite.serve import page
from rdlite.serve.page import FILES, add_page


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    add_page(app)
    return TestClient(app)


@pytest.mark.parametrize("path", FILES)
def test_a_file_comes_with_the_policy_and_refers_to_nothing_elsewhere(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    names = answer.text.replace("http://www.w3.org/2000/svg", "")  # a name that nobody fetches
    assert "//" not in re.sub(r"^\s*//.*|; // .*|\{ *// .*", "", names, flags=re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_no_script_stands_in_markup_and_no_markup_in_scripts(client, path):
    text = client.get(path).text
    for what in (r"<script(?![^>]* src=)", r"\son\w+=\"", r"\sstyle=", r"javascript:", r"<style"):
        assert not re.search(what, text), what
    for what in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert what not in text


def test_every_file_of_the_page_is_served_and_named_once():
    folder = Path(page.__file__).parent
    files = {file.name for file in folder.iterdir() if file.suffix in (".html", ".js", ".css")}
    assert sorted(name for name, _ in FILES.values()) == sorted(files)
