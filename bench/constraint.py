"""What a constraint costs: a token of nano with and without one, and a mask at large vocabularies.

python bench/constraint.py [--json OUT]
"""

import json
import time
from pathlib import Path

import click
import llguidance
import numpy as np
import tokenizers
from report import finish

import rdlite
from rdlite.constrain.compiled import Constraints
from rdlite.tokenizer.tokenizer import Tokenizer

SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 90}
STRINGS = {"type": "array", "items": {"type": "string"}}
ROUNDS, TOKENS, STEPS = 9, 400, 16
VOCABULARIES = (65_536, 166_000)


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(out):
    free, bound = token_times()
    ratio = np.median(bound) / np.median(free)
    rows = [
        row(f"token of nano, {STEPS} steps", free),
        row("the same, constrained", bound) | {"ratio": f"{ratio:.3f}"},
    ]
    rows += [row(f"mask and choice, {size} ids", mask_times(size)) for size in VOCABULARIES]
    print(f"llguidance {llguidance.__version__}")
    finish("constraint", rows, out)


def row(what, times):
    median, late = np.quantile(times, (0.5, 0.99)) * 1e3
    return {"what": what, "median ms": f"{median:.3f}", "99th percentile ms": f"{late:.3f}"}


def token_times():
    """Of a text without a constraint and one with it, which grow token by token in turns."""
    times = np.zeros((ROUNDS, TOKENS, 2))
    with rdlite.load(threads=1) as model:
        never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
        sampling, depth = rdlite.Sampling(logit_bias=never), rdlite.Depth(STEPS)
        for rounds in times:
            texts = [
                model.generate("json:", 2 * TOKENS, depth, sampling, constraint=constraint)
                for constraint in (None, SCHEMA)
            ]
            tokens = [iter(text) for text in texts]
            for each in tokens:
                next(each)
            for number, pair in enumerate(rounds):
                for which in (number % 2, 1 - number % 2):
                    clock = time.perf_counter()
                    next(tokens[which])
                    pair[which] = time.perf_counter() - clock
            for text in texts:
                text.close()
    return times[..., 0], times[..., 1]


def mask_times(size):
    """Of each mask and choice of a text inside strings, where most tokens are allowed."""
    tokenizer = Tokenizer(vocabulary(size), size)
    mask = Constraints(tokenizer, size, [0], 4096).compile(
        rdlite.Constraint(json_schema=STRINGS), 4000
    )
    mask.begin(0)
    logits = np.zeros(size, np.float32)
    rng, times = np.random.default_rng(0), []
    for position in range(2000):
        rng.random(out=logits, dtype=np.float32)
        clock = time.perf_counter()
        mask.apply(logits, position)
        token = int(logits.argmax())
        mask.chose(token, position)
        times.append(time.perf_counter() - clock)
        if token == 0:
            break
    return times


def vocabulary(size):
    """A byte-level tokenizer of random letters, and a stop token."""
    rng = np.random.default_rng(1)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(["<|end|>", *alphabet])
    while len(words) < size:
        words["".join(rng.choice(alphabet[:94], rng.integers(2, 9)))] = None
    model = tokenizers.models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return json.dumps(json.loads(tokenizer.to_str())).encode()


if __name__ == "__main__":
    main()
