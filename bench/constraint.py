"""What a constraint costs: a token of nano with and without one, and a mask at 65,536 ids.

python bench/constraint.py
"""

import json
import statistics
import time

import numpy as np
import tokenizers

import rdlite
from rdlite.constrain.compiled import Constraints
from rdlite.tokenizer.tokenizer import Tokenizer

SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 90}
ROUNDS, TOKENS, VOCABULARY = 9, 400, 65_536


def main():
    print(f"token of nano, with / without: {token_ratio():.3f} (median of {ROUNDS} pairs)")
    print(f"mask at {VOCABULARY} ids: {mask_seconds() * 1e3:.3f} ms (median)")


def token_ratio():
    ratios = []
    with rdlite.load(threads=1) as model:
        never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
        options = {"sampling": rdlite.Sampling(logit_bias=never), "depth": rdlite.Depth(16)}
        for _ in range(ROUNDS):
            free, bound = (seconds(model, options | more) for more in ({}, {"constraint": SCHEMA}))
            ratios.append(bound / free)
    return statistics.median(ratios)


def seconds(model, options):
    """Per token of the first TOKENS; both read the same number of positions."""
    generation = iter(model.generate("json:", 800, **options))
    next(generation)
    clock = time.perf_counter()
    for _ in range(TOKENS):
        next(generation)
    return (time.perf_counter() - clock) / TOKENS


def mask_seconds():
    """A mask and a choice inside a string, where most tokens are allowed."""
    tokenizer = Tokenizer(vocabulary(), VOCABULARY)
    mask = Constraints(tokenizer, VOCABULARY, [0], 4096).compile(
        rdlite.Constraint(json_schema={"type": "array", "items": {"type": "string"}}), 4000
    )
    mask.begin(0)
    logits = np.zeros(VOCABULARY, np.float32)
    rng, times = np.random.default_rng(0), []
    for position in range(2000):
        logits[:] = rng.random(VOCABULARY, np.float32)
        clock = time.perf_counter()
        mask.apply(logits, position)
        token = int(logits.argmax())
        mask.chose(token, position)
        times.append(time.perf_counter() - clock)
        if token == 0:
            break
    return statistics.median(times)


def vocabulary():
    """A byte-level tokenizer of random letters, and a stop token."""
    rng = np.random.default_rng(1)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(["<|end|>", *alphabet])
    while len(words) < VOCABULARY:
        words["".join(rng.choice(alphabet[:94], rng.integers(2, 9)))] = None
    model = tokenizers.models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return json.dumps(json.loads(tokenizer.to_str())).encode()


if __name__ == "__main__":
    main()
