"""What people say that is not a problem, and nano's one answer to it."""

import random

HELP = (
    "I can add, subtract, follow chains and hops, find parity, count, sort digits, "
    "and solve short stories."
)
SAYINGS = (
    """
hello|hi|hey|hi there|hello there|good morning|good evening|good night|how are you|what's up
who are you|what are you|what is your name|what's your name|tell me about yourself|are you a robot
what can you do|what do you know|help|help me|can you help me|please help|how does this work
thanks|thank you|thank you very much|ok|okay|yes|no|bye|goodbye|see you|cool|nice|great|wow|lol
tell me a joke|tell me a story|write a poem|sing a song|say something|let's talk|i am bored
what time is it|what day is it|how is the weather|where are you|where do you live|how old are you
who made you|who wrote you|are you alive|do you dream|do you like music|can you think|can you speak
what is the capital of france|who is the president|what is the meaning of life|what is love
why is the sky blue|how do i cook rice|write code for me|translate this|what is python
test|testing|is this on|anyone there|i don't understand|that is wrong|why|really|are you sure
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
WORDS = """
the a my your this that some any one best big small old new good bad cat dog house car tree river
book music film game city country river moon sun star day night year time money work school friend
is was are be do does can will should could would have has make find tell show give take know think
like love want need see say go come get i you he she we they it me him us them what who where when
why how which and or but if then with about for from to in on of at by not never always very much
""".split()


def saying(rng: random.Random) -> str:
    """Return something said that is no problem: a common phrase, or words at random."""
    text = rng.choice(SAYINGS)
    kind = rng.random()
    if kind < 0.35:
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))
    elif kind < 0.5:
        text = f"{rng.choice(SAYINGS)}, {text}"
    if rng.random() < 0.5:
        text = text[:1].upper() + text[1:]
    return text + rng.choice(("", "", "?", ".", "!"))
