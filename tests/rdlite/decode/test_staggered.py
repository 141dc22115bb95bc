"""Positions in flight at different depths: what comes of them is what plain decoding gives."""

import dataclasses
import random

import pytest

import rdlite
from rdlite import Cache, Depth, Sampling
from rdlite.decode.loop import generate_tokens
from rdlite.decode.speculation.draft_schedule import Schedules
from rdlite.decode.speculation.rounds import Speculation
from rdlite.decode.speculation.staggered import Staggered
from rdlite.decode.speculation.staggered_schedule import AutoStagger, FixedStagger

DEPTHS = {
    "fixed": Depth(12),
    "latent-diff": Depth(12, exit="latent-diff", threshold=0.05),
    "latent-diff, seldom": Depth(10, 3, "latent-diff", 0.1, check_every=2),
    "acceleration": Depth(12, exit="acceleration", threshold=0.1),
    "cosine": Depth(12, exit="cosine", threshold=0.01),
}


def staggering(model):
    """Let a model speculate as large ones do."""
    model.plan._staggers = Schedules(AutoStagger)
    return model


@pytest.fixture(scope="module")
def exact_nano(full_nano):
    with rdlite.load(full_nano, threads=1) as model:
        yield staggering(model)


def exact(generation):
    return [(t.id, t.text, t.steps, t.logprob, t.exit_value) for t in generation]


def endless(model, sampling):
    """Never choose a token that ends the text."""
    never = dict.fromkeys(model.generation_config.stop_ids, -1000.0)
    return dataclasses.replace(sampling, logit_bias=never)


class Restless(FixedStagger):
    """Chooses anew at each beginning, and looks at any depths."""

    timed = True

    def __init__(self, rng, depth):
        super().__init__(16, 1)
        self.rng, self.depth, self.times = rng, depth, []

    def begin(self):
        self.choice = self.rng.randint(1, 16), self.rng.randint(1, self.depth + 2)
        return tuple(sorted(self.rng.sample(range(1, self.depth), self.rng.randint(0, 4))))

    def note_step(self, rows, seconds):
        assert 1 <= rows <= 16
        self.times.append(seconds)


@pytest.mark.parametrize("name", DEPTHS)
def test_the_text_is_the_same_to_the_bit_however_positions_follow(exact_nano, name):
    rng, drafted = random.Random(name), 0
    for number in range(8):
        ids = [rng.randrange(exact_nano.config.vocab_size) for _ in range(rng.randint(1, 30))]
        sampling = endless(exact_nano, rng.choice((Sampling(), Sampling(0.8, min_p=0.05))))
        how = (40, DEPTHS[name], sampling, number, ())
        expected = exact(exact_nano.generate(ids, *how))
        plan = exact_nano.plan(*how, speculate=(16, 1))
        schedule = plan.speculation.schedule = Restless(rng, DEPTHS[name].max_steps)
        assert exact(generate_tokens(exact_nano.new_sequence(), ids, plan)) == expected
        assert min(schedule.times) > 0
        drafted += plan.stats.drafted
    assert drafted > 40


@pytest.mark.parametrize("weights", ["int8", "int8 cache"])
def test_the_shipped_nano_gives_the_same_bits(weights):
    cache = Cache(bits=8) if weights == "int8 cache" else None
    with rdlite.load("nano", cache=cache) as model:
        staggering(model)
        for seed, way in enumerate(((4, 8), (16, 1), (3, 20), (8, 4))):
            how = (60, Depth(24), endless(model, Sampling()), seed)
            plain = exact(model.generate("What is 48 + 76?", *how))
            assert exact(model.generate("What is 48 + 76?", *how, speculate=way)) == plain


def test_caches_grow_while_positions_are_in_flight(exact_nano):
    rng = random.Random(0)
    ids = [rng.randrange(exact_nano.config.vocab_size) for _ in range(240)]
    how = (40, Depth(12), endless(exact_nano, Sampling()))
    fresh = exact_nano.new_sequence()
    plan = exact_nano.plan(*how, 0, (), speculate=(6, 2))
    assert exact(generate_tokens(fresh, ids, plan)) == exact(exact_nano.generate(ids, *how))
    assert fresh.capacity > 256  # it held 256 before


def test_several_texts_share_calls_and_keep_their_bits():
    prompts = ["What is 48 + 76?", "hello", "Sort 3142.", "Is 77 even?"]
    with rdlite.load("nano") as model:
        how = {"max_tokens": 30, "depth": Depth(16), "sampling": endless(model, Sampling())}
        alone = [exact(model.generate(prompt, **how)) for prompt in prompts]
        found = [[] for _ in prompts]
        for index, token in staggering(model).generate_many(prompts, 3, speculate=(4, 4), **how):
            found[index].append(token)
        assert [exact(tokens) for tokens in found] == alone


def test_large_cores_are_staggered_and_small_ones_are_not(full_nano, monkeypatch):
    with rdlite.load(full_nano) as small:
        assert isinstance(
            small.plan(4, None, None, 0, (), speculate="auto").speculation, Speculation
        )
        expected = small.generate("hello", 20, Depth(12)).ids
    monkeypatch.setattr("rdlite.engine.rows.LARGE", 1)
    with rdlite.load(full_nano) as large:
        speculation = large.plan(4, Depth(12), None, 0, (), speculate="auto").speculation
        assert isinstance(speculation, Staggered)
        assert large.generate("hello", 20, Depth(12), speculate=(4, 3)).ids == expected


