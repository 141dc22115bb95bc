"""How text that may come from strangers is shown: without control codes, spaces made visible."""

SPACE, LINE_END = "\N{OPEN BOX}", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"


def printable(text: str) -> str:
    r"""Return text whose control codes, and what turns its direction around, read like "\x1b".

    Line ends stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def label(text: str) -> str:
    """Return a token's text as one line, with line ends and outer spaces as signs."""
    core = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - len(core) - before if core else 0
    return SPACE * before + printable(core).replace("\n", LINE_END) + SPACE * after


def shorten(text: str, most: int) -> str:
    """Return text cut to so many characters, two or more; an ellipsis says that it was."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def heading(prompt: str, most: int = 300) -> str:
    """Return a prompt as one short line."""
    return shorten(" ".join(printable(prompt).split()), most)


def one_line(text: str) -> str:
    """Return text that may come from a stranger's file as one line without control codes."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


#: Control codes, and the marks that turn the direction of text around.
_UNSHOWN = dict.fromkeys(
    {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {9, 10}
)


def showable(text: str) -> str:
    """Return a model's text without what could play tricks on a terminal."""
    return text.translate(_UNSHOWN)
