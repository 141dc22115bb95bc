"""What can be typed in a chat beside messages: /help, /steps and so on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rdlite.cli.run.chat_screen import NEWLINE_HINT, Screen
from rdlite.cli.shared.output import describe_stats, width
from rdlite.utils.printable import showable

if TYPE_CHECKING:
    from rdlite.api.chat import Chat
    from rdlite.config.depth import Depth
    from rdlite.decode.results import Stats


class Leave(Exception):
    """The user wants to leave."""


class Command(NamedTuple):
    """A command: what follows its name, what it does in a line, and what does it."""

    arguments: str
    says: str
    run: "Callable[[Commands, str], None]"


class Commands:
    """Carries commands out on a conversation."""

    def __init__(self, talk: "Chat", screen: Screen, answer: Callable[[str], None]) -> None:
        """Take the conversation, where to show things, and what answers a message."""
        self._talk = talk
        self._screen = screen
        self._answer = answer
        self.stats: Stats | None = None

    def run(self, line: str) -> None:
        """Carry out a line without its slash; raises Leave, RdliteError."""
        name, _, rest = line.partition(" ")
        name, rest = name.strip(), rest.strip()
        command = COMMANDS.get(ALIASES.get(name, name))
        if command is None or (rest and not command.arguments):
            typed = " ".join(line.split())[:80]
            self._screen.complain(f"/{typed} is not a command; /help lists them")
            return
        command.run(self, rest)

    def status(self) -> str:
        """What the status line says."""
        talk, stats = self._talk, self.stats
        used = f"context {talk.context_used} of {talk.length}"
        if talk.left_out:
            used += f" · {talk.left_out} old messages left out"
        if stats is None:
            parts = [used, "/help", f"{steps_of(talk)} a token", NEWLINE_HINT]
        else:
            parts = [used, f"{stats.mean_steps:.1f} steps a token"]
            if stats.tokens_per_second:
                parts.append(f"{stats.tokens_per_second:.1f} tokens/s")
        line = f" {parts[0]}"
        for part in parts[1:]:  # as many as fit, the weightiest first
            if len(line) + len(part) + 3 <= width():
                line += f" · {part}"
        return line

    def _help(self, _: str) -> None:
        rows = [(f"/{n} {c.arguments}".rstrip(), c.says) for n, c in COMMANDS.items()]
        column = max(len(typed) for typed, _ in rows)
        lines = [f"{typed:<{column}}  {says}" for typed, says in rows]
        lines.append(
            "Ctrl-C stops an answer; at the prompt, it clears the line, and pressed twice, it "
            f"leaves. {NEWLINE_HINT}."
        )
        self._screen.tell("\n".join(lines))

    def _reset(self, _: str) -> None:
        system = self._prompt()
        self._talk.reset(system)
        self.stats = None
        self._screen.tell("The conversation is forgotten.")

    def _prompt(self) -> str | None:
        messages = self._talk.messages
        return messages[0]["content"] if messages and messages[0]["role"] == "system" else None

    def _system(self, text: str) -> None:
        if not text:
            self._screen.tell(showable(self._prompt() or "There is no system prompt."))
            return
        self._talk.reset(text)
        self.stats = None
        self._screen.tell("Started over with this system prompt.")

    def _steps(self, number: str) -> None:
        talk = self._talk
        wanted = whole("steps", number) if number else talk.model.default_depth.max_steps
        talk.model.config.steps_or_default(wanted)  # the model's own bound
        self._deepen(dataclasses.replace(talk.depth, max_steps=wanted))

    def _think(self, word: str) -> None:
        from rdlite.errors import InputError

        if word not in ("on", "off"):
            raise InputError(f"give /think on or /think off, got {word!r:.40}")
        self._talk.think(word == "on")
        does = "thinks before it answers" if word == "on" else "answers without thinking first"
        self._screen.tell(f"The model {does} from now on.")

    def _history(self, word: str) -> None:
        from rdlite.api.history import history_length

        history: Any = int(word) if word.isdecimal() else word
        history_length(history, None)
        talk = self._talk
        talk.history = history
        self._screen.tell(
            f"The oldest turns are left out where a conversation is longer than {talk.length} "
            f"tokens{', the whole context' if talk.length == talk.model.context else ''}."
        )

    def _exit_rule(self, text: str) -> None:
        from rdlite.errors import InputError

        name, _, threshold = text.partition(" ")
        if not name:
            raise InputError("give a rule, like /exit-rule latent-diff 0.05, or /exit-rule off")
        if name == "off":
            change: dict[str, object] = {"exit": None, "threshold": None, "prompt": "mean"}
        else:
            value = decimal("the threshold", threshold) if threshold else None
            change = {"exit": name, "threshold": value}
        self._deepen(dataclasses.replace(self._talk.depth, **change))  # type: ignore[arg-type]

    def _deepen(self, depth: "Depth") -> None:
        talk = self._talk
        talk.model.plan(1, depth, None, 0, ())  # raises for what this model has not
        talk.depth = depth
        rule = f", exit rule {depth.exit}" if depth.exit else ""
        self._screen.tell(f"{steps_of(talk)} a token from now on{rule}.")

    def _temperature(self, text: str) -> None:
        value = decimal("the temperature", text)
        self._talk.sampling = dataclasses.replace(self._talk.sampling, temperature=value)
        self._screen.tell(
            f"The temperature is {value:g}" + ("." if value else ": always the likeliest token.")
        )

    def _seed(self, text: str) -> None:
        from rdlite.utils.checks import check_seed

        self._talk.seed = check_seed(whole("the seed", text))
        self._screen.tell(f"The seed is {self._talk.seed}.")

    def _show(self, _: str) -> None:
        lines = [f"{m['role']}: {showable(m['content'])}" for m in self._talk.messages]
        self._screen.tell("\n".join(lines) or "Nothing has been said yet.")

    def _regen(self, _: str) -> None:
        question = self._talk.undo()
        if question is None:
            self._screen.complain("there is no answer to repeat")
            return
        self._talk.seed = (self._talk.seed + 1) % 2**64  # or it would be the same answer
        self._answer(question)

    def _save(self, name: str) -> None:
        self._talk.save(path := _path("save", name))
        self._screen.tell(f"Saved to {path}.")

    def _load(self, name: str) -> None:
        self._talk.load(path := _path("load", name))
        self.stats = None
        count = sum(message["role"] == "user" for message in self._talk.messages)
        self._screen.tell(f"Continuing {path}: {count} question{'s' * (count != 1)} so far.")

    def _statistics(self, _: str) -> None:
        last = describe_stats(self.stats) if self.stats else "nothing has been answered yet"
        used, context = self._talk.context_used, self._talk.length
        self._screen.tell(f"{last}; context {used} of {context} tokens")

    def _quit(self, _: str) -> None:
        raise Leave


def steps_of(talk: "Chat") -> str:
    """How deep it thinks, for people."""
    steps = talk.model.config.steps_or_default(talk.depth.max_steps)
    return f"{'at most ' if talk.depth.exit else ''}{steps} step{'s' * (steps > 1)}"


def _path(command: str, name: str) -> Path:
    from rdlite.errors import InputError

    if not name:
        raise InputError(f"give a file, like /{command} talk.chat")
    return Path(name).expanduser()


def whole(name: str, text: str) -> int:
    """Read a whole number; raises InputError."""
    from rdlite.errors import InputError

    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} must be a whole number, got {text!r:.40}") from None


def decimal(name: str, text: str) -> float:
    """Read a number; raises InputError."""
    from rdlite.errors import InputError

    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} must be a number, got {text!r:.40}") from None


COMMANDS = {
    "help": Command("", "list the commands", Commands._help),
    "steps": Command(
        "N",
        "take at most N core steps for each token; without N: the model's default",
        Commands._steps,
    ),
    "exit-rule": Command(
        "RULE [T]",
        "stop early when RULE says so, at threshold T; off: never",
        Commands._exit_rule,
    ),
    "think": Command(
        "on|off", "let the model think before it answers, or not, if it can", Commands._think
    ),
    "history": Command(
        "trained|all|N",
        "leave out the oldest turns past what the model was trained on, past its context, or N",
        Commands._history,
    ),
    "temp": Command(
        "T", "set the temperature; 0 always picks the likeliest token", Commands._temperature
    ),
    "seed": Command("N", "set the random seed", Commands._seed),
    "system": Command(
        "TEXT", "start over with a system prompt; without TEXT: show it", Commands._system
    ),
    "show": Command("", "show the conversation so far", Commands._show),
    "regen": Command("", "answer the last question again", Commands._regen),
    "save": Command("FILE", "save the conversation to a file", Commands._save),
    "load": Command("FILE", "continue a saved conversation", Commands._load),
    "stats": Command(
        "", "show what the last answer took, and how full the context is", Commands._statistics
    ),
    "reset": Command("", "forget the conversation", Commands._reset),
    "quit": Command("", "leave (or press Ctrl-D, or Ctrl-C twice)", Commands._quit),
}
#: Other names for commands, which /help does not list.
ALIASES = {"exit": "quit"}
