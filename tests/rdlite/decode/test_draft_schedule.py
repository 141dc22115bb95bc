"""The automatic choice of rounds, in worlds whose costs and chances are known."""

import random
import threading

import pytest

from rdlite.config.speculation import MAX_POSITIONS
from rdlite.decode.speculation.draft_schedule import AutoSchedule, RoundStats, Schedules


class World:
    """A model at 32 steps: how often its drafts are right, how sure it is, what steps cost.

    A draft is right with `chance(steps)`, ends the text with `ends`, and shows that it is wrong
    with `sure`. Positions leave after `depth` steps. A step on k positions takes 1 + slope (k - 1),
    a draft `around` steps besides its own, and the machine stumbles with `noise`. In rounds of one
    position at full depth a step takes `plain`.
    """

    def __init__(
        self, chance, slope=0.1, around=2.0, sure=0.0, ends=0.0, depth=32, noise=0.0, plain=1.0
    ):
        self.chance, self.slope, self.around = chance, slope, around
        self.sure, self.ends, self.depth, self.noise = sure, ends, depth, noise
        self.plain = plain
        self.random = random.Random(0)

    def run(self, pace, rounds):
        """Let it write; returns tokens for the time of a step."""
        tokens = seconds = 0.0
        for _ in range(rounds):
            report, new = self.round(pace.next_round())
            pace.learn(report)
            tokens += new
            seconds += report.thinking + report.around + report.finishing
        return tokens / seconds

    def round(self, this):
        drafts = []  # how deep each would have to be to be right, and how likely it seems
        while True:
            needed, confidence = self.random.random(), 0.9
            if self.random.random() < self.ends:
                confidence = -1.0
            elif needed >= self.chance(this.steps) and self.random.random() < self.sure:
                confidence = 0.2
            drafts.append((needed, confidence))
            if len(drafts) == this.positions or confidence < this.confidence:
                break
        report, new = RoundStats(), 0
        for needed, confidence in drafts:
            new += 1
            for steps in this.probes or (this.steps,):
                report.drafts.append((steps, confidence, needed < self.chance(steps)))
            report.ended = confidence < 0
            if needed >= self.chance(this.steps) or report.ended:
                break
        report.tokens = new
        count, alone = len(drafts), min(this.steps, self.depth)
        report.positions, report.alone = count, alone * count
        report.together = (self.depth - alone) * count
        report.thinking, report.around = float(report.alone), self.around * count
        if count == 1 and this.positions == 1 and not this.probes:
            report.thinking *= self.plain
            report.drafts = []
        if report.together:
            slow = 10 if self.random.random() < self.noise else 1
            step = (1 + self.slope * (count - 1)) * slow
            report.finishing = (self.depth - alone + 1) * step
        return report, new


def test_drafts_that_hold_are_made_long_and_shallow():
    pace, world = AutoSchedule(32), World(lambda _: 0.98)
    world.run(pace, 100)
    positions, steps = pace.choice
    assert positions > 8
    assert steps == 2
    assert world.run(pace, 500) > 3 / 34


def test_drafts_that_never_hold_are_not_made():
    pace, world = AutoSchedule(32), World(lambda _: 0.05)
    world.run(pace, 200)
    assert pace.choice == (1, 32)
    assert world.run(pace, 500) > 0.95 / 34  # looking costs next to nothing


def test_steps_that_cost_as_much_together_as_alone_are_taken_alone():
    pace, world = AutoSchedule(32), World(lambda _: 0.9, slope=1.0)
    world.run(pace, 300)
    assert pace.choice == (1, 32)


def test_what_plain_decoding_really_takes_is_what_counts():
    """Steps of a small model take less time where many follow each other, as in plain decoding."""
    pace, world = AutoSchedule(32), World(lambda _: 0.8)
    world.run(pace, 300)
    assert pace.choice[0] > 1
    pace, world = AutoSchedule(32), World(lambda _: 0.8, plain=0.4)
    world.run(pace, 300)
    assert pace.choice == (1, 32)


