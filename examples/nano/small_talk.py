"""What people say that is not a problem nano can solve, and what nano says to it."""

import random
from pathlib import Path

CAN = (
    "I can add, subtract, multiply, follow chains and hops, find parity, count, sort digits, "
    "and solve short stories."
)
#: The answer to all that nano cannot do.
CANNOT = f"I can't do that; {CAN}"
#: What is said where, and the answer.
TALK = {
    f"Hello! {CAN}": """
hello|hi|hey|hi there|hello there|good morning|good evening|good day|hello nano|hi nano|hey there
""",
    f"I am nano, a tiny looped model. {CAN}": """
who are you|what are you|what is your name|what's your name|tell me about yourself|are you a robot
who is this|who am i talking to|what is nano|introduce yourself|are you an ai|are you human
whats your name|are you chatgpt|are you a person|what model are you|what kind of model are you
who r u|say who you are
""",
    CAN: """
what can you do|what do you know|help|help me|can you help me|please help|how does this work
what are you good at|what should i ask|what can i ask you|what do you do|how can you help me|?
""",
    "You're welcome.": """
thanks|thank you|thank you very much|thanks a lot|many thanks|thx|thank you so much|thanks nano|ty
""",
    "Goodbye!": """
bye|goodbye|good night|see you|see you later|bye bye|that's all|farewell|quit|exit
""",
}
ANSWERS = {
    text.strip(): answer
    for answer, texts in TALK.items()
    for text in texts.strip().replace("\n", "|").split("|")
}
_LISTS = Path(__file__).with_name("sayings.txt").read_text("utf-8").split("\n\n")
#: Questions and remarks that nano cannot answer, `#` for a number; and words to make others of.
OTHERS, WORDS = _LISTS[0].split("\n"), _LISTS[1].split()
ENDS = ("", "", "?", ".", "!")


def talk(rng: random.Random) -> tuple[str, str]:
    """Return something said that is no problem at all, and nano's answer."""
    text = rng.choice(list(ANSWERS))
    return _dress(rng, text), ANSWERS[text]


def beyond(rng: random.Random) -> str:
    """Return something that nano cannot do: it answers CANNOT."""
    kind = rng.random()
    if kind < 0.22:
        return _dress(rng, _fill(rng, rng.choice(OTHERS)))
    if kind < 0.3:
        words = rng.choices(WORDS, k=rng.randint(1, 9))
        for i in range(len(words)):
            if rng.random() < 0.15:
                words[i] = str(_number(rng))
        return _dress(rng, " ".join(words))
    if kind < 0.37:
        return _dress(rng, _mix(rng))
    if kind < 0.9:
        return _sum_beyond(rng)
    return _dress(rng, _malformed(rng))


def _dress(rng: random.Random, text: str) -> str:
    kind = rng.random()
    if kind < 0.4:
        text = text[:1].upper() + text[1:]
    elif kind < 0.43:
        text = text.upper()
    return text + rng.choice(ENDS)


def _number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.randint(1, 4))


def _fill(rng: random.Random, text: str) -> str:
    while "#" in text:
        text = text.replace("#", str(_number(rng)), 1)
    return text


def _mix(rng: random.Random) -> str:
    """Halves of two remarks, or a remark with a word of it changed."""
    one, other = (_fill(rng, rng.choice(OTHERS)).split() for _ in range(2))
    if rng.random() < 0.5:
        return " ".join([*one[: rng.randint(1, len(one))], *other[rng.randrange(len(other)) :]])
    one[rng.randrange(len(one))] = rng.choice(WORDS)
    return " ".join(one)


_ASKED = (
    "{}",
    "{}",
    "What is {}?",
    "what is {}",
    "whats {}",
    "What's {}?",
    "{} = ?",
    "Calculate {}.",
)


