"""Writes bundles and what Python's runtime makes of them, for the tests in JavaScript to compare.

python js/test/reference.py FOLDER [PROMPTS]
"""

import json
import sys
from pathlib import Path

import numpy as np
from rdlite.export import export_checkpoint
from rdlite.quant import quantize_bundle

import rdlite
import rdlite.loader

ROOT = Path(__file__).parents[2]
ORACLES = ("huginn-tiny", "ouro-tiny", "raven-llama-tiny", "raven-olmo-tiny")
IDS, STEPS = [1, 5, 9, 200, 31, 77, 3], (1, 2, 4, 8)
RULES = ("latent-diff", "acceleration", "cosine", "kl", "gated-kl", "minp-kl", "entropy-diff")


def logits(bundle: Path, ids: list[int], out: Path) -> dict[str, object]:
    """Score some ids at several depths; returns what was asked, the numbers go to a file."""
    with rdlite.load(bundle, threads=1) as model:
        ids = [token % model.config.vocab_size for token in ids]
        most = model.config.recurrence.max_steps or 8
        depths = [steps for steps in STEPS if steps <= most]
        values = [model.logits(ids, steps, "random", seed=3) for steps in depths]
    np.stack(values).tofile(out)
    return {"bundle": str(bundle), "ids": ids, "steps": depths, "seed": 3, "file": str(out)}


def answers(prompts: int) -> list[dict[str, object]]:
    """Let nano answer under every rule, greedily and drawn."""
    found = []
    with rdlite.load(threads=1) as model:
        depths = [(rule, rdlite.Depth(32, exit=rule)) for rule in (*RULES, "argmax-stability")]
        for rule, depth in [(None, rdlite.Depth(6)), *depths]:
            for number in range(prompts):
                question = f"What is {13 + 7 * number % 89} + {(5 + 11 * number) % 97}?"
                drawn = {"temperature": 0.9, "topK": 40, "topP": 0.95, "minP": 0.01}
                sampling = rdlite.Sampling(0.9, 40, 0.95, 0.01) if number % 2 else rdlite.Sampling()
                chat = model.chat(depth=depth, sampling=sampling, seed=2**60 + number)
                tokens = list(chat.send(question, 24))
                found.append(
                    {
                        "question": question,
                        "seed": str(2**60 + number),
                        "depth": {"maxSteps": depth.max_steps, "exit": rule},
                        "sampling": drawn if number % 2 else {},
                        "text": "".join(token.text for token in tokens),
                        "ids": [token.id for token in tokens],
                        "steps": [token.steps for token in tokens],
                        "logprobs": [token.logprob for token in tokens],
                    }
                )
    return found


def main() -> None:
    """Write everything into a folder."""
    out, prompts = Path(sys.argv[1]), int((*sys.argv[2:], "8")[0])
    bundles = [rdlite.loader.find_model("nano")]
    for name in ORACLES:
        bundles.append(export_checkpoint(ROOT / "tests" / "data" / name, out / name))
    for scheme in ("int4", "int8"):
        bundles.append(quantize_bundle(out / "huginn-tiny", out / f"huginn-{scheme}", scheme))
    full = export_checkpoint(ROOT / "examples" / "nano" / "checkpoint", out / "nano-float32")
    bundles.append(full)
    bundles += [quantize_bundle(full, out / f"nano-{name}", name) for name in ("int4", "int8")]
    # One position alone, too: some kernels of onnxruntime treat it in another way.
    asked = [(bundle, ids) for bundle in bundles for ids in (IDS, IDS[:1])]
    scores = [logits(*each, out / f"{n}.bin") for n, each in enumerate(asked)]
    text = json.dumps({"logits": scores, "answers": answers(prompts)})
    (out / "reference.json").write_text(text)


main()
