"""The window of examples/electron in Chromium, with a bridge that says what a model would.

Saves what it looks like: build/ui/electron-window.png.
"""

from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "ui"
BRIDGE = """
window.said = [];
window.rdlite = {
    ask: (id, text) => said.push(["ask", id, text]),
    cancel: () => said.push(["cancel"]),
    listen: (told) => (window.told = told),
};
"""


def test_the_window_shows_tokens_as_text_and_stops():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--allow-file-access-from-files"],
        )
        page = browser.new_page(viewport={"width": 720, "height": 560})
        page.add_init_script(BRIDGE)
        page.goto((ROOT / "examples" / "electron" / "index.html").as_uri())
        expect(page.locator("#question")).to_be_disabled()
        page.evaluate("told({ type: 'opened', name: 'nano' })")
        page.locator("#question").fill("What is 48 + 76?")
        page.keyboard.press("Enter")
        assert page.evaluate("said") == [["ask", 1, "What is 48 + 76?"]]
        for steps, text in ((2, "<b>"), (9, "2"), (32, "4")):
            page.evaluate("told", {"type": "token", "id": 1, "text": text, "steps": steps})
        page.evaluate("told", {"type": "token", "id": 0, "text": "late", "steps": 1})
        expect(page.locator(".answer")).to_have_text("<b>24")
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(PICTURES / "electron-window.png"))
        page.locator("#stop").click()
        assert page.evaluate("said.at(-1)") == ["cancel"]
        page.evaluate("told", {"type": "ended", "id": 1, "finish": "cancelled"})
        expect(page.locator("#status")).to_have_text("Stopped.")
        expect(page.locator("#question")).to_be_enabled()
        browser.close()
