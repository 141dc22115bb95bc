"""The Python API: `load` opens a model; a Model generates, scores and chats."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rdlite.bundle import Bundle, open_bundle
from rdlite.cache import Cache
from rdlite.chat import Chat
from rdlite.chat_template import ChatTemplate
from rdlite.config import ModelConfig, check_integer
from rdlite.constraint import Constraint
from rdlite.depth import Depth
from rdlite.devices import find_device
from rdlite.engine import CHUNK, Engine
from rdlite.engine import Sequence as EngineSequence
from rdlite.errors import ContextError, InputError
from rdlite.generate import Generation, Token, generate_tokens, read
from rdlite.generation_config import GenerationConfig, read_generation_config
from rdlite.planning import Planner, as_list
from rdlite.pool import SequencePool
from rdlite.sampling import Sampling
from rdlite.speculate import Speculate
from rdlite.start import start_at
from rdlite.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rdlite.cuda import Cuda
    from rdlite.device import Device

Floats = npt.NDArray[np.float32]
MAX_THREADS = 256
CHARACTERS_PER_TOKEN = 256  # no text has tokens that long throughout


def load(
    path: str | Path = "nano",
    device: str | Cuda = "cpu",
    threads: int | None = None,
    context: int | None = None,
    cache: Cache | None = None,
) -> Model:
    """Open a model.

    Args:
        path: a bundle folder made by `rdlite export`, or "nano": the model that comes with rdlite.
        device: "cpu"; "cuda", or `rdlite.Cuda(...)`, for an NVIDIA GPU; "auto": a GPU if one can be
            used. There, activations and caches are float16.
        threads: threads for one operator, 1 to 256; None: one for each physical core.
        context: the longest text in tokens, at most the model's own; None: the model's own.
        cache: what to keep of past positions; None: one slot per step, in float32.

    Raises:
        BundleError: the bundle breaks a rule of its format.
        InputError: a number or the device is out of bounds, or the cache is to be int8 and the
            bundle has no scales for that, or the device is a GPU.
        RuntimeFailure: onnxruntime is missing or refuses a graph, or the GPU cannot be used; what
            was asked for is never run on the CPU instead.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must be the path of a bundle, got {path!r:.60}")
    if threads is not None:
        check_integer("threads", threads, 1, MAX_THREADS)
    found = find_device(device)
    bundle = open_bundle(path)
    limit = bundle.config.context_length
    context = limit if context is None else check_integer("context", context, 1, limit)
    return Model(bundle, threads, context, cache or Cache(), found)


