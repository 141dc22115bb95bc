"""A controller that records how far each core step moved the state."""

from rdlite.config.depth import Depth
from rdlite.exit.controller import Controller, CoreRun
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

    def run_steps(
        self, runner: CoreRun, most: int | None = None, first: int = 0, done: int = 0
    ) -> int:
        """Run core steps on the runner, one at a time, to see each."""
        end = self.max_steps if most is None else min(most, self.max_steps)
        while done < end:
            done = super().run_steps(runner, done + 1, first, done)
            self.record(runner, done, first)
            if self.settled[first]:
                break
        return done

    def check_exit(self, runner: Step, steps: int, first: int = 0, together: bool = False) -> Bools:
        """Ask the rule after a step; where positions leave one by one, see the last row's."""
        settled = super().check_exit(runner, steps, first, together)
        if not together and first + runner.size == self._rows:
            self.record(runner, steps, self._rows - 1, apart=True)
        return settled

    def record(self, runner: Step, steps: int, row: int, apart: bool = False) -> None:
        """Record what a step did.

        Args:
            runner: its last position is the last of those that are read together.
            steps: taken so far.
            row: of which the rule has said what it says of that position.
            apart: the positions leave one by one.
        """
        self.changes.append(float(runner.change[0, -1]))
