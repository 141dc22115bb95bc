"""A sequence whose KV cache can be reused by a prompt with the same prefix."""

from collections.abc import Generator

from rdlite.config.depth import Depth
from rdlite.decode.loop import generate_tokens
from rdlite.decode.plan import Plan
from rdlite.decode.results import Token
from rdlite.engine.sequence import Sequence

#: What the entries of a cache depend on besides the tokens: the depth and the seed.
How = tuple[Depth, int]


class CachedPrompt:
    """Goes on from what is read already. Not thread-safe."""

    def __init__(self, sequence: Sequence) -> None:
        """Start with a sequence that has read nothing."""
        self.sequence = sequence
        self.tokens: list[int] = []
        self.how: How | None = None

    def common(self, prompt: list[int], how: How) -> int:
        """Return how many tokens of a prompt need not be read again; never all of them."""
        if how != self.how:
            return 0
        pairs = zip(self.tokens, prompt[:-1], strict=False)
        most = min(len(self.tokens), len(prompt) - 1)
        same = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), most)
        return min(same, self.sequence.length)  # less, if a device had no memory to keep it

    def generate(self, prompt: list[int], plan: Plan, how: How) -> Generator[Token, None, None]:
        """Read what differs of a prompt and yield new tokens; what was read stays.

        Args:
            prompt: token ids that fit in the context.
            plan: of this depth and seed.
            how: depth and seed.
        """
        self.sequence.truncate(self.common(prompt, how))
        self.how = how
        tokens = list(prompt)
        try:
            for token in generate_tokens(self.sequence, prompt, plan):
                tokens.append(token.id)
                yield token
        finally:
            self.tokens = tokens[: self.sequence.length]

    def copy(self, sequence: Sequence, length: int) -> "CachedPrompt":
        """Return the first `length` tokens, at least one, as a text of their own.

        Args:
            sequence: of the same engine; it has read nothing.
            length: tokens that were read.
        """
        steps = self.sequence.steps_cache
        sequence.restore(self.sequence.entries(length), length, steps.gathered)
        copy = CachedPrompt(sequence)
        copy.tokens, copy.how = self.tokens[:length], self.how
        return copy

    def restart(self, length: int = 0) -> None:
        """Forget every token from `length` on."""
        self.sequence.truncate(length)
        del self.tokens[length:]
