"""Writes bundles and what Python's runtime makes of them, for the tests in JavaScript to compare.

python js/test/reference.py FOLDER [PROMPTS]
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rdlite.export import export_checkpoint
from rdlite.export.from_gguf import import_gguf
from rdlite.export.read import read_model
from rdlite.export.to_gguf import export_gguf
from rdlite.quant import Options, find_scheme, quantize_bundle

import rdlite
import rdlite.loader
from rdlite import Cache, Depth, Sampling
from rdlite.tokenizer.thinking import split_thinking

ROOT = Path(__file__).parents[2]
ORACLES = ("huginn-tiny", "ouro-tiny", "raven-llama-tiny", "raven-olmo-tiny", "nanbeige-tiny")
IDS, STEPS = [1, 5, 9, 200, 31, 77, 3], (1, 2, 4, 8)
RULES = ("latent-diff", "acceleration", "cosine", "kl", "gated-kl", "minp-kl", "entropy-diff")
DRAWN = Sampling(0.9, 40, 0.95, 0.01)
#: Beside the default cache, which the rules are tried with.
CACHES = (Cache(2), Cache("last"), Cache(bits=8), Cache("last", 8), Cache(3, 8))
#: Answers of models that think before them.
THOUGHTS = (
    "Yes.",
    "<think>\n Hm. \n</think>\n\nYes.",
    "Hm. </think> Yes. <think>No.</think>",
    " <think>a</think> <think> b </think>c",
    "<think>never ends ",
    "<thi",
    " x",
    "",
)
MORE = "Tom has 5 pens. Eats 4. Finds 9. How many pens now?"


def logits(bundle: Path, ids: list[int], out: Path) -> dict[str, object]:
    """Score some ids at several depths; returns what was asked, the numbers go to a file."""
    with rdlite.load(bundle, threads=1) as model:
        ids = [token % model.config.vocab_size for token in ids]
        most = model.config.recurrence.max_steps or 8
        depths = [steps for steps in STEPS if steps <= most]
        values = [model.logits(ids, steps, "random", seed=3) for steps in depths]
    np.stack(values).tofile(out)
    return {"bundle": str(bundle), "ids": ids, "steps": depths, "seed": 3, "file": str(out)}


def camel(options: Any) -> dict[str, Any]:
    """Return options by the names that they have in JavaScript."""
    words = ((name.split("_"), value) for name, value in asdict(options).items())
    return {first + "".join(map(str.title, rest)): value for (first, *rest), value in words}


class Texts:
    """Generates texts and notes what came out, with all that was asked for."""

    def __init__(self, bundle: Path, cache: Cache | None = None) -> None:
        self._model = rdlite.load(bundle, threads=1, cache=cache)
        self._asked = {"bundle": str(bundle), "cache": camel(cache or Cache())}

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def chat(self, name: str, depth: Depth, sampling: Sampling, seed: int, *turns: str) -> Any:
        """Answer some messages in turn."""
        chat = self._model.chat(depth=depth, sampling=sampling, seed=seed)
        runs = (chat.send(turn, 24) for turn in turns)
        return self._noted(name, depth, sampling, seed, {"turns": turns}, runs)

    def text(
        self, name: str, depth: Depth, sampling: Sampling, seed: int, ids: list[int], chunk: int
    ) -> Any:
        """Continue some ids, which are read in chunks."""
        run = self._model.generate(ids, 12, depth, sampling, seed, chunk=chunk)
        return self._noted(name, depth, sampling, seed, {"prompt": ids, "chunk": chunk}, [run])

    def _noted(
        self,
        name: str,
        depth: Depth,
        sampling: Sampling,
        seed: int,
        asked: dict[str, Any],
        runs: Iterable[rdlite.Generation],
    ) -> dict[str, Any]:
        done = [(run, list(run)) for run in runs]
        tokens = [each for _, each in done]
        return {
            **self._asked,
            **asked,
            "name": name,
            "depth": camel(depth),
            "sampling": camel(sampling),
            "seed": str(seed),
            "text": [run.text for run, _ in done],
            "ids": [[token.id for token in each] for each in tokens],
            "steps": [[token.steps for token in each] for each in tokens],
            "logprobs": [[token.logprob for token in each] for each in tokens],
            "promptSteps": [run.stats.prompt_steps for run, _ in done],
        }


def under_rules(nano: Path, prompts: int) -> Iterator[dict[str, Any]]:
    """Let nano answer under every rule, greedily and drawn."""
    texts = Texts(nano)
    rules = [(rule, Depth(32, exit=rule)) for rule in (*RULES, "argmax-stability")]
    for rule, depth in [("no rule", Depth(6)), *rules]:
        for number in range(prompts):
            question = f"What is {13 + 7 * number % 89} + {(5 + 11 * number) % 97}?"
            sampling = DRAWN if number % 2 else Sampling()
            yield texts.chat(rule, depth, sampling, 2**60 + number, question)
    texts.close()


def with_options(nano: Path, gated: Path) -> Iterator[dict[str, Any]]:
    """Answer with other caches, prompts read each at its own step, penalties, and a gate."""
    settled = Depth(24, exit="latent-diff")
    for cache in CACHES:
        texts = Texts(nano, cache)
        name = f"a cache of share {cache.share} and bits {cache.bits}"
        for number, sampling in enumerate((Sampling(), DRAWN)):
            yield texts.chat(name, settled, sampling, number, "What is 48 + 76?", MORE)
        texts.close()
    texts = Texts(nano)
    ids = list(range(40, 90, 2))
    for rule in ("latent-diff", "acceleration", "cosine"):
        depth = Depth(24, exit=rule, prompt="each", min_steps=2)
        for chunk in (1, 9, 64):
            yield texts.text(f'prompt "each" under {rule}', depth, DRAWN, 5, ids, chunk)
    punished = Sampling(0.7, 20, frequency_penalty=0.4, presence_penalty=0.3, logit_bias={37: 2.5})
    yield texts.chat("penalties", settled, punished, 7, "What can you do?")
    everything = (
        Sampling(1.3),
        Sampling(1.1, top_p=0.8),
        Sampling(1.5, top_p=0.5, min_p=0.02),
        Sampling(1.2, min_p=0.05, repetition_penalty=1.2),
    )
    for number, sampling in enumerate(everything * 3):
        name = "draws from the whole vocabulary"
        yield texts.chat(name, Depth(4), sampling, number, "What can you do?")
    texts.close()
    texts = Texts(gated)
    for prompt in ("mean", "each"):
        depth = Depth(4, exit="gate", threshold=0.4, prompt=prompt)
        for number, sampling in enumerate((Sampling(), DRAWN)):
            yield texts.text(f'gate, prompt "{prompt}"', depth, sampling, number, IDS, 4)
    texts.close()


def main() -> None:
    """Write everything into a folder."""
    out, prompts = Path(sys.argv[1]), int((*sys.argv[2:], "8")[0])
    nano = rdlite.loader.find_model("nano")
    bundles = [nano]
    for name in ORACLES:
        bundles.append(export_checkpoint(ROOT / "tests" / "data" / name, out / name))
    for scheme in ("int4", "int8"):
        bundles.append(quantize_bundle(out / "huginn-tiny", out / f"huginn-{scheme}", scheme))
    full = export_checkpoint(ROOT / "examples" / "nano" / "checkpoint", out / "nano-float32")
    bundles.append(full)
    bundles += [quantize_bundle(full, out / f"nano-{name}", name) for name in ("int4", "int8")]
    precise = Options(accuracy_level=1)  # with float32 activations
    bundles.append(quantize_bundle(full, out / "nano-int8-level1", find_scheme("int8", precise)))
    # What a GGUF file holds comes back in blocks of 32.
    for kind in ("q4_0", "q8_0"):
        storage = find_scheme("int4" if kind == "q4_0" else "int8", Options(block_size=32))
        original = read_model(full, as_stored=True)
        file = export_gguf(original, out / f"{kind}.gguf", kind, storage.prepare(original))
        bundles.append(import_gguf(file, out / f"nano-gguf-{kind}"))
    # One position alone, too: some kernels of onnxruntime treat it in another way.
    asked = [(bundle, ids) for bundle in bundles for ids in (IDS, IDS[:1])]
    scores = [logits(*each, out / f"{n}.bin") for n, each in enumerate(asked)]
    texts = [*under_rules(nano, prompts), *with_options(nano, out / "ouro-tiny")]
    splits = [
        [text, opened, *split_thinking(text, opened)]
        for text in THOUGHTS
        for opened in (True, False)
    ]
    made = {"logits": scores, "texts": texts, "splits": splits}
    (out / "reference.json").write_text(json.dumps(made))


main()
