"""What a loaded model is: its bundle, context, cache, tokenizer, template and sequences."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from rdlite.api.history import History, history_length, recent
from rdlite.bundle.reader import Bundle
from rdlite.config.cache import Cache
from rdlite.config.depth import Depth
from rdlite.config.generation import GenerationConfig, read_generation_config
from rdlite.config.model import ModelConfig
from rdlite.decode.planner import Planner, as_list
from rdlite.engine.engine import Engine
from rdlite.engine.pool import SequencePool
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.errors import ContextError, InputError
from rdlite.tokenizer.chat_template import ChatTemplate
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.tools.syntax import NO_TOOLS, ToolSyntax, find_syntax
from rdlite.tools.toolset import Tools
from rdlite.utils.checks import check_integer

if TYPE_CHECKING:
    from rdlite.cuda.arrays import Device


Floats = npt.NDArray[np.float32]
CHARACTERS_PER_TOKEN = 256  # no text has tokens that long throughout


class Loaded:
    """A bundle in memory: its sessions, tokenizer and template. Thread-safe.

    Model adds to it what runs: generation, scoring, chats.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None,
        context: int,
        cache: Cache,
        device: Device | None = None,
        force_steps: bool = False,
        together: bool = False,
    ) -> None:
        """Use `rdlite.load`."""
        self.bundle = bundle
        #: Sizes and constants of the model, frozen.
        self.config: ModelConfig = bundle.config.without_bound() if force_steps else bundle.config
        self.context = context
        self.cache = cache
        size = bundle.config.vocab_size
        data = bundle.read_text("generation_config.json")
        self.generation_config = (
            read_generation_config(data, size) if data is not None else GenerationConfig()
        )
        data = bundle.read_text("tokenizer.json")
        self._tokenizer = Tokenizer(data, size) if data is not None else None
        data = bundle.read_text("chat_template.jinja")
        self._template = (
            ChatTemplate(data.decode(errors="replace"), bundle.manifest.special_tokens)
            if data is not None
            else None
        )
        #: Where it runs: "cpu" or "cuda".
        self.device = "cpu" if device is None else device.name
        #: The sequences of its texts.
        engine = Engine(bundle, cache, threads, device, context, together)
        self.pool = SequencePool(engine, context)
        #: Checks the options of a generation and makes what its loop needs.
        self.plan = Planner(
            self.config,
            bundle.manifest.exit,
            cache,
            self.generation_config,
            self._tokenizer,
            context,
            staggers=engine.rows is not None and engine.rows.staggers,
        )

    @property
    def default_depth(self) -> Depth:
        """The depth if none is given: what `rdlite tune` found, or the model's mean depth."""
        return self.plan.default_depth

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; raises InputError if the bundle has none."""
        if self._tokenizer is None:
            raise InputError("this bundle has no tokenizer.json; give token ids, not text")
        return self._tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template; raises InputError if the bundle has none."""
        if self._template is None:
            raise InputError("this bundle has no chat template; use generate with plain text")
        return self._template

    @property
    def can_chat(self) -> bool:
        """Whether the bundle has a tokenizer and a chat template."""
        return self._tokenizer is not None and self._template is not None

    @property
    def trained_length(self) -> int | None:
        """Tokens that the model was trained on at once, if less than the context; else None."""
        length = self.bundle.manifest.trained_length
        return None if length is None or length >= self.context else length

    def recent(
        self,
        messages: Sequence[Mapping[str, Any]],
        history: History = "trained",
        max_tokens: int = 1024,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Mapping[str, Any]]:
        """Return what of a conversation is to be read, without the oldest turns of a long one.

        Args:
            messages: as for `encode_chat`.
            history: how long conversation and answer may be together: "trained", as long as the
                model was trained for; "all", as fits in the context; or a number of tokens.
            max_tokens: of the answer.
            template_variables: of the chat template's own.
            tools: as for `encode_chat`; they stand in every prompt.

        Raises:
            InputError: `history` is none, or the template refuses.
        """

        def count(messages: Sequence[Mapping[str, Any]]) -> int:
            rendered = self.chat_template.render(messages, True, tools, template_variables)
            return len(self.tokenizer.encode(rendered, False))

        return recent(messages, history_length(history, self.trained_length), max_tokens, count)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation, up to where the model is to answer.

        Args:
            messages: each with `role` ("system", "user", "assistant") and `content`.
            template_variables: of the chat template's own, as for `chat`.
            tools: JSON schemas of functions that the model may call.

        Raises:
            InputError: the bundle has no tokenizer or chat template, or the template refuses
                (ContextError: more ids than the context).
        """
        rendered = self.chat_template.render(
            messages, tools=tools, template_variables=template_variables
        )
        return self.encode(rendered, add_special_tokens=False)

    def tools(self, functions: Sequence[Mapping[str, Any]]) -> Tools:
        """Return functions that answers may call, in the way the chat template writes calls.

        Args:
            functions: 1 to 128, each {"type": "function", "function": {"name": ..., "description":
                ..., "parameters": a JSON schema of the type "object"}}.

        Raises:
            InputError: the bundle has no tokenizer or chat template, the template has no tools or
                writes calls in a way that is not known, or a function is none.
        """
        if self.tool_syntax is None:
            raise InputError(NO_TOOLS)
        return Tools(functions, self.tool_syntax, self.tokenizer, self.plan.check_constraint)

    @functools.cached_property
    def tool_syntax(self) -> ToolSyntax | None:
        """How the chat template writes calls of functions; None if it has no way that is known."""
        return find_syntax(self.chat_template)

    def encode(
        self, prompt_or_ids: str | Sequence[int], add_special_tokens: bool = True
    ) -> list[int]:
        """Return the token ids of a prompt that may be text.

        Raises:
            InputError: ids are out of bounds, or the bundle has no tokenizer (ContextError: it
                does not fit; long texts are refused before they are encoded).
        """
        if not isinstance(prompt_or_ids, str):
            return self.check_ids(prompt_or_ids)
        tokenizer, size = self.tokenizer, len(prompt_or_ids)
        if size > CHARACTERS_PER_TOKEN * self.context:
            raise ContextError(
                f"the prompt has {size} characters, the context is {self.context} tokens; "
                "shorten it"
            )
        return self.check_ids(tokenizer.encode(prompt_or_ids, add_special_tokens))

    def close(self) -> None:
        """Refuse anything new; what is running may finish. May be called twice.

        Memory is freed when the generations and chats that use it are gone.
        """
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def new_sequence(self) -> EngineSequence:
        """Make the caches and buffers of one text; raises InputError when the model is closed."""
        return self.pool.new()

    def check_open(self) -> None:
        """Raise InputError when the model is closed."""
        self.pool.check_open()

    def check_ids(self, ids: Sequence[int]) -> list[int]:
        """Return the ids as a list; raises InputError for bad ones, ContextError for too many."""
        top = self.config.vocab_size - 1
        ids = as_list("a prompt", ids)
        checked = [check_integer("a token id", token, 0, top) for token in ids]
        if not checked:
            raise InputError("the prompt is empty; give at least one token")
        if len(checked) > self.context:
            raise ContextError(
                f"the prompt has {len(checked)} tokens, the context is {self.context}; shorten it"
                + ("" if self.context == self.config.context_length else " or raise the context")
            )
        return checked