class Model:
    """A loaded model. Thread-safe: each generation and each chat has buffers of its own."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None,
        context: int,
        cache: Cache,
        device: Device | None = None,
    ) -> None:
        """Use `rdlite.load`."""
        self.bundle = bundle
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
        self._pool = SequencePool(Engine(bundle, cache, threads, device), context)
        #: Checks the options of a generation and makes what its loop needs.
        self.plan = Planner(
            bundle.config,
            bundle.manifest.exit,
            cache,
            self.generation_config,
            self._tokenizer,
            context,
        )

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model, frozen."""
        return self.bundle.config

    @property
    def default_depth(self) -> Depth:
        """How deep it thinks when it is not told: as `rdlite tune` found, or its mean depth."""
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

    def logits(
        self,
        token_ids: Sequence[int],
        steps: int | None = None,
        initial_state: str | Floats | None = None,
        seed: int = 0,
        chunk: int = CHUNK,
    ) -> Floats:
        """Score a text: the logits of every position.

        Args:
            token_ids: S ids, 1 to the context.
            steps: core steps; None: the model's default.
            initial_state: "zeros", "random" (of `seed`), "embeds", or float32 [S, E]; None: zeros
                for models that start at random, and for others their own way to start.
            seed: selects random initial states, 0 to 2^64 - 1.
            chunk: positions read at once, 1 to 4096. It changes memory and speed, and the result
                only where the cache is shared (`Cache(share=n)`).

        Returns:
            float32 [S, V], natural logits before any sampling.

        Raises:
            InputError: an argument is out of bounds (ContextError: more ids than the context).
        """
        ids = self.check_ids(token_ids)
        controller = self.plan.controller(Depth(self.config.steps_or_default(steps)))
        check_integer("chunk", chunk, 1, 4096)
        if initial_state is None:
            own = self.config.recurrence.initial_state
            initial_state = "zeros" if own == "random" else own
        start = start_at(self.config, initial_state, seed, len(ids))
        result = np.empty((len(ids), self.config.vocab_size), np.float32)
        with self._pool.borrowed() as sequence:
            for lane, steps, *_ in read(sequence, ids, controller, start, chunk):
                end = sequence.length + lane.size
                result[sequence.length : end] = lane.logits(steps, lane.size)
        return result

    def logits_by_depth(
        self,
        token_ids: Sequence[int],
        depths: Sequence[int],
        seed: int = 0,
        last: int | None = None,
        initial_state: str | Floats = "random",
    ) -> Iterator[tuple[int, Floats]]:
        """Score a text after each of several depths, in one run to the greatest.

        Args:
            token_ids: S ids, 1 to the context; read together.
            depths: core steps, ascending.
            seed: selects random initial states, 0 to 2^64 - 1.
            last: score only so many positions, the last ones; None: all.
            initial_state: "random" (as generations start; `logits` starts at zeros), "zeros",
                "embeds", or float32 [S, E].

        Returns:
            Pairs of a depth and float32 [P, V], natural logits; the array is overwritten by the
            next one's.

        Raises:
            InputError: an argument is out of bounds (ContextError: more ids than the context).
        """
        ids = self.check_ids(token_ids)
        depths = [self.config.steps_or_default(depth) for depth in as_list("depths", depths)]
        if not depths or depths != sorted(set(depths)):
            raise InputError(f"depths must ascend, got {depths}")
        last = len(ids) if last is None else check_integer("last", last, 1, len(ids))
        start = start_at(self.config, initial_state, seed, len(ids))
        self.check_open()

        def run() -> Iterator[tuple[int, Floats]]:
            with self._pool.borrowed() as sequence:
                lane = sequence.begin(ids, depths[-1])
                start(lane, 0)
                done = 0
                for depth in depths:
                    for step in range(done, depth):
                        lane.step(step)
                    done = depth
                    yield depth, lane.logits(depth, last)

        return run()

    def generate(
        self,
        prompt_or_ids: str | Sequence[int],
        max_tokens: int = 64,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        initial_state: str | Floats = "random",
        chunk: int = CHUNK,
        speculate: Speculate = None,
        top_logprobs: int = 0,
        changes: bool = False,
        min_tokens: int = 0,
        constraint: Constraint | Mapping[str, Any] | type | None = None,
    ) -> Generation:
        """Continue a text.

        Args:
            prompt_or_ids: text, which is encoded as the tokenizer says, or token ids.
            max_tokens: most new tokens, 1 to 2^22; the context may end it before.
            depth: how deep to think; None: the model's default.
            sampling: how tokens are chosen; None: greedy.
            seed: selects initial states and draws, 0 to 2^64 - 1; the same gives the same text.
            stop: texts that end the generation, not part of it; at most 64.
            initial_state: "random", "zeros" or "embeds"; "random" is the model's own way to
                start, whatever that is.
            chunk: prompt positions read at once, 1 to 4096.
            speculate: draft tokens at fewer core steps and verify them together, which changes
                the speed and not the result. (drafts, steps): so many drafts of so many steps;
                drafts 1 to 16, steps 1 to 1024. "auto": as is quickest by what this model's
                generations of the same depth have shown. None: one token after the other.
            top_logprobs: how many alternatives to tell of each token, 0 to 100.
            changes: tell how far each core step moved the state; not with `speculate`.
            min_tokens: no stop token is chosen before there are so many, 0 to 2^22.
            constraint: what the text must look like: `rdlite.Constraint(...)`, a JSON schema as a
                mapping, or a pydantic model. Tokens that would break it are never chosen; the text
                is whole when it ends by itself, and `max_tokens` may cut it short.

        Returns:
            An iterable of Tokens, computed as they are asked for.

        Raises:
            InputError: an argument is out of bounds (ContextError: the prompt does not fit).
        """
        ids = self.encode(prompt_or_ids)
        plan = self.plan(
            max_tokens,
            depth,
            sampling,
            seed,
            stop,
            initial_state,
            chunk,
            speculate,
            top_logprobs,
            changes,
            min_tokens=min_tokens,
            constraint=constraint,
        )
        self.check_open()

        def run() -> Generator[Token, None, None]:
            with self._pool.borrowed() as sequence:
                yield from generate_tokens(sequence, ids, plan)

        return Generation(run(), plan)

    def chat(
        self,
        system: str | None = None,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        speculate: Speculate = None,
    ) -> Chat:
        """Start a conversation; what was read stays in its cache between turns.

        Args:
            system: a system prompt.
            depth: how deep to think; None: the model's default.
            sampling: how tokens are chosen; None: the model's own defaults.
            seed: selects initial states and draws.
            speculate: as for `generate`.

        Raises:
            InputError: the bundle has no tokenizer or no chat template, or a number is out of
                bounds.
        """
        return Chat(self, system, depth, sampling, seed, speculate)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation, up to where the model is to answer.

        Args:
            messages: each with `role` ("system", "user", "assistant") and `content`.

        Raises:
            InputError: the bundle has no tokenizer or chat template, or the template refuses
                (ContextError: more ids than the context).
        """
        rendered = self.chat_template.render(messages)
        return self.encode(rendered, add_special_tokens=False)

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
        """Refuse further use; what still runs may end. May be called twice.

        Memory is freed when the generations and chats that use it are gone.
        """
        self._pool.close()

    def __enter__(self) -> Model:
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
        return self._pool.new()

    def check_open(self) -> None:
        """Raise InputError when the model is closed."""
        self._pool.check_open()

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
