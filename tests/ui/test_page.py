"""The page in a real browser, on a real server with nano.

Saves what it looks like: build/ui/page.png, of which docs/page.png is a copy, and page-dark.png.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from rdlite.cli.run.chat_screen import HUES, hue

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[2] / "build" / "ui"
KEY = "correct horse battery"
CHAIN = "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10?"
ENDLESS = "x" * 300
STOP_IDS = (501, 502, 505)  # of nano
WAIT = 30_000  # milliseconds, for machines that are busy
WIDE = {"width": 1120, "height": 700}


@contextmanager
def serving(*options, key=None, port=0):
    """Run a server; yields its process and its address."""
    env = os.environ | ({"RDLITE_API_KEY": key} if key else {})
    command = [sys.executable, "-m", "rdlite", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            found = re.search(r"Serving \S+ at (http://\S+)", said)
            assert found, f"the server said {said!r}"
            yield process, found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server():
    with serving() as (_, address):
        yield address


@pytest.fixture(scope="module")
def chromium():
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A tab with the page, and what is asked of it.

    Attributes:
        page: playwright's.
        problems: what the browser complained of, violations of the policy too; none may be left.
        requests: addresses that it fetched.
    """

    def __init__(self, page, address):
        self.page, self.problems, self.requests = page, [], []
        page.set_default_timeout(WAIT)
        page.on("console", lambda said: self.problems.append(said.text))
        page.on("pageerror", lambda problem: self.problems.append(str(problem)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)

    def __getitem__(self, selector):
        return self.page.locator(selector)

    @property
    def answer(self):
        return self[".answer"].last

    @property
    def tokens(self):
        return self.answer.locator(".token")

    @property
    def readout(self):
        return self["#readout"].inner_text()

    def ready(self):
        expect(self["#settings"]).to_be_enabled()
        return self

    def ask(self, question):
        self["#question"].fill(question)
        self["#question"].press("Enter")
        self.wait()

    def wait(self):
        expect(self["#send"]).to_be_visible()

    def ask_at_length(self):
        """Ask so that nano finds no end, as deep as can be, and wait until it answers.

        One choice comes after the other, or a slow browser would see little but the end.
        """
        never = dict.fromkeys(map(str, STOP_IDS), -1000)

        def without_end(route):
            asked = route.request.post_data_json | {"logit_bias": never, "n": 8}
            route.continue_(post_data=json.dumps(asked))

        self.page.route("**/v1/chat/completions", without_end)
        self["#slider"].press("End")
        self["#exit"].select_option("off")
        self["#question"].fill(ENDLESS)
        self["#question"].press("Enter")
        expect(self["#stop"]).to_be_visible()
        expect(self.tokens.nth(5)).to_be_attached()
        self.page.unroute("**/v1/chat/completions", without_end)

    def told(self):
        """Go through the last answer with the keyboard; what the page says of each token."""
        count = self.tokens.count()
        self.answer.press("Home")
        lines = [self.readout]
        for _ in range(count - 1):
            self.page.keyboard.press("ArrowRight")
            lines.append(self.readout)
        return lines

    def steps(self):
        """Core steps of the last answer's tokens."""
        return [int(re.search(r": (\d+) steps?", line)[1]) for line in self.told()]

    def colours(self):
        script = "all => all.map(one => getComputedStyle(one).borderBottomColor)"
        return self.tokens.evaluate_all(script)

    def width(self):
        return self.page.evaluate("document.documentElement.scrollWidth")


@pytest.fixture
def tab(chromium):
    """Open a tab at an address; at the end, nothing may have come from anywhere else."""
    contexts = []

    def open_tab(address, **look):
        context = chromium.new_context(**({"viewport": WIDE} | look))
        visit = Visit(context.new_page(), address)
        contexts.append((context, visit, address))
        return visit

    yield open_tab
    for context, visit, address in contexts:
        assert visit.problems == []
        foreign = [u for u in visit.requests if not u.startswith((f"{address}/", "data:"))]
        assert foreign == []
        assert context.cookies() == []
        assert visit.page.evaluate("localStorage.length") == 0
        context.close()


@pytest.fixture
def visit(tab, server):
    return tab(server).ready()


def busy(address):
    with urllib.request.urlopen(f"{address}/health") as answer:
        return json.load(answer)["busy"]


def wait_until_free(visit, address):
    for _ in range(WAIT // 25):
        if busy(address) == 0:
            return
        visit.page.wait_for_timeout(25)
    raise AssertionError("the server still answers for somebody who has left")


def test_an_answer_streams_in_with_the_colours_of_its_depth(visit):
    visit["#exit"].select_option("kl")
    visit.ask("Who are you?")
    visit.ask("What is 48 + 76?")
    assert visit.answer.inner_text() == "124"
    assert visit["#spoken"].inner_text() == "124"
    steps, colours = visit.steps(), visit.colours()
    assert len(steps) == visit.tokens.count() == 4  # with the one that ends it
    shades = {}
    for count, colour in zip(steps, colours, strict=True):
        shades.setdefault(colour, set()).add(count)
    assert len(shades) >= 2, "tokens of different depth look the same"
    ranges = sorted((min(counts), max(counts)) for counts in shades.values())
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    legend = ["steps", "1", "2-3", "4-8", "9-20", "21-32"]
    assert visit["#legend"].inner_text().split() == legend
    visit.page.keyboard.press("Escape")
    assert re.fullmatch(
        r"4 tokens · \d+ tokens/s · [\d.]+ steps a token · \d+ of \d+ prompt tokens reused",
        visit.readout,
    )
    mean = float(re.search(r"([\d.]+) steps", visit.readout)[1])
    assert mean == pytest.approx(sum(steps) / len(steps), abs=0.05)
    assert int(re.search(r"(\d+) of", visit.readout)[1]) > 0
    visit.tokens.first.click()
    visit["#question"].focus()
    PICTURES.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=PICTURES / "page.png")


@pytest.mark.parametrize("most", [1, 2, 7, 32, 64])
def test_the_colours_mean_what_they_do_in_a_terminal(visit, most):
    script = """async (most) => {
      const { level } = await import("/levels.js");
      return Array.from({ length: most }, (_, i) => level(i + 1, most));
    }"""
    expected = [HUES.index(hue(steps, most)) for steps in range(1, most + 1)]
    assert visit.page.evaluate(script, most) == expected


def test_the_curve_has_a_line_for_each_token_and_shows_which_is_pointed_at(visit):
    visit.ask("What is 48 + 76?")
    lines, bold = visit["#curve .line"], visit["#curve .line.selected"]
    expect(lines).to_have_count(4)
    assert "each of 4 tokens" in visit["#curve"].get_attribute("aria-label")
    visit.tokens.nth(1).click()
    expect(bold).to_have_count(1)
    assert visit.readout.startswith("Token 2 of 4, “2”: ")
    second = bold.get_attribute("d")
    assert second.count("L") + 1 == visit.steps()[1]
    visit.tokens.nth(2).hover()
    assert visit.readout.startswith("Token 3 of 4, “4”: ")
    assert bold.get_attribute("d") != second
    visit["h1"].hover()
    visit.ask("Who are you?")
    expect(bold).to_have_count(0)
    expect(lines).to_have_count(visit.tokens.count())
    visit[".answer"].first.locator(".token").first.hover()  # an earlier answer's
    expect(lines).to_have_count(4)


def test_the_depth_that_is_set_is_kept_to(visit):
    visit.ask(CHAIN)
    assert visit.answer.inner_text() == "4"
    assert max(visit.steps()) > 2
    visit["#steps"].fill("2")
    visit["#steps"].press("Tab")
    assert visit["#slider"].input_value() == "2"
    visit["#again"].click()
    visit.wait()
    expect(visit["article"]).to_have_count(1)
    assert max(visit.steps()) == 2
    assert visit["#legend"].inner_text().split() == ["steps", "1", "2"]
    visit["#slider"].press("End")
    assert visit["#steps"].input_value() == "64"
    visit["#steps"].fill("9999")
    visit["#steps"].press("Tab")
    assert visit["#steps"].input_value() == "64"
    visit["#exit"].select_option("off")
    visit["#temperature"].fill("0")
    visit["#again"].click()
    visit.wait()
    assert set(visit.steps()) == {64}
    assert "exit value" not in visit.readout


def test_a_long_answer_can_be_stopped_and_the_chat_goes_on(visit, server):
    for stop in (lambda: visit["#stop"].click(), lambda: visit.page.keyboard.press("Escape")):
        visit.ask_at_length()
        stop()
        visit.wait()
        wait_until_free(visit, server)
        expect(visit[".note"].last).to_have_text("stopped")
        expect(visit["#question"]).to_be_focused()
    visit["#new"].click()
    expect(visit["article"]).to_have_count(0)
    visit.ask("What is 48 + 76?")
    assert visit.answer.inner_text() == "124"
    visit.ask_at_length()
    visit["#new"].click()
    visit.wait()
    wait_until_free(visit, server)
    expect(visit["article"]).to_have_count(0)
    expect(visit["#intro"]).to_be_visible()


def test_an_answer_is_spoken_once_and_not_token_by_token(visit):
    visit["#spoken"].evaluate(
        """spoken => {
          window.heard = [];
          new MutationObserver(() => window.heard.push(spoken.textContent))
            .observe(spoken, { childList: true, characterData: true, subtree: true });
        }"""
    )
    visit.ask("What is 48 + 76?")
    assert visit.page.evaluate("window.heard") == ["Answering", "124"]


def test_everything_can_be_done_with_the_keyboard(visit):
    keys = visit.page.keyboard
    expect(visit["#question"]).to_be_focused()
    keys.type("What is")
    keys.press("Shift+Enter")
    keys.type("48 + 76?")
    assert visit["#question"].input_value() == "What is\n48 + 76?"
    visit["#question"].fill("")
    keys.type("What is 48 + 76?")
    keys.press("Enter")
    visit.wait()
    expect(visit["#question"]).to_be_focused()
    assert visit["#question"].input_value() == ""
    for expected in ("#edit", "#again", ".answer"):
        keys.press("Shift+Tab")
        expect(visit[expected]).to_be_focused()
        outline = visit[expected].evaluate("it => getComputedStyle(it).outlineStyle")
        assert outline == "solid"
    assert visit.readout.startswith("Token 1 of 4, “1”: ")
    keys.press("End")
    assert visit.readout.startswith("Token 4 of 4, the end: ")
    keys.press("ArrowLeft")
    assert visit.readout.startswith("Token 3 of 4, “4”: ")
    expect(visit["#curve .line.selected"]).to_have_count(1)
    keys.press("Escape")
    expect(visit["#curve .line.selected"]).to_have_count(0)
    for expected in ("#again", "#edit"):
        keys.press("Tab")
        expect(visit[expected]).to_be_focused()
    keys.press("Enter")
    expect(visit["#question"]).to_have_value("What is 48 + 76?")
    expect(visit["#question"]).to_be_focused()
    expect(visit["article"]).to_have_count(0)
    for expected in ("#send", "#slider", "#steps", "#exit", "#temperature"):
        keys.press("Tab")
        expect(visit[expected]).to_be_focused()


def test_fields_have_room_for_what_they_are_without_a_choice(visit):
    room = """field => {
        const style = getComputedStyle(field)
        const pen = document.createElement("canvas").getContext("2d")
        pen.font = style.font
        const text = field.placeholder || field.options[field.selectedIndex].text
        const inside = field.clientWidth - parseFloat(style.paddingLeft) * 2
        return inside - pen.measureText(text.replace("0)", "0.75)")).width
    }"""
    for field in ("#exit", "#temperature"):
        assert visit[field].evaluate(room) >= 0


def test_a_long_chat_says_what_it_leaves_out(tab, short_nano):
    with serving(str(short_nano)) as (_, address):
        visit = tab(address).ready()
        for number in range(20, 27):
            visit.ask(f"What is {number} + {number}?")
            assert visit.answer.inner_text() == str(2 * number)
        assert not visit[".note"].first.inner_text()
        said = re.compile(r"^without the \d+ oldest messages: the model was trained on less$")
        expect(visit[".note"].last).to_have_text(said)


def test_text_is_never_markup(visit):
    hostile = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>'
    depth = {"steps": [3], "exit_values": [None], "changes": [[1.0, None, 0.0]]}
    chunks = [
        {"choices": [{"delta": {"content": hostile}, "finish_reason": None, "depth": depth}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream))
    visit.ask(hostile)
    assert visit[".question"].inner_text() == visit.answer.inner_text() == hostile
    visit.tokens.first.hover()
    assert hostile in visit.readout
    assert visit["main img, main script"].count() == 0
    assert visit.page.evaluate("window.hacked") is None


def test_a_reload_forgets_the_conversation(visit):
    visit.ask("What is 48 + 76?")
    assert "reloading forgets" in visit["#intro"].text_content()
    visit.page.reload()
    visit.ready()
    expect(visit["article"]).to_have_count(0)
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_a_server_with_a_key_is_asked_with_it(tab):
    with serving(key=KEY) as (_, address):
        visit = tab(address)
        expect(visit["#lock"]).to_be_visible()
        visit["#key"].fill("wrong horse")
        visit["#key"].press("Enter")
        expect(visit["#wrong"]).to_have_text("That key was not accepted.")
        visit["#key"].fill(KEY)
        visit["#key"].press("Enter")
        visit.ready()
        expect(visit["#lock"]).to_be_hidden()
        visit.page.reload()  # the tab knows it until it is closed
        visit.ready().ask("What is 48 + 76?")
        assert visit.answer.inner_text() == "124"
        refused = [problem for problem in visit.problems if "401 (Unauthorized)" in problem]
        assert visit.problems == refused
        visit.problems.clear()


def test_an_error_is_one_line_and_gives_the_question_back(tab):
    with serving("--slots", "1", "--queue", "0") as (process, address):
        visit, other = tab(address).ready(), tab(address).ready()
        visit["#question"].fill("What is 48 + 76?")
        other.ask_at_length()
        visit["#question"].press("Enter")
        expect(visit["#error"]).to_contain_text("try again in")
        assert "\n" not in visit["#error"].inner_text()
        expect(visit["#question"]).to_have_value("What is 48 + 76?")
        expect(visit["article"]).to_have_count(0)
        other["#question"].fill("What is 1 + 1?")
        process.kill()
        process.wait()
        other.wait()
        expect(other["#error"]).to_contain_text("The answer broke off")
        expect(other["#question"]).to_have_value(f"{ENDLESS}\nWhat is 1 + 1?")
        expect(other[".note"]).to_contain_text("broke off")
        visit["#question"].press("Enter")
        expect(visit["#error"]).to_contain_text("The server does not answer")
        expect(visit["#question"]).to_have_value("What is 48 + 76?")
    with serving(port=address.rpartition(":")[2]):
        visit["#question"].press("Enter")
        visit.wait()
        assert visit.answer.inner_text() == "124"
        expect(visit["#error"]).to_be_hidden()
        other.ask("What is 48 + 76?")
        assert other[".question"].all_inner_texts() == ["What is 48 + 76?"]
        assert other.answer.inner_text() == "124"
    for each in (visit, other):
        assert all("Failed to load resource" in problem for problem in each.problems)
        each.problems.clear()


def test_it_is_dark_where_the_system_is(tab, server):
    grounds = []
    for scheme in ("light", "dark"):
        visit = tab(server, color_scheme=scheme).ready()
        visit["#exit"].select_option("kl")
        visit.ask("Who are you?")
        visit.ask("What is 48 + 76?")
        script = "getComputedStyle(document.documentElement).backgroundColor"
        rgb = re.findall(r"\d+", visit.page.evaluate(script))
        grounds.append(sum(map(int, rgb)))
    assert grounds[1] < 150 < 600 < grounds[0]
    PICTURES.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=PICTURES / "page-dark.png")


@pytest.mark.parametrize(("width", "height"), [(360, 640), (640, 360), (320, 256)])
def test_small_windows_and_large_text_need_no_sideways_scrolling(tab, server, width, height):
    visit = tab(server, viewport={"width": width, "height": height}).ready()
    assert visit.width() <= width
    visit.ask(CHAIN)
    visit.ask_at_length()
    assert visit.width() <= width
    visit.page.keyboard.press("Escape")
    visit.wait()
    visit.answer.press("End")
    assert visit.width() <= width
    expect(visit.tokens.last).to_be_in_viewport()
    visit["header a"].click()
    expect(visit["#slider"]).to_be_in_viewport()