def test_nothing_is_done_twice(exact_nano):
    """A draft that is right goes on from where it is: so many calls a token, and no more."""

    class Counting(FixedStagger):
        timed = True
        calls = rows = 0

        def note_step(self, rows, seconds):
            self.calls += 1
            self.rows += rows

    plan = exact_nano.plan(33, Depth(32), endless(exact_nano, Sampling()), 0, (), speculate=(2, 16))
    schedule = plan.speculation.schedule = Counting(2, 16)
    ids = exact_nano.encode_chat([{"role": "user", "content": "hello"}])
    count = len(list(generate_tokens(exact_nano.new_sequence(), ids, plan)))
    stats = plan.stats
    assert count == 33 == 1 + stats.rounds + stats.accepted
    lost = 32 * (stats.drafted - stats.accepted)
    assert 32 * 32 <= schedule.rows <= 32 * 32 + lost
    assert schedule.calls <= 16 * 33 + 16 * stats.rounds


def test_nothing_is_drafted_after_the_end(exact_nano):
    prompt = exact_nano.encode_chat([{"role": "user", "content": "Add 6 and 8."}])
    stats = exact_nano.generate(prompt, 16, Depth(16), speculate=(12, 12)).stats
    assert (stats.new_tokens, stats.finish) == (3, "stop")
    assert (stats.rounds, stats.drafted, stats.accepted) == (1, 1, 1)


def test_more_seats_than_before_are_given(exact_nano):
    sequence = exact_nano.new_sequence()
    few = sequence.staggered(2, 4)
    assert sequence.staggered(2, 8) is few
    assert len(sequence.staggered(5, 8).seats) == 5


class World:
    """A model at 32 steps: how often its drafts are right, and what steps cost.

    A draft after some steps is right with `chance(steps)`. A step on k positions takes
    1 + slope (k - 1), and what is around a token `around`.
    """

    def __init__(self, chance, slope=0.2, around=2.0, ends=0.0):
        self.chance, self.slope, self.around, self.ends = chance, slope, around, ends
        self.random = random.Random(0)

    def write(self, schedule, tokens):
        """Let it write so many tokens; returns the time that one took on the average."""
        inside, whole, probes = 1, 0.0, schedule.begin()
        for _ in range(tokens):
            needed, (positions, steps) = self.random.random(), schedule.choice
            ended = self.random.random() < self.ends
            schedule.note_end(32, ended)
            for depth in {*probes, *((steps,) if positions > 1 else ())}:
                schedule.note_draft(depth, needed < self.chance(depth))
            if positions == 1:
                schedule.note_plain(1.0)
                schedule.note_around(self.around)
                took = 32 + self.around
            else:
                calls = [min(positions, inside)] * (steps if inside > 1 else 32)
                took = self.around + sum(1 + self.slope * (rows - 1) for rows in calls)
                for rows in calls:
                    schedule.note_step(rows, 1 + self.slope * (rows - 1))
                if not probes:
                    schedule.note_token(steps, took)
            inside, whole = min(positions, 32 // steps), whole + took
            if ended or positions == 1 or needed >= self.chance(steps):
                probes, inside = schedule.begin(), 1
        return whole / tokens


def test_auto_takes_the_shallowest_drafts_that_hold():
    schedule, world = AutoStagger(32), World(lambda steps: 0.97 if steps >= 8 else 0.3)
    world.write(schedule, 400)
    schedule._choose(forced=False)
    assert schedule.choice == (4, 8)
    assert world.write(schedule, 1000) < 34 / 1.7


def test_auto_decodes_plainly_where_drafts_never_hold():
    schedule, world = AutoStagger(32), World(lambda _: 0.1)
    world.write(schedule, 400)
    schedule._choose(forced=False)
    assert schedule.choice == (1, 32)
    assert world.write(schedule, 1000) < 34 * 1.1  # looking costs little


def test_auto_decodes_plainly_where_company_costs_as_much_as_it_gains():
    schedule, world = AutoStagger(32), World(lambda _: 0.9, slope=1.0)
    world.write(schedule, 400)
    schedule._choose(forced=False)
    assert schedule.choice == (1, 32)
    assert world.write(schedule, 1000) < 34 * 1.1


def test_auto_sees_that_drafts_have_become_good():
    schedule = AutoStagger(32)
    World(lambda _: 0.1).write(schedule, 300)
    World(lambda _: 0.97).write(schedule, 3000)
    schedule._choose(forced=False)
    assert schedule.choice[0] > 1


def test_texts_that_end_soon_are_staggered_less():
    long, short = AutoStagger(32), AutoStagger(32)
    World(lambda _: 0.9, slope=0.3).write(long, 400)
    World(lambda _: 0.9, slope=0.3, ends=0.5).write(short, 400)
    for schedule in (long, short):
        schedule._choose(forced=False)
    assert long.choice[0] > 1
    assert short.choice[0] <= long.choice[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 100])
def test_auto_has_depths_below_the_full_one(steps):
    assert all(0 < depth < steps for depth in AutoStagger(steps).depths)
