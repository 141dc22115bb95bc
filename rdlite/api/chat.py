"""A conversation: messages through the chat template, the cache kept between turns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdlite.api.history import History, history_length
from rdlite.config.depth import Depth
from rdlite.config.parallel import Parallel
from rdlite.config.sampling import Sampling
from rdlite.config.speculation import Speculate
from rdlite.decode.generation import Generation
from rdlite.decode.plan import Plan
from rdlite.decode.prompt_cache import CachedPrompt
from rdlite.decode.results import Token
from rdlite.errors import InputError
from rdlite.tokenizer.chat_template import check_variables
from rdlite.tokenizer.thinking import ThinkingSplitter, opens_thinking, split_thinking

if TYPE_CHECKING:
    from rdlite.api.loaded import Loaded


#: The variable by which templates of thinking models are told to let them think or not.
THINKING = "enable_thinking"


class Chat:
    """A conversation with a model. Not thread-safe; many may share one model.

    Each turn reads only what differs from what was read before: the longest common prefix of
    tokens stays in the cache.
    """

    def __init__(
        self,
        model: Loaded,
        system: str | None = None,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        speculate: Speculate = None,
        template_variables: Mapping[str, Any] | None = None,
        sampler: Parallel | None = None,
        history: History = "trained",
    ) -> None:
        """Use `Model.chat`."""
        _ = model.tokenizer, model.chat_template  # complain now, not at the first message
        #: Of the chat template's own; another turn may have others.
        self.template_variables = check_variables(template_variables or {})
        model.plan(1, depth, sampling, seed, (), speculate=speculate, sampler=sampler)
        self.model = model
        if depth is None:
            depth = model.default_depth
            if sampler is not None:  # it freezes tokens by a rule of its own
                depth = Depth(depth.max_steps)
        self.depth = depth
        self.sampling = sampling or model.generation_config.sampling
        self.seed = seed
        self.speculate = speculate
        self._opened = False  # the block of thinking, by the last prompt
        self.sampler = sampler
        history_length(history, None)  # complain now
        #: How much of a long conversation is read; may be changed between turns.
        self.history: History = history
        #: Messages that the last turn left out, because the model was trained on less.
        self.left_out = 0
        self.messages: list[dict[str, str]] = []
        self._kept = CachedPrompt(model.new_sequence())
        self._answer: Generation | None = None
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget the conversation and start over with this system prompt."""
        self._end_answer()
        self.messages = [{"role": "system", "content": system}] if system else []
        self.left_out = 0
        self._kept.restart()

    def think(self, thinking: bool) -> None:
        """Let the model think before it answers from the next turn on, or not.

        Raises InputError if its chat template has no switch for that.
        """
        if THINKING not in self.model.chat_template.variables:
            raise InputError(f"this model's chat template has no switch for thinking ({THINKING})")
        self.template_variables = {**self.template_variables, THINKING: thinking}

    def splitter(self) -> ThinkingSplitter:
        """Return what splits the answer that was sent for last into thinking and answer."""
        return ThinkingSplitter(self._opened)

    @property
    def context_used(self) -> int:
        """Tokens of the conversation that are in the cache."""
        return len(self._kept.tokens)

    @property
    def length(self) -> int:
        """How many tokens of conversation can be read; older turns are left out."""
        length = history_length(self.history, self.model.trained_length)
        return self.model.context if length is None else min(length, self.model.context)

    def undo(self) -> str | None:
        """Remove the last question and its answer; returns the question, or None.

        An answer still running is closed first.
        """
        self._end_answer()
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return None
        question = self.messages[-2]["content"]
        self.messages = self.messages[:-2]
        return question

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file: messages, settings, tokens and caches.

        An answer still running is closed first.

        Args:
            path: the file to make, or a saved conversation to replace.

        Raises:
            OutputError: it cannot be written, or something else is there.
        """
        from rdlite.api.chat_file import VERSION, Message, SavedChat, model_hash, write_chat

        self._end_answer()
        bundle, cache = self.model.bundle, self.model.cache
        read_depth, read_seed = self._kept.how or (None, 0)
        saved = SavedChat(
            version=VERSION,
            name=bundle.manifest.name,
            model=model_hash(bundle),
            messages=tuple(Message(m["role"], m["content"]) for m in self.messages),
            depth=self.depth,
            sampling=dataclasses.replace(self.sampling, logit_bias=None),
            bias={str(id): bias for id, bias in (self.sampling.logit_bias or {}).items()},
            seed=self.seed,
            share=str(cache.share),
            bits=cache.bits,
            template_variables=json.dumps(self.template_variables),
            read_depth=read_depth,
            read_seed=read_seed,
            gathered=self._kept.sequence.steps_cache.gathered,
        )
        entries = self._kept.sequence.entries() if self._kept.tokens else {}
        write_chat(Path(path), saved, self._kept.tokens, entries)

    def load(self, path: str | Path) -> None:
        """Continue a saved conversation, token for token as if it had never stopped.

        This chat forgets its own conversation, and takes seed, sampling and template variables from
        the file.

        Args:
            path: what `save` made.

        Raises:
            InputError: the file is not a saved conversation, or was made with another model, kind
                of cache or depth than this chat's; nothing was changed.
        """
        from rdlite.api.chat_file import check_arrays, model_hash, read_chat

        path, model = Path(path), self.model
        saved, arrays = read_chat(path)
        kept = (str(model.cache.share), model.cache.bits)
        if saved.model != model_hash(model.bundle):
            what = f"the model {saved.name}, not this one; open it with the same"
        elif (saved.share, saved.bits) != kept:
            theirs, ours = _words_of_cache(saved.share, saved.bits), _words_of_cache(*kept)
            what = f"{theirs}, not {ours}; open it with the same"
        elif saved.depth != self.depth:
            what = f"{saved.depth.words()}, not {self.depth.words()}; go back to those first"
        else:
            what = ""
        if what:
            raise InputError(f"{path} was saved with {what}")
        tokens = check_arrays(path, arrays, model.config, model.cache, model.context)
        entries = {name: array for name, array in arrays.items() if name != "tokens"}
        if tokens and not {"prelude", "coda", "core.0"} <= entries.keys():
            raise InputError(f"{path} holds no caches of its {len(tokens)} tokens")
        bias = {int(id): number for id, number in saved.bias.items()} or None
        sampling = dataclasses.replace(saved.sampling, logit_bias=bias)
        self._plan(1, saved.depth, sampling, saved.seed)
        try:
            variables = check_variables(json.loads(saved.template_variables))
        except (ValueError, AttributeError, RecursionError) as problem:
            raise InputError(f"{path}: its template variables are none: {problem}") from None
        self._end_answer()
        self.messages = [dataclasses.asdict(message) for message in saved.messages]
        self.sampling, self.seed = sampling, saved.seed
        self.template_variables = variables
        self._kept.restart()
        self._kept.tokens, self._kept.how = tokens, None
        if saved.read_depth is not None:
            self._kept.how = (saved.read_depth, saved.read_seed)
        if tokens:
            self._kept.sequence.restore(entries, len(tokens), saved.gathered)

    def send(self, text: str, max_tokens: int = 1024) -> Generation:
        """Send a message and get the answer, token by token.

        The answer, without what was thought before it, joins the conversation when it ends; if you
        close it early, what was said so far joins. A turn that is closed before its first token
        leaves no trace. An answer that is still running is closed first.

        Args:
            text: the user's message.
            max_tokens: maximum tokens of the answer.

        Raises:
            ContextError: the conversation no longer fits; nothing was changed.
            InputError: the template refuses the conversation, a number is out of bounds, or the
                model is closed.
        """
        if not isinstance(text, str):
            raise InputError(f"a message must be text, got {text!r:.60}")
        self._end_answer()
        model = self.model
        model.check_open()
        messages = [*self.messages, {"role": "user", "content": text}]
        kept = model.recent(messages, self.history, max_tokens, self.template_variables)
        rendered = model.chat_template.render(kept, template_variables=self.template_variables)
        prompt = model.encode(rendered, add_special_tokens=False)
        plan = self._plan(max_tokens, self.depth, self.sampling, self.seed)
        self._opened = opens_thinking(rendered)
        self.left_out = len(messages) - len(kept)
        self._answer = Generation(self._run(messages, prompt, plan), plan)
        return self._answer

    def _plan(self, max_tokens: int, depth: Depth, sampling: Sampling, seed: int) -> Plan:
        return self.model.plan(
            max_tokens, depth, sampling, seed, (), speculate=self.speculate, sampler=self.sampler
        )

    def _run(
        self, messages: list[dict[str, str]], prompt: list[int], plan: Plan
    ) -> Generator[Token, None, None]:
        answer: list[str] = []
        opened = self._opened
        tokens = self._kept.generate(prompt, plan, (self.depth, self.seed))
        try:
            for token in tokens:
                answer.append(token.text)
                yield token
        finally:
            tokens.close()
            if answer:
                # What was thought is not read again: the next turn begins with the answer.
                said = split_thinking("".join(answer), opened).content
                self.messages = [*messages, {"role": "assistant", "content": said}]

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _words_of_cache(share: str, bits: int | None) -> str:
    shared = "a slot for each step" if share == "None" else f"a shared cache ({share})"
    return f"{shared} in {'float32' if bits is None else f'int{bits}'}"
