"""The page as a folder that needs no server: the model runs in the tab, on WebAssembly."""

import hashlib
import json
import shutil
from pathlib import Path
from types import MappingProxyType

from rdlite.bundle.writer import check_replaceable, new_folder
from rdlite.errors import InputError
from rdlite.loader import find_model, open_bundle

JAVASCRIPT = Path(__file__).parents[2] / "js"
PAGE = Path(__file__).parent / "page"
SECURITY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'"
)
#: What browsers import by bare names in Node: a worker has no import map.
LIBRARIES = MappingProxyType(
    {
        "@huggingface/jinja": "@huggingface/jinja/dist/index.js",
        "@huggingface/tokenizers": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
    }
)
RUNTIME = ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_page(model: str, out: Path, javascript: Path | None = None, force: bool = False) -> int:
    """Write a folder that any static server can serve; returns its size in bytes.

    Args:
        model: a bundle, or "nano".
        out: the folder to make.
        javascript: rdlite's js folder, with what npm installs into it; None: this checkout's.
        force: replace a page that is there.

    Raises:
        InputError: the JavaScript packages are missing.
        BundleError: the model is no bundle, or breaks a rule of its format.
        OutputError: it cannot be written.
    """
    source = javascript or JAVASCRIPT
    modules = source / "node_modules"
    runtime = modules / "onnxruntime-web" / "dist"
    for needed in (source / "src" / "web" / "index.js", runtime / RUNTIME[1]):
        if not needed.is_file():
            raise InputError(
                f"{needed} is missing; a page needs rdlite's js folder (--js) with its packages: "
                "run 'npm ci --ignore-scripts' in it"
            )
    folder = find_model(model)
    bundle = open_bundle(folder)
    check_replaceable(out, force, folder)
    with new_folder(out, force) as partial:
        for path in sorted(PAGE.iterdir()):
            if path.suffix in (".js", ".css"):
                shutil.copyfile(path, partial / path.name)
        for name in ("api.js", "worker.js"):
            shutil.copyfile(source / "page" / name, partial / name)
        html = (PAGE / "index.html").read_text("utf-8")
        policy = f'<meta http-equiv="Content-Security-Policy" content="{SECURITY}">'
        html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n    {policy}', 1)
        (partial / "index.html").write_text(html, "utf-8")
        _copy_runtime(source, modules, partial / "rdlite")
        _copy(runtime, RUNTIME, partial / "ort")
        _copy(folder, ("rdlite.json", *bundle.manifest.files), partial / "model")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        names = ["./", *(path.relative_to(partial).as_posix() for path in files)]
        digest = hashlib.sha256()
        for path in files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        kept = {"name": f"rdlite-page-{digest.hexdigest()[:16]}", "files": names}
        worker = (source / "page" / "sw.js").read_text("utf-8")
        (partial / "sw.js").write_text(
            f"self.PAGE = {json.dumps(kept, indent=1)};\n{worker}", "utf-8"
        )
        return sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())


def _copy_runtime(source: Path, modules: Path, out: Path) -> None:
    shutil.copytree(source / "src", out, ignore=shutil.ignore_patterns("node"))
    for bare, path in LIBRARIES.items():
        name = f"{bare.split('/')[1]}.js"
        shutil.copyfile(modules / path, out / name)
        text = out / "text" / "tokenizer.js"
        text.write_text(text.read_text("utf-8").replace(f'"{bare}"', f'"../{name}"'), "utf-8")


def _copy(folder: Path, names: tuple[str, ...], out: Path) -> None:
    out.mkdir()
    for name in names:
        shutil.copyfile(folder / name, out / name)
