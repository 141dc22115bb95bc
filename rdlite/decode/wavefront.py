"""The parallel sampler: a window of unfinished positions, refined together until they freeze.

As published (arXiv 2510.14961, `generate_diffusion_style` of seal-rg/recurrent-pretraining, commit
59e0b69), down to three of its habits: a position without earlier embeddings gets its new ones times
1 - ema_embeds; after positions froze, the next outer step compares states with those of as many
positions further on, so it seldom freezes any; and everything before the last settled position
freezes with it, settled or not. Unlike there, every frozen token can end the text, not only those
after the first 32 outer steps.
"""

from collections.abc import Callable, Generator, Sequence

import numpy as np
import numpy.typing as npt

from rdlite.config.parallel import Look, Parallel
from rdlite.decode.results import Choice
from rdlite.decode.sampler import Sampler
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.ort.rng import GUESSES, generator_at
from rdlite.ort.runner import Runner

Floats = npt.NDArray[np.float32]
#: Writes random states, float32 [S, E], of the positions from one on; outer step -1: initial ones.
FillStates = Callable[[Floats, int, int], None]


class Wavefront:
    """The window of one text. Not thread-safe: each generation has its own."""

    def __init__(
        self, wanted: Parallel, steps: int, sampler: Sampler, fill: FillStates, seed: int
    ) -> None:
        """Make it.

        Args:
            wanted: its knobs.
            steps: the full depth, at which the prompt is read.
            sampler: chooses tokens.
            fill: writes initial states and noise.
            seed: of the random tokens that further positions of the headway start with.
        """
        self._wanted = wanted
        self._steps = steps
        self._sampler = sampler
        self._fill = fill
        self._seed = seed
        #: Why it ended before as many tokens froze as were wanted.
        self.ended = "length"

    def run(
        self, sequence: EngineSequence, prompt: Sequence[int], first: int, most: int
    ) -> Generator[Choice, None, None]:
        """Yield the tokens after the first as they freeze.

        Args:
            sequence: has read the prompt at full depth, and gathered its caches into one slot.
            prompt: token ids.
            first: the token after it.
            most: tokens that are wanted, `first` among them.
        """
        wanted, inner = self._wanted, self._wanted.inner_recurrence
        width = sequence.config.hidden_size
        tokens, frozen = [*prompt, first], len(prompt) + 1
        counts = np.zeros(sequence.context + wanted.headway + 1, np.int64)
        counts[:frozen] = self._steps
        stable = np.zeros(len(counts), np.int64)
        states = np.empty((1, width), np.float32)
        self._fill(states, frozen - 1, -1)
        nothing = np.empty((0, width), np.float32)
        previous, embeds, before = nothing, nothing, sequence.length
        for step in range(wanted.max_diffusion_steps):
            if frozen - len(prompt) >= most:
                return
            if len(tokens) > sequence.context:
                self.ended = "context"
                return
            start, size = sequence.length, len(states)
            runner = sequence.begin(tokens[start:], inner)
            if step == 0:
                embeds = runner.embeds[0].copy()
            embeds = self._mix_embeds(runner, embeds[start - before :])
            runner.put_state(0, self._mix_noise(states, counts[start : start + size], start, step))
            for number in range(inner):
                runner.step(number)
            counts[start : start + size] += inner
            done = frozen - 1 - start  # rows before the one that predicts the first open token
            logits = runner.logits(inner, size - done)
            guesses = [self._sampler.guess(row, frozen + index) for index, row in enumerate(logits)]
            stable[: len(tokens)] += np.equal(tokens, tokens[:frozen] + guesses[:-1])
            tokens = tokens[:frozen] + guesses + self._random_tokens(frozen + len(guesses), step)
            states = self._append(runner.states[inner % 2][0], start + size)
            if len(states) > wanted.max_wavefront:  # the wave stands
                states = states[: wanted.max_wavefront]
                tokens = tokens[: start + len(states)]
            past = previous[start - before :]
            value, end = self._settled(states, past, stable, start, size, step)
            if end is None:
                end = frozen
            else:
                sequence.commit(end - 1 - start)
                states = states[end - 1 - start :]
            if wanted.observe is not None:
                shown = tuple(tokens[sequence.length :])
                wanted.observe(Look(step, sequence.length, shown, end, states))
            previous, before = states, start
            for position in range(frozen, end):
                row = logits[position - frozen]
                logprob = self._sampler.commit(row, tokens[position], position)
                yield tokens[position], logprob, int(counts[position - 1]), value
            frozen = end

    def _mix_embeds(self, runner: Runner, old: Floats) -> Floats:
        """Mix the new embeddings with those of the last outer step; returns them, [S, E]."""
        share = np.float32(self._wanted.ema_embeds)
        mixed: Floats = runner.embeds[0].copy()
        if share:  # new positions shrink too, as they do there
            mixed *= 1 - share
            mixed[: len(old)] += share * old
            runner.put_embeds(mixed)
        return mixed

    def _mix_noise(
        self, states: Floats, counts: npt.NDArray[np.int64], start: int, step: int
    ) -> Floats:
        wanted = self._wanted
        if not wanted.state_noise_mixing:
            return states
        noise = np.empty_like(states)
        self._fill(noise, start, step)
        share = np.full(len(states), wanted.state_noise_mixing, np.float32)
        if wanted.dampened_state_mixer:
            share /= 1 + counts.astype(np.float32)
        kept = 1 - share
        if wanted.sqrt_mixer:
            kept, share = np.sqrt(kept), np.sqrt(share)
        mixed: Floats = states * kept[:, None] + noise * share[:, None]
        return mixed

    def _append(self, states: Floats, position: int) -> Floats:
        headway = self._wanted.headway
        grown = np.empty((len(states) + headway, states.shape[1]), np.float32)
        grown[: len(states)] = states
        if self._wanted.continuous_compute and len(states) >= headway:
            grown[len(states) :] = states[-headway:]
        else:
            self._fill(grown[len(states) :], position, -1)
        return grown

    def _random_tokens(self, position: int, step: int) -> list[int]:
        count = self._wanted.headway - 1
        if not count:
            return []
        generator = generator_at(self._seed, position, GUESSES, step)
        return [int(token) for token in generator.integers(0, self._sampler.vocab_size, count)]

    def _settled(
        self,
        states: Floats,
        previous: Floats,
        stable: npt.NDArray[np.int64],
        start: int,
        size: int,
        step: int,
    ) -> tuple[float | None, int | None]:
        """Return what the rule measured where it stopped, and how many tokens are frozen now."""
        wanted, enough = self._wanted, self._steps // self._wanted.inner_recurrence
        if wanted.freeze_strategy == "fixed":
            fresh = max(1, len(states) - size)
            return None, start + 1 + fresh if step > enough else None
        if wanted.freeze_strategy == "token-stability":
            found = np.flatnonzero(stable[start : start + size] > enough)
            return None, start + int(found[-1]) + 1 if len(found) else None
        now = states[: len(previous)]
        lengths = np.linalg.norm(now, axis=1)
        moves = np.linalg.norm(now - previous[: len(now)], axis=1)
        found = np.flatnonzero(moves < wanted.exit_t * lengths)
        if not len(found):
            return None, None
        last = int(found[-1])
        return float(moves[last] / lengths[last]), start + last + 1