def _sum_beyond(rng: random.Random) -> str:
    """Arithmetic outside what is learned."""
    a, b, c = (_number(rng) for _ in range(3))
    small, large = sorted((a, b))
    long = rng.randrange(10_000, 10 ** rng.randint(5, 9))
    two, more = rng.randrange(10, 100), rng.randrange(10, 10_000)
    op, other = rng.choice("+-*"), rng.choice("+-*/")
    spoken = rng.choice(("plus", "minus", "times"))
    sums = (
        f"{a} / {b}",
        f"{a}/{b}",
        f"{a} divided by {b}",
        f"{a} : {b}",
        f"{small} - {large + 1}",
        f"{small} minus {large + 1}",
        f"-{a} {op} {b}",
        f"-{a}{op}{b}",
        f"{a} {op} -{b}",
        f"{long} {op} {b}",
        f"{a} {op} {long}",
        f"{long} {spoken} {b}",
        f"{two} * {more}",
        f"{more} * {two}",
        f"{two} times {more}",
        f"{more} x {two}",
        f"{more}*{two}",
        f"{rng.randrange(1000, 10_000)} * {rng.randrange(10)}",
        f"{a} {op} {b} {other} {c}",
        f"{a} {spoken} {b} {rng.choice(('plus', 'minus', 'times'))} {c}",
        f"({a} {op} {b}) {other} {c}",
        f"{a}.{rng.randrange(10)} {op} {b}",
        f"{a} {op} {b}.{rng.randrange(100)}",
        f"{a}^{b}",
        f"{a} ** {b}",
        f"{a} % {b}",
        f"{a} mod {b}",
        f"{a} squared",
        f"{a} to the power of {rng.randrange(10)}",
        f"{a}!",
        f"the {rng.choice(('square root', 'half', 'double', 'factorial', 'cube', 'third'))} of {a}",
        f"{rng.randrange(100)}% of {a}",
        f"{a} {op} {rng.choice('abcnxyz')}",
        f"{rng.choice('abcnxyz')} {op} {a}",
        f"{a} {op}",
        f"{a}",
        f"{a} {b}",
        f"{a} and {b}",
        f"{a} {rng.choice('<>=')} {b}",
        f"{rng.choice(_WORDED)} {spoken} {rng.choice(_WORDED)}",
        f"{rng.choice(_WORDED)} {op} {a}",
        f"the {rng.choice(_OF_THREE)} of {a}, {b} and {c}",
        f"{a} {rng.choice(WORDS)} {b}",
        f"{a} {op}{other} {b}",
        f"{a} {op} {b} = {c}",
    )
    return rng.choice(_ASKED).format(rng.choice(sums))


_OF_THREE = ("average", "sum", "product", "mean", "difference")
_WORDED = "one two three four five six seven eight nine ten eleven twelve twenty hundred".split()


def _malformed(rng: random.Random) -> str:
    """What only looks like a problem."""
    a, b = rng.randrange(10), rng.randrange(2, 10)
    x, y = rng.sample("abcdefghijklmnopqrstuvwxyz", 2)
    word = rng.choice(WORDS)
    digits = "".join(rng.choices("0123456789", k=rng.randint(9, 14)))
    return rng.choice(
        (
            f"sort {digits}",
            f"sort the digits {digits}",
            f"sort {word}",
            f"sort the {word}",
            f"sort {a} {b} {rng.randrange(10)}",
            f"parity of {word}",
            f"parity of {rng.randrange(2, 10)}{digits}",
            f"is {digits[:3]} even or odd",
            f"is {a} even",
            f"how many {word} are in {word}",
            f"how many letters are in {word}",
            f"how many {x} are there",
            f"count to {digits[:2]}",
            f"count the {word}",
            f"{x} = {a}; what is {y} mod 10",
            f"{x} = {a}, {y} = {x} / {b}; what is {y} mod 10",
            f"{x} = {a}; what is {x}",
            f"{x.upper()} to {y.upper()}",
            f"start at {x.upper()}. Where",
            f"ways: {x.upper()} to {y.upper()}. Where",
            f"Tom has {a} {word}. How many {word} has Ann now",
            f"Ann has {a} pens. How old is Ann",
            f"{word} has {a} pens",
            f"Max {word} {a} pens and {word} {b}. How many are left",
            f"if I have {a} {word} and give away {b}, how many do I have",
            f"add {word} and {word}",
            f"take {word} from {word}",
            f"multiply {word} by {a}",
        )
    )
