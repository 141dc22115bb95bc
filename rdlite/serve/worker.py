"""Runs what was asked for: a bounded line of jobs, and slots that take from it.

One thread works on the jobs of all slots: their positions share calls, and do not compete.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rdlite.api.together import Event, Together
from rdlite.decode.plan import Plan
from rdlite.decode.prompt_cache import CachedPrompt, How
from rdlite.decode.results import Stats, Token
from rdlite.errors import RdliteError, RuntimeFailure
from rdlite.serve.prefix_cache import PrefixCache

STUCK_S = 900.0  # without a token or a chunk of the prompt; deep steps of large models are slow
MAX_RETRY_S = 60
#: What a job hands over: its tokens, then None, or what went wrong.
Item = Token | None | Exception
log = logging.getLogger("rdlite.serve")


class BusyError(RdliteError):
    """The line is full.

    Attributes:
        retry_after: seconds after which it is worth to try again.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(
            f"{waiting} requests are waiting already, as many as may; try again in about "
            f"{retry_after} s"
        )
        self.retry_after = retry_after


class StoppingError(RuntimeFailure):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


@dataclass(eq=False, slots=True)
class Job:
    """One generation that was asked for.

    Attributes:
        prompt: token ids that fit in the context.
        plan: of the generation.
        how: its depth and seed.
        deliver: called from the worker's thread with each token, and then with None or an error.
        alone: nothing that was read before may serve it.
        then: a job of the same prompt, depth and seed that takes its slot when it has ended, and
            goes on from the prompt that it has read.
    """

    prompt: list[int]
    plan: Plan
    how: How
    deliver: Callable[[Item], None]
    alone: bool = False
    then: "Job | None" = None
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Core steps that were taken for it, of chunks and tokens that are complete."""
        return self.plan.stats.prompt_steps + self.plan.stats.core_steps


@dataclass(eq=False, slots=True)
class _Slot:
    job: Job | None = None
    kept: CachedPrompt | None = None
    started: float = 0.0
    #: What the job had done when somebody last asked, and when that had last changed.
    seen: int = -1
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """How the worker is.

    Attributes:
        problem: what is wrong with it; None if nothing is.
        slots: generations that can run at once.
        busy: those that do.
        waiting: jobs in the line.
    """

    problem: str | None
    slots: int
    busy: int
    waiting: int


class Worker:
    """Owns the thread that runs a model. Thread-safe."""

    def __init__(
        self,
        slots: int,
        waiting: int,
        prefixes: PrefixCache,
        finished: Callable[[Stats], None],
        waited: Callable[[float], None] = lambda seconds: None,
        called: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """Start the thread.

        Args:
            slots: generations that run at once, at least one.
            waiting: jobs that may wait beside them.
            prefixes: gives texts to go on from, and keeps them between jobs.
            finished: called with what each job took, from the worker's thread, as are those below.
            waited: called with the seconds that a job waited for a slot.
            called: called with the rows of each call that took rows.
        """
        self._waited = waited
        self._together: Together[_Slot] = Together(prefixes.engine, called, most=slots)
        self._prefixes = prefixes
        self._finished = finished
        self._most_waiting = waiting
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds = 1.0  # that a job takes, by those of late
        self._slots = [_Slot() for _ in range(slots)]
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in the line; raises BusyError if it is full, or StoppingError."""
        with self._changed:
            if self._stopping:
                raise StoppingError()
            free = sum(slot.job is None for slot in self._slots)
            if len(self._line) >= self._most_waiting + free:
                turns = (len(self._line) + 1) / len(self._slots)
                seconds = math.ceil(turns * self._seconds)
                raise BusyError(len(self._line), min(max(seconds, 1), MAX_RETRY_S))
            self._line.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job, wherever it is: what runs is cut off. Does nothing to one that has ended."""
        with self._changed:
            if job in self._line:
                self._line.remove(job)
        job.plan.cancellation.ask()

    def check(self) -> Health:
        """Ask the slots how they are: alive, and getting on with what they do."""
        with self._changed:
            problem, now = None, time.monotonic()
            for index, slot in enumerate(self._slots):
                if (job := slot.job) is None:
                    slot.seen = -1
                elif (done := job.done) != slot.seen:
                    slot.seen, slot.seen_at = done, now
                elif now - slot.seen_at > STUCK_S:
                    problem = f"slot {index} has done nothing for {now - slot.seen_at:.0f} s"
            if not self._thread.is_alive():
                problem = "the worker has died"
            busy = sum(slot.job is not None for slot in self._slots)
            return Health(problem, len(self._slots), busy, len(self._line))

    def hurry(self) -> None:
        """Take no more jobs, and cancel those that there are."""
        with self._changed:
            self._stopping = True
            for slot in self._slots:
                if slot.job is not None:
                    slot.job.plan.cancellation.ask()
            jobs = list(self._line)
            self._line.clear()
            self._changed.notify_all()
        for job in jobs:
            _deliver(job, StoppingError())

    def stop(self, timeout: float = 10.0) -> None:
        """Hurry, and return when the thread has ended, or after `timeout` s."""
        self.hurry()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._line or self._stopping or any(slot.job for slot in self._slots)
                )
                if self._stopping and not any(slot.job for slot in self._slots):
                    return
                begun = []
                for slot in self._slots:
                    if slot.job is None and self._line:
                        slot.job, slot.started = self._line.popleft(), time.monotonic()
                        slot.seen = -1  # what the job before it had done says nothing of this one
                        begun.append(slot)
            for slot in begun:
                self._begin(slot)
            for slot, event in self._together.turn():
                if isinstance(event, Token):
                    assert slot.job is not None
                    _deliver(slot.job, event)
                else:
                    self._end(slot, event)

    def _begin(self, slot: _Slot) -> None:
        job = slot.job
        assert job is not None
        self._waited(slot.started - job.asked_at)
        try:
            kept = self._prefixes.new() if job.alone else self._prefixes.take(job.prompt, job.how)
        except Exception as problem:
            self._end(slot, problem)
            return
        self._generate(slot, job, kept)

    def _generate(self, slot: _Slot, job: Job, kept: CachedPrompt) -> None:
        slot.kept = kept
        tokens = kept.generate(job.prompt, job.plan, job.how)
        self._together.add(slot, kept.sequence, tokens)

    def _end(self, slot: _Slot, event: Event) -> None:
        """Tell how a job ended. Whatever went wrong is the job's, not the slot's."""
        job, kept, result = slot.job, slot.kept, event
        assert job is not None
        if event is None:
            self._finished(job.plan.stats)
            if job.then is not None and kept is not None and job.plan.stats.finish != "cancelled":
                slot.job = job.then
                _deliver(job, None)
                self._generate(slot, job.then, kept)
                return
            if kept is not None and not job.alone:
                self._prefixes.give(kept)
            if self._stopping and job.plan.stats.finish == "cancelled":
                result = StoppingError()
        elif isinstance(event, MemoryError):
            result = RuntimeFailure("there is not enough memory for this request")
        elif isinstance(event, Exception) and not isinstance(event, RdliteError):
            log.error("a generation failed", exc_info=event)
        slot.kept = None
        with self._changed:
            slot.job = None
            self._seconds += 0.2 * (time.monotonic() - slot.started - self._seconds)
        _deliver(job, result)  # who has seen the end of an answer finds its slot free


def _deliver(job: Job, item: Item) -> None:
    """Hand over an item. Who cannot take it must not end the work on other jobs."""
    try:
        job.deliver(item)
    except Exception:
        log.exception("an answer could not be handed over")
        job.plan.cancellation.ask()