def test_drafts_are_as_deep_as_they_must_be():
    pace, world = AutoSchedule(32), World(lambda steps: 0.95 if steps >= 6 else 0.3)
    world.run(pace, 300)
    assert pace.choice[1] == 6


@pytest.mark.parametrize("chance", [0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("slope", [0.05, 0.2, 0.4])
def test_the_choice_is_nearly_the_best_there_is(chance, slope):
    def speed(positions, steps):
        held = chance + (1 - chance) * steps / 40
        tokens = sum(held**i for i in range(positions))
        together = (33 - steps) * (1 + slope * (positions - 1))
        return tokens / (positions * (2 + steps) + together)

    pace = AutoSchedule(32)
    world = World(lambda steps: chance + (1 - chance) * steps / 40, slope)
    world.run(pace, 200)
    best = max(speed(k, d) for k in range(2, MAX_POSITIONS + 1) for d in pace.depths)
    assert world.run(pace, 2000) > 0.9 * max(best, 1 / 34)


def test_confidence_that_tells_right_from_wrong_is_heeded():
    telling, silent = (World(lambda _: 0.7, sure=sure) for sure in (0.9, 0.0))
    paces = AutoSchedule(32), AutoSchedule(32)
    speeds = [
        (world.run(pace, 200), world.run(pace, 1000))[1]
        for world, pace in zip((telling, silent), paces, strict=True)
    ]
    rounds = [paces[0].next_round() for _ in range(3)]  # one of them may be plain, to compare
    assert max(this.confidence for this in rounds) > 0.2
    assert speeds[0] > 1.15 * speeds[1]


def test_texts_that_end_soon_are_no_reason_to_stop_drafting():
    pace, world = AutoSchedule(32), World(lambda _: 0.98, ends=0.3)
    world.run(pace, 300)
    assert pace.choice[0] > 2
    assert world.run(pace, 500) > 1.5 / 34


def test_it_follows_a_text_that_changes():
    pace, easy, hard = AutoSchedule(32), World(lambda _: 0.95), World(lambda _: 0.05)
    easy.run(pace, 300)
    assert pace.choice[0] > 4
    hard.run(pace, 600)
    assert pace.choice == (1, 32)
    easy.run(pace, 1500)
    assert pace.choice[0] > 4


def test_a_machine_that_stumbles_does_not_mislead_it():
    pace, world = AutoSchedule(32), World(lambda _: 0.95, noise=0.05)
    world.run(pace, 300)
    assert pace.choice[0] > 4


def test_positions_that_leave_early_are_counted_by_the_steps_they_take():
    pace, world = AutoSchedule(32), World(lambda steps: steps >= 4, depth=4)
    world.run(pace, 300)
    assert pace.choice == (1, 32)  # nothing is left to do together
    pace, world = AutoSchedule(32), World(lambda steps: steps >= 4, depth=32)
    world.run(pace, 300)
    assert pace.choice == (MAX_POSITIONS, 4)


@pytest.mark.parametrize(
    ("max_steps", "depths"),
    [(1, ()), (2, (1,)), (4, (1, 2)), (16, (1, 2, 3, 4, 6, 8)), (32, (2, 4, 6, 8, 12, 16))],
)
def test_drafts_are_shallower_than_the_full_depth(max_steps, depths):
    assert AutoSchedule(max_steps).depths == depths


def test_generations_may_share_it():
    pace, errors = AutoSchedule(32), []

    def write():
        try:
            World(lambda _: 0.9).run(pace, 200)
        except Exception as problem:
            errors.append(problem)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pace.choice[0] > 1


def test_what_was_learned_is_kept_for_the_settings_used_last():
    paces = Schedules(AutoSchedule)
    first = paces.of("first", 32)
    for number in range(Schedules.KEPT - 1):
        paces.of(number, 32)
    assert paces.of("first", 32) is first
    for number in range(Schedules.KEPT):
        paces.of(-1 - number, 32)
    assert paces.of("first", 32) is not first
