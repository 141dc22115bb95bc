"""A plugin for the `llm` command: models of rdlite as `llm -m rdlite-nano`, and `llm rdlite add`.

`llm` finds it by the entry point of the package; nothing else imports it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import llm
from pydantic import Field

from rdlite.config.from_options import depth_of, sampling_of
from rdlite.errors import RdliteError
from rdlite.utils.files import write_whole

if TYPE_CHECKING:
    from rdlite.api.chat import Chat
    from rdlite.api.model import Model

PREFIX = "rdlite-"


class LoopedModel(llm.Model):
    """A model of rdlite as `llm` sees it; it is loaded when it is first asked something."""

    can_stream = True

    class Options(llm.Options):
        """What `-o NAME VALUE` sets; what is left out is as the model's own commands have it."""

        max_tokens: int = Field(default=1024, ge=1, le=2**22, description="Most new tokens")
        steps: int | None = Field(
            default=None, ge=1, le=1024, description="Core steps for each token, at most"
        )
        exit: str | None = Field(
            default=None, description="Rule that says when to stop before; off: never"
        )
        threshold: float | None = Field(default=None, description="Of the exit rule")
        temperature: float | None = Field(
            default=None, ge=0, le=100, description="0 always takes the likeliest token"
        )
        top_k: int | None = Field(
            default=None, ge=0, le=2**22, description="Keep the k likeliest tokens; 0 keeps all"
        )
        top_p: float | None = Field(
            default=None, gt=0, le=1, description="Keep the likeliest up to this probability"
        )
        min_p: float | None = Field(
            default=None, ge=0, le=1, description="Drop those under this times the likeliest"
        )
        seed: int = Field(
            default=0, ge=0, le=2**64 - 1, description="Selects initial states and draws"
        )

    def __init__(self, name: str, path: str) -> None:
        """Stand for the bundle or .gguf file at `path`."""
        self.model_id = PREFIX + name
        self._path = path
        self._model: Model | None = None
        #: The last conversation, by its id, with what its cache holds.
        self._chats: dict[str | None, Chat] = {}

    def __str__(self) -> str:
        return f"rdlite: {self.model_id}"

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """Yield the answer to the last message; the conversation's other ones may be cached."""
        messages = [
            {
                "role": message.role,
                "content": "".join(getattr(part, "text", "") for part in message.parts),
            }
            for message in prompt.messages
        ]
        try:
            yield from self._answer(messages, prompt.options, response, conversation)
        except RdliteError as problem:
            raise llm.ModelError(str(problem)) from None

    def _answer(
        self,
        messages: list[dict[str, str]],
        options: Any,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        from rdlite.api.load import load

        model = self._model = self._model or load(self._path)
        given = options.model_dump()
        key = conversation.id if conversation else None
        chat = self._chats.pop(key, None) or model.chat()  # no one else's while it answers
        chat.messages = messages[:-1]
        chat.depth = depth_of(
            model.default_depth, given | {"min_steps": 1, "check_every": 1, "prompt_exit": "mean"}
        )
        chat.sampling = sampling_of(
            model.generation_config.sampling,
            given | {"temp": given["temperature"], "repetition_penalty": None},
        )
        chat.seed = options.seed
        generation = chat.send(messages[-1]["content"] if messages else "", options.max_tokens)
        for token in generation:
            yield token.text
        stats = generation.stats
        response.set_usage(
            input=stats.prompt_tokens,
            output=stats.new_tokens,
            details={"reused": stats.reused_tokens, "mean_steps": round(stats.mean_steps, 2)},
        )
        self._chats = {key: chat}


@llm.hookimpl
def register_models(register: Any) -> None:
    """Offer nano, and what `llm rdlite add` added."""
    for name, path in ({"nano": "nano"} | _added()).items():
        register(LoopedModel(name, path))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `llm rdlite`."""

    @cli.group("rdlite")
    def group() -> None:
        """Manage the models of rdlite; nano is always there."""

    @group.command()
    @click.argument("name")
    @click.argument("path", type=click.Path(exists=True))
    def add(name: str, path: str) -> None:
        """Offer the bundle or .gguf file at PATH as rdlite-NAME."""
        from rdlite.loader import open_bundle

        if name == "nano" or not name.replace("-", "").replace(".", "").isalnum():
            raise click.ClickException(
                f"NAME must be letters, digits, '-' and '.', and not nano; got {name!r}"
            )
        try:
            open_bundle(path)
            _write(_added() | {name: str(Path(path).absolute())})
        except RdliteError as problem:
            raise click.ClickException(str(problem)) from None
        click.echo(f"Next: llm -m {PREFIX}{name} 'Hello'")

    @group.command()
    @click.argument("name")
    def remove(name: str) -> None:
        """Offer rdlite-NAME no longer; its files stay."""
        added = _added()
        if added.pop(name.removeprefix(PREFIX), None) is None:
            raise click.ClickException(f"{name!r} was not added; 'llm rdlite list' says what was")
        _write(added)

    @group.command("list")
    def list_command() -> None:
        """Show what was added, and where it lies."""
        for name, path in _added().items():
            click.echo(f"{PREFIX}{name}: {path}")


def _store() -> Path:
    folder: Path = llm.user_dir()  # type: ignore[no-untyped-call]
    return folder / "rdlite.json"


def _added() -> dict[str, str]:
    """Return paths by name; none, and a note, where the file is damaged: `llm` must go on."""
    try:
        added = json.loads(_store().read_text())
        if isinstance(added, dict) and all(isinstance(path, str) for path in added.values()):
            return added
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    click.echo(f"note: {_store()} is damaged; delete it and add the models again", err=True)
    return {}


def _write(added: dict[str, str]) -> None:
    write_whole(_store(), (json.dumps(added, indent=1) + "\n").encode())
