"""Tokenizers like those of real models, trained in a moment, and texts that are hard to cut."""

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

SPECIAL = ("<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
MARKS = ("<think>", "</think>")
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it isn't 12,345 times as quick.",
    "def add(a, b):\n    return a + b  # naïve\n\n\nprint(add(1, 22))\n",
    "南北阁是一款语言模型。日本語の文章もあります。",
    "Größe, café, ÉTÉ; 3.14159 != 2.71828... don't we'll I'VE",
    "one two three four five six seven eight nine ten eleven twelve  thirteen\tfourteen",
]


def by_bytes():
    """Byte-level, cut into words as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return _marked(tokenizer)


def by_pieces(prefixed=True):
    """As SentencePiece has it: ▁ for a space, and bytes for what is unknown."""
    from rdlite.gguf.sentencepiece import SPACE, merges_of

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", SPACE)
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}?[^{SPACE}]+"), "isolated")
    trained.train_from_iterator(CORPUS * 4, BpeTrainer(vocab_size=500, show_progress=False))
    learnt = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    plain = [*SPECIAL[:1], *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = [*plain, *(token for token in learnt if token not in plain)]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    scores = {token: -float(id) for token, id in vocabulary.items() if id >= len(plain)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges_of(scores),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prepend = [normalizers.Prepend(SPACE)] if prefixed else []
    strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _marked(tokenizer)


def _marked(tokenizer):
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARKS])
    return tokenizer


def texts(count=200, seed=0):
    """Texts of words, spaces, numbers, marks, other scripts and what no corpus has."""
    rng, pieces = random.Random(seed), [word for line in CORPUS for word in line.split(" ")]
    pieces += ["\n", "\n\n", "  ", "\t", "🦊", "Ω≈ç", "<|im_start|>", "<|im_end|>", "<think>"]
    pieces += ["</think>", "user\n", "مرحبا", "0", "1234567", "a" * 40, "'s", "..."]
    made = []
    for _ in range(count):
        glue = rng.choice((" ", " ", "", "  "))
        made.append(glue.join(rng.choices(pieces, k=rng.randint(1, 30))))
    return made
