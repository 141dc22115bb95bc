"""The page of `rdlite page` in Chromium: the model in the tab, from a server of static files.

Saves what it looks like: build/ui/static-page.png.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Error, expect, sync_playwright
from rdlite.export import export_checkpoint

import rdlite
from rdlite.bundle.update import update_bundle
from rdlite.loader import open_bundle
from rdlite.serve.static_page import JAVASCRIPT, write_page

CHROMIUM = "/usr/bin/chromium"
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "ui"
#: What a program does with rdlite/web; `job` says with which model and how.
SCORE = """async (job) => {
    const { load } = await import(new URL("rdlite/web/index.js", location.href));
    const options = { runtime: new URL("ort/", location.href), ...job.load };
    const model = await load(new URL(job.model, location.href), options);
    const scores = [];
    for (const steps of job.steps) {
        scores.push([...(await model.logits(job.ids, { ...job.options, steps }))]);
    }
    const chat = model.chat({ depth: job.depth });
    const turns = [];
    for (const question of job.questions) {
        const taken = [];
        const answer = chat.send(question);
        for await (const token of answer) taken.push(token.steps);
        turns.push([answer.text, taken]);
    }
    return { scores, turns };
}"""
PATIENCE = 60_000.0  # milliseconds


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Write the page of nano, and nano in float32 beside it; returns its folder."""
    assert (JAVASCRIPT / "node_modules").is_dir(), "run npm ci --ignore-scripts in js"
    folder = tmp_path_factory.mktemp("page") / "site"
    assert write_page("nano", folder) < 20e6
    export_checkpoint(ROOT / "examples" / "nano" / "checkpoint", folder / "float32")
    runtime = JAVASCRIPT / "node_modules" / "onnxruntime-web" / "dist"
    wasm = "ort-wasm-simd-threaded.asyncify"
    for name in ("ort.webgpu.min.mjs", f"{wasm}.mjs", f"{wasm}.wasm"):
        shutil.copyfile(runtime / name, folder / "ort" / name)
    nano, float32 = open_bundle("nano"), open_bundle(folder / "float32")
    scales = nano.manifest.cache_scales  # of an int8 cache
    data = (nano.folder / scales.file).read_bytes()
    update_bundle(float32, {"cache_scales": scales}, {scales.file: data})
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_):
        """Say nothing."""


class Isolated(Quiet):
    """Isolates its pages from other origins, which is what threads need."""

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@pytest.fixture
def served(site, request):
    """Serve the folder on loopback; returns its address and what ends the server."""
    handler = functools.partial(getattr(request, "param", Quiet), directory=str(site))
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


#: A GPU that is computed on the CPU.
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)


@pytest.fixture
def tab(served, request):
    """Return a tab whose requests to any other place fail the test."""
    address, _ = served
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", nowhere, *getattr(request, "param", ())],
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


STEPS, IDS, QUESTIONS = [1, 2, 4, 8], [1, 5, 9, 200, 31, 77, 3], ["What is 48 + 76?", "Hi"]
#: More positions than some GPUs may read at once.
LONG = [(37 * i) % 512 for i in range(34)]


def job(model, cache, depth, ids=IDS, **options):
    """Return what SCORE is to do."""
    return {
        "model": model,
        "load": {"cache": {"share": cache.share, "bits": cache.bits}, **options},
        "steps": STEPS,
        "ids": ids,
        "options": {"initialState": "random", "seed": 3},
        "depth": {"maxSteps": depth.max_steps, "exit": depth.exit, "prompt": depth.prompt},
        "questions": QUESTIONS,
    }


def in_python(bundle, cache, depth, ids=IDS):
    """Return the logits that a job asks for, and each answer's text and steps."""
    turns = []
    with rdlite.load(bundle, threads=1, cache=cache) as model:
        scores = [model.logits(ids, count, "random", seed=3).ravel() for count in STEPS]
        chat = model.chat(depth=depth)
        for question in QUESTIONS:
            answer = chat.send(question)
            steps = [token.steps for token in answer]
            turns.append([answer.text, steps])
    return scores, turns


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


