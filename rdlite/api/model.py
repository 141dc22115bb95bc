"""The Python API: a Model generates, scores and chats."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.api.chat import Chat
from rdlite.api.history import History
from rdlite.api.loaded import Loaded
from rdlite.api.many import Finished, generate_many
from rdlite.config.constraint import Constraint
from rdlite.config.depth import Depth
from rdlite.config.parallel import Parallel
from rdlite.config.sampling import Sampling
from rdlite.config.speculation import Speculate
from rdlite.decode.generation import Generation
from rdlite.decode.loop import generate_tokens
from rdlite.decode.plan import CHUNK
from rdlite.decode.planner import as_list
from rdlite.decode.prefill import read
from rdlite.decode.results import Token
from rdlite.errors import InputError
from rdlite.ort.initial_state import start_at
from rdlite.utils.checks import check_integer

Floats = npt.NDArray[np.float32]
CHARACTERS_PER_TOKEN = 256  # no text has tokens that long throughout


class Model(Loaded):
    """A loaded model. Thread-safe: each generation and each chat has buffers of its own."""

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
        with self.pool.borrowed() as sequence:
            for runner, steps, *_ in read(sequence, ids, controller, start, chunk):
                end = sequence.length + runner.size
                result[sequence.length : end] = runner.logits(steps, runner.size)
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
            with self.pool.borrowed() as sequence:
                runner = sequence.begin(ids, depths[-1])
                start(runner, 0)
                done = 0
                for depth in depths:
                    for step in range(done, depth):
                        runner.step(step)
                    done = depth
                    yield depth, runner.logits(depth, last)

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
        sampler: Parallel | None = None,
        draws: int | None = None,
    ) -> Generation:
        """Continue a text.

        Args:
            prompt_or_ids: text, which is encoded as the tokenizer says, or token ids.
            max_tokens: maximum new tokens, 1 to 2^22; a full context ends it earlier.
            depth: how deep to think; None: the model's default.
            sampling: how tokens are chosen; None: greedy.
            seed: selects initial states and draws, 0 to 2^64 - 1; the same gives the same text.
            stop: texts that end the generation, not part of it; at most 64.
            initial_state: "random", "zeros" or "embeds"; "random" means the model's own way to
                start.
            chunk: prompt positions read at once, 1 to 4096.
            speculate: read what may follow a token before that is thought to the end, which changes
                the speed and not the result. (drafts, steps): up to so many tokens at once (1 to
                16), each begun when the one before it took so many steps (1 to 1024). "auto": what
                has been fastest in this model's generations of the same depth. None: no drafts.
            top_logprobs: alternatives to report for each token, 0 to 100.
            changes: report how far each core step moved the state; not with `speculate`.
            min_tokens: let neither a stop token nor a stop text end it before there are this many
                tokens, 0 to 2^22.
            constraint: what the text must look like: `rdlite.Constraint(...)`, a JSON schema as a
                mapping, or a pydantic model. Tokens that would break it are never chosen. Close to
                `max_tokens` or the end of the context, the text is brought to an end; it is cut
                only if no way to one is found, and then `stats.finish` is "length".
            sampler: `rdlite.Parallel(...)` refines several tokens together, which is lossy; None:
                one token after the other.
            draws: a seed for the draws alone, 0 to 2^64 - 1; None: `seed`.

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
            draws,
            min_tokens,
            constraint,
            sampler,
        )
        self.check_open()

        def run() -> Generator[Token, None, None]:
            with self.pool.borrowed() as sequence:
                yield from generate_tokens(sequence, ids, plan)

        return Generation(run(), plan)

    def generate_many(
        self,
        prompts: Iterable[str | Sequence[int] | Mapping[str, Any]],
        at_once: int = 8,
        finished: Finished | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Token]]:
        """Continue many texts, several at a time; each gets the tokens that it gets alone.

        Positions of different texts, at whatever depth each is, share calls: eight texts take about
        half the time that they take one after the other, or less. To the bit, tokens and
        log-probabilities are those of `generate`. On a GPU they are but for the last bits, and
        texts of one `generate_many` at a time share calls. With portable bundles and with float32
        activations texts do not share calls, and take turns.

        Args:
            prompts: any iterable, read as places become free; each is text, token ids, or a mapping
                of `prompt` and options of its own, such as `{"prompt": "Hi", "seed": 3}`.
            at_once: texts that are worked on at a time, 1 to 1024; each has caches of its own.
            finished: called with each prompt's index when it has ended, and its `Stats` or the
                RdliteError it ended with. Without it, the first such error is raised once all
                other texts have ended.
            options: those of `generate`, for prompts that have none of their own.

        Returns:
            An iterator of pairs: a prompt's index, from 0 on, and its next Token. Texts come mixed,
            the tokens of each in order; memory is bounded by `at_once`. To be used from one thread.
            Closing it ends all texts.

        Raises:
            InputError: an argument is out of bounds, or an option is unknown.
        """
        check_integer("at_once", at_once, 1, 1024)
        if isinstance(prompts, str | bytes | Mapping):
            raise InputError(f"prompts must be several, got {prompts!r:.60}; put it in a list")
        return generate_many(self, prompts, at_once, finished, options)

    def chat(
        self,
        system: str | None = None,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        speculate: Speculate = None,
        template_variables: Mapping[str, Any] | None = None,
        sampler: Parallel | None = None,
        history: History = "trained",
    ) -> Chat:
        """Start a conversation; what was read stays in its cache between turns.

        Args:
            system: a system prompt.
            depth: how deep to think; None: the model's default.
            sampling: how tokens are chosen; None: the model's own defaults.
            seed: selects initial states and draws.
            speculate: as for `generate`.
            template_variables: of the chat template's own, like `{"enable_thinking": False}`;
                `chat_template.variables` lists the variables.
            sampler: as for `generate`.
            history: where a conversation gets longer than the model was trained for, "trained"
                leaves out the oldest turns; "all" keeps them up to the context. Or a number of
                tokens.

        Raises:
            InputError: the bundle has no tokenizer or no chat template, or a number is out of
                bounds.
        """
        return Chat(
            self, system, depth, sampling, seed, speculate, template_variables, sampler, history
        )
