"""The page of `rdlite page` in Chromium: the model in the tab, from a server of static files."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

import rdlite
from rdlite.serve.static_page import JAVASCRIPT, write_page

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 60_000.0  # milliseconds


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Write the page of nano; returns its folder."""
    assert (JAVASCRIPT / "node_modules").is_dir(), "run npm ci --ignore-scripts in js"
    folder = tmp_path_factory.mktemp("page") / "site"
    assert write_page("nano", folder) < 20e6
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def served(site):
    """Serve the folder on loopback; returns its address and what ends the server."""
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop():
        server.shutdown()
        server.server_close()
        thread.join()

    ended = []

    def stop_once():
        if not ended:
            ended.append(True)
            stop()

    yield f"http://127.0.0.1:{server.server_address[1]}/", stop_once
    stop_once()


@pytest.fixture
def tab(served):
    """Return a tab whose requests to any other place fail the test."""
    address, _ = served
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(PATIENCE)
        seen, problems = [], []
        page.context.on("request", lambda request: seen.append(request.url))
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        yield page
        assert all(url.startswith((address, "data:", "blob:")) for url in seen), seen
        assert not problems
        browser.close()


def ready(page):
    expect(page.locator("#model")).to_have_text("nano, 740 thousand parameters", timeout=PATIENCE)


def ask(page, question):
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("#actions")).to_be_visible(timeout=PATIENCE)
    answer = page.locator(".answer").last
    return answer.inner_text(), [
        token.get_attribute("class") for token in answer.locator(".token").all()
    ]


def test_the_model_answers_in_the_tab_and_offline(served, tab, tmp_path):
    address, stop = served
    tab.goto(address)
    ready(tab)
    text, _ = ask(tab, "What is 48 + 76?")
    assert text == "124"
    with rdlite.load(threads=1) as model:
        steps = [token.steps for token in model.chat().send("What is 48 + 76?")]
    tab.locator(".answer").focus()
    for number, wanted in enumerate(steps):
        tab.locator(".answer .token").nth(number).dispatch_event("click")
        expect(tab.locator("#readout")).to_contain_text(f": {wanted} steps")
    tab.screenshot(path=str(tmp_path / "page.png"))
    tab.evaluate("navigator.serviceWorker.ready.then(() => true)")
    tab.wait_for_function("navigator.serviceWorker.controller !== null")
    stop()  # from here on there is no server at all
    tab.reload()
    ready(tab)
    assert ask(tab, "What is 48 + 76?")[0] == "124"


def test_an_answer_is_stopped_and_the_next_one_is_whole(served, tab):
    address, _ = served
    tab.goto(address)
    ready(tab)
    tab.locator("#steps").fill("32")
    tab.locator("#exit").select_option("off")
    tab.locator("#question").fill("What can you do?")
    tab.keyboard.press("Enter")
    expect(tab.locator(".answer .token").first).to_be_attached()
    tab.keyboard.press("Escape")
    expect(tab.locator(".note").last).to_have_text("stopped")
    assert ask(tab, "What is 48 + 76?")[0] == "124"


def test_a_changed_weight_is_told_in_one_line(site, served, tab):
    address, _ = served
    path: Path = site / "model" / "core.onnx.data"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    try:
        tab.goto(address)
        expect(tab.locator("#error")).to_contain_text("core.onnx.data is damaged or was changed")
    finally:
        path.write_bytes(whole)