def test_the_model_answers_in_the_tab_and_offline(served, tab):
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
    PICTURES.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=str(PICTURES / "static-page.png"))
    tab.evaluate("navigator.serviceWorker.ready.then(() => true)")
    tab.wait_for_function("navigator.serviceWorker.controller !== null")
    stop()  # from here on there is no server at all
    tab.reload()
    ready(tab)
    assert ask(tab, "What is 48 + 76?")[0] == "124"


@pytest.mark.parametrize(
    ("cache", "prompt", "near"),
    [
        (rdlite.Cache(), "each", 1e-5),
        (rdlite.Cache("last"), "mean", 1e-5),
        (rdlite.Cache(2, 8), "mean", 1e-2),  # where rounding tips over, an entry differs by 1
    ],
)
def test_float32_logits_are_pythons(site, served, tab, cache, prompt, near):
    address, _ = served
    tab.goto(address)
    ready(tab)
    depth = rdlite.Depth(16, exit="latent-diff", prompt=prompt)
    found = tab.evaluate(SCORE, job("float32/", cache, depth))
    scores, turns = in_python(site / "float32", cache, depth)
    assert np.abs(np.array(found["scores"]) - scores).max() < near * np.abs(scores).max()
    assert found["turns"] == turns


@pytest.mark.parametrize("served", [Isolated], indirect=True)
def test_two_threads_give_pythons_logits(site, served, tab):
    address, _ = served
    tab.goto(address)
    depth = rdlite.Depth(16, exit="latent-diff")
    found = tab.evaluate(SCORE, job("float32/", rdlite.Cache(), depth, threads=2))
    scores, turns = in_python(site / "float32", rdlite.Cache(), depth)
    assert np.abs(np.array(found["scores"]) - scores).max() < 1e-5 * np.abs(scores).max()
    assert found["turns"] == turns


def test_two_threads_need_a_page_that_is_isolated(served, tab):
    address, _ = served
    tab.goto(address)
    asked = {"model": "model/", "load": {"threads": 2}}
    with pytest.raises(Error, match="2 threads need a page that is cross-origin isolated"):
        tab.evaluate(SCORE, asked)


def test_a_gpu_that_is_not_there_is_an_error(served, tab):
    address, _ = served
    tab.goto(address)
    asked = {"model": "model/", "load": {"device": "webgpu"}}
    with pytest.raises(Error, match="there is no GPU that WebGPU can use here; use device"):
        tab.evaluate(SCORE, asked)


@pytest.mark.parametrize("tab", [SOFTWARE_GPU], indirect=True)
@pytest.mark.parametrize(
    ("model", "near", "cache", "depth"),
    [
        ("float32/", 1e-5, rdlite.Cache(), rdlite.Depth(16, exit="latent-diff", prompt="each")),
        ("model/", 0.05, rdlite.Cache("last"), rdlite.Depth(16, exit="kl")),  # rounds activations
    ],
)
def test_a_gpu_gives_pythons_logits_and_answers(site, served, tab, model, near, cache, depth):
    address, _ = served
    tab.goto(address)
    found = tab.evaluate(SCORE, job(model, cache, depth, LONG, device="webgpu"))
    scores, turns = in_python(site / model, cache, depth, LONG)
    assert np.abs(np.array(found["scores"]) - scores).max() < near * np.abs(scores).max()
    if model == "float32/":
        assert found["turns"] == turns
    else:
        assert [text for text, _ in found["turns"]] == [text for text, _ in turns]


@pytest.mark.parametrize("tab", [SOFTWARE_GPU], indirect=True)
def test_a_gpu_without_float16_says_so(site, served, tab, portable_bundle):
    address, _ = served
    shutil.copytree(portable_bundle, site / "portable", dirs_exist_ok=True)
    tab.goto(address)
    refused = r"has no float16 in WebGPU \(shader-f16\); use precision"
    for model, options, message in (
        ("model/", {"precision": "float16"}, refused),
        ("portable/", {}, "a portable bundle runs on a CPU; use device"),
    ):
        with pytest.raises(Error, match=message):
            tab.evaluate(SCORE, {"model": model, "load": {"device": "webgpu", **options}})


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
