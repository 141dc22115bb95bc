"""A controller that records how far each core step moved the state."""

from rdlite.config.depth import Depth
from rdlite.exit.controller import Controller, Thinking
from rdlite.exit.protocols import Bools, Step


class Recorder(Controller):
    """A Controller that keeps how far each step moved the state of the last position."""

    def __init__(self, depth: Depth, max_steps: int, vocab_size: int) -> None:
        super().__init__(depth, max_steps, vocab_size)
        #: By step, of the position that was read last.
        self.changes: list[float] = []
        self._rows = 0

    def start(self, first: int = 0, size: int = 1) -> None:
        """Forget what was seen of `size` rows from `first` on."""
        super().start(first, size)
        self._rows = first + size
        self.changes.clear()

    def think(self, lane: Thinking, most: int | None = None, first: int = 0, done: int = 0) -> int:
        """Run core steps on the lane, one at a time, to see each."""
        end = self.max_steps if most is None else min(most, self.max_steps)
        while done < end:
            done = super().think(lane, done + 1, first, done)
            self.saw(lane, done, first)
            if self.settled[first]:
                break
        return done

    def look(self, lane: Step, steps: int, first: int = 0, together: bool = False) -> Bools:
        """Ask the rule after a step; where positions leave one by one, see the last row's."""
        settled = super().look(lane, steps, first, together)
        if not together and first + lane.change.shape[1] == self._rows:
            self.saw(lane, steps, self._rows - 1, apart=True)
        return settled

    def saw(self, lane: Step, steps: int, row: int, apart: bool = False) -> None:
        """Keep what a step did.

        Args:
            lane: its last position is the last of those that are read together.
            steps: taken so far.
            row: of which the rule has said what it says of that position.
            apart: the positions leave one by one.
        """
        self.changes.append(float(lane.change[0, -1]))
