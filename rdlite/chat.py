"""A conversation: messages through the chat template, the cache kept between turns."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from rdlite.depth import Depth
from rdlite.errors import InputError
from rdlite.generate import Generation, Plan, Token, generate_tokens
from rdlite.sampling import Sampling
from rdlite.speculate import Speculate

if TYPE_CHECKING:
    from rdlite.model import Model


class Chat:
    """A conversation with a model. Not thread-safe; many may share one model.

    Each turn reads only what differs from what was read before: the longest common prefix of
    tokens stays in the cache.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        speculate: Speculate = None,
    ) -> None:
        """Use `Model.chat`."""
        _ = model.tokenizer, model.chat_template  # complain now, not at the first message
        model.plan(1, depth, sampling, seed, (), speculate=speculate)
        self.model = model
        self.depth = depth or Depth()
        self.sampling = sampling or model.generation_config.sampling
        self.seed = seed
        self.speculate = speculate
        self.messages: list[dict[str, str]] = []
        self._sequence = model.new_sequence()
        self._read: list[int] = []  # the tokens that the cache holds
        self._read_how: tuple[Depth, int] | None = None  # at which depth and seed
        self._answer: Generation | None = None
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget the conversation and start over with this system prompt."""
        self._end_answer()
        self.messages = [{"role": "system", "content": system}] if system else []
        self._read = []

    @property
    def context_used(self) -> int:
        """Tokens of the conversation that are in the cache."""
        return len(self._read)

    def send(self, text: str, max_tokens: int = 1024) -> Generation:
        """Say something and get the answer, token by token.

        The answer joins the conversation when it ends, or as far as it went when it is closed; an
        answer still running is closed first. A turn that is closed before its first token leaves
        no trace.

        Args:
            text: the user's message.
            max_tokens: most tokens of the answer.

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
        prompt = model.encode_chat(messages)
        plan = model.plan(
            max_tokens, self.depth, self.sampling, self.seed, (), speculate=self.speculate
        )
        self._answer = Generation(self._run(messages, prompt, plan), plan.stats)
        return self._answer

    def _run(
        self, messages: list[dict[str, str]], prompt: list[int], plan: Plan
    ) -> Generator[Token, None, None]:
        how = (self.depth, self.seed)
        kept = _common_prefix(self._read, prompt[:-1]) if how == self._read_how else 0
        self._sequence.truncate(kept)
        self._read_how = how
        tokens, answer = list(prompt), ""
        try:
            for token in generate_tokens(self._sequence, prompt, plan):
                tokens.append(token.id)
                answer += token.text
                yield token
        finally:
            self._read = tokens[: self._sequence.length]
            if len(tokens) > len(prompt):
                self.messages = [*messages, {"role": "assistant", "content": answer}]

    def _end_answer(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _common_prefix(a: list[int], b: list[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
