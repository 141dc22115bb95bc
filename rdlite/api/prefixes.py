"""What texts of `generate_many` have in common at their beginnings, read once.

A text that begins like another goes on where the whole chunks that they share end, and only there:
what it still reads is then cut as it is alone, and each position has the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rdlite.decode.plan import Plan
from rdlite.engine.sequence import Sequence

LARGE_BYTES = 64 * 2**20  # of caches that a text gets only if it needs them


@dataclass(eq=False, slots=True)
class Text:
    """A text that waits, runs or has ended.

    Attributes:
        index: of its prompt.
        ids: of the prompt.
        plan: of the generation.
        how: what the caches depend on besides the ids: equal for texts that may share. None: it
            shares with no other.
        sequence: its caches, once it runs.
    """

    index: int
    ids: list[int]
    plan: Plan
    how: object
    sequence: Sequence | None = None

    def shared(self, other: Text) -> int:
        """Return how many positions another text's whole chunks have for this one; never all."""
        if self.how is None or self.how != other.how:
            return 0
        chunk, length = self.plan.chunk, 0
        while (end := length + chunk) < len(self.ids) and end <= len(other.ids):
            if self.ids[length:end] != other.ids[length:end]:
                break
            length = end
        return length


class Prefixes:
    """Finds a sequence for each text. Not thread-safe."""

    def __init__(self, new: Callable[[], Sequence]) -> None:
        """Have none yet; `new` makes one."""
        self._new = new
        self._running: list[Text] = []
        self._ended: list[Text] = []

    def place(self, text: Text) -> Sequence | None:
        """Return a sequence for a text, with what it shares with others already read.

        Returns:
            None: what it shares is being read for another text; ask again.

        Raises:
            RuntimeFailure: there is no memory for another cache.
        """
        leader = max(self._running, key=text.shared, default=None)
        ended = max(self._ended, key=text.shared, default=None)
        ready = 0 if ended is None else text.shared(ended)
        common = 0 if leader is None else text.shared(leader)
        read = leader.sequence if leader is not None and common > ready else None
        if read is not None and read.length < common:
            return None
        sequence = None
        if ended is not None:
            self._ended.remove(ended)
            sequence, needed = ended.sequence, len(text.ids) + text.plan.max_tokens
            assert sequence is not None
            if sequence.cache_bytes > LARGE_BYTES and sequence.capacity > 2 * needed:
                sequence = None
        sequence = sequence or self._new()
        if read is None or read.steps_cache.gathered:
            sequence.truncate(ready)
        else:
            sequence.restore(read.entries(common), common, gathered=False)
        text.sequence = sequence
        self._running.append(text)
        return sequence

    def end(self, text: Text, well: bool) -> None:
        """Take note that a text has ended, and whether well, so that its sequence serves again."""
        self._running.remove(text)
        assert text.sequence is not None
        if well:
            if text.sequence.steps_cache.gathered:  # what is left is not what each step left
                text.how = None
            self._ended.append(text)
