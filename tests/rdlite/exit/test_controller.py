"""Exit rules and their controller, on made-up states; the published values are in test_oracle."""

import re

import numpy as np
import pytest

import rdlite
from rdlite import Depth
from rdlite.config.exit_rules import RULES
from rdlite.exit.controller import Controller
from rdlite.exit.predictions import GatedKL
from rdlite.exit.registry import MAKERS, make_rule

WIDTH, VOCABULARY = 8, 16


class Made:
    """A runner whose states and logits after each step are given."""

    def __init__(self, states, logits=None):
        self.path = np.asarray(states, np.float32)
        self.all_logits = logits
        self.states = (self.path[0][None].copy(), np.zeros_like(self.path[0][None]))
        self.size = self.path.shape[1]
        self.change = np.zeros((1, self.size), np.float32)
        self.taken, self.decoded = [], []

    def step(self, number):
        self.taken.append(number)
        now, before = self.path[number + 1], self.path[number]
        self.states[(number + 1) % 2][0] = now
        self.change[0] = np.linalg.norm(now - before, axis=1) / np.linalg.norm(now, axis=1)

    def take_steps(self, first, end, settled=None):
        for number in range(first, end):
            self.step(number)
            if settled is not None and settled(number + 1):
                return number + 1
        return end

    def logits(self, steps):
        self.decoded.append(steps)
        return self.all_logits[steps][None]


def settling(rate, steps=40, positions=3):
    """States that wander about a point, `rate` times as far away at each step."""
    rng = np.random.default_rng(0)
    end = rng.standard_normal((positions, WIDTH))
    away = 5 * rng.standard_normal((steps, positions, WIDTH))
    return end + away * rate ** np.arange(steps)[:, None, None]


def run_steps(depth, runner, max_steps=30):
    controller = Controller(depth, max_steps, VOCABULARY)
    return controller.run_steps(runner), controller.value


def test_without_a_rule_all_steps_are_taken():
    runner = Made(settling(0.5))
    assert run_steps(rdlite.Depth(7), runner, 7) == (7, None)
    assert runner.taken == list(range(7))


@pytest.mark.parametrize("rule", ["latent-diff", "cosine", "acceleration"])
def test_latent_rules_stop_sooner_where_states_settle_sooner(rule):
    fast, _ = run_steps(rdlite.Depth(exit=rule), Made(settling(0.3)))
    slow, _ = run_steps(rdlite.Depth(exit=rule), Made(settling(0.7)))
    assert 1 < fast < slow < 30


def test_latent_difference_is_the_mean_of_the_change():
    runner = Made(settling(0.5))
    steps, value = run_steps(rdlite.Depth(exit="latent-diff", threshold=0.1), runner)
    changes = np.linalg.norm(np.diff(runner.path, axis=0), axis=2) / np.linalg.norm(
        runner.path[1:], axis=2
    )
    means = changes.mean(axis=1)
    assert steps == 1 + int(np.argmax(means < 0.1))
    assert np.isclose(value, means[steps - 1], rtol=1e-5)


def test_acceleration_needs_two_hits_in_a_row():
    path = settling(0.5)
    moves = np.diff(path, axis=0)
    bends = np.linalg.norm(np.diff(moves, axis=0), axis=2) / np.linalg.norm(path[2:], axis=2)
    hits = bends.mean(axis=1) < 0.05  # hits[i]: at step i + 2
    expected = 3 + int(np.argmax(hits[:-1] & hits[1:]))
    steps, value = run_steps(rdlite.Depth(exit="acceleration", threshold=0.05), Made(path))
    assert steps == expected
    assert np.isclose(value, bends.mean(axis=1)[steps - 2], rtol=1e-3)


def test_acceleration_also_stops_where_not_every_step_is_looked_at():
    depth = rdlite.Depth(exit="acceleration", threshold=0.05, check_every=3)
    steps, _ = run_steps(depth, Made(settling(0.5)))
    assert steps < 30
    assert steps % 3 == 1


def test_a_rule_with_nothing_to_say_yet_says_nothing():
    """An infinite value would be no JSON."""
    assert run_steps(rdlite.Depth(exit="acceleration"), Made(settling(0.5)), 1) == (1, None)
    depth = rdlite.Depth(exit="gated-kl")
    assert run_steps(depth, Made(settling(0.99), logits_settling(1)), 2) == (2, None)


def test_fewest_steps_and_steps_between_questions():
    depth = rdlite.Depth(min_steps=6, exit="latent-diff", threshold=10, check_every=4)
    assert run_steps(depth, Made(settling(0.5)))[0] == 6
    depth = rdlite.Depth(min_steps=2, exit="latent-diff", threshold=0.05, check_every=5)
    free, _ = run_steps(rdlite.Depth(exit="latent-diff", threshold=0.05), Made(settling(0.6)))
    steps, _ = run_steps(depth, Made(settling(0.6)))
    assert steps == next(n for n in range(2, 30, 5) if n >= free)
    depth = rdlite.Depth(min_steps=9, exit="latent-diff")
    assert run_steps(depth, Made(settling(0.5)), max_steps=4)[0] == 4  # the depth is the bound


def per_position(rule, path):
    """What a latent rule measures at each step from the second on, float64 [steps, positions]."""
    now, before = path[1:], path[:-1]
    moves, lengths = now - before, np.linalg.norm(now, axis=2)
    if rule == "latent-diff":
        values = np.linalg.norm(moves, axis=2) / lengths
    elif rule == "cosine":
        values = 1 - (now * before).sum(axis=2) / lengths / np.linalg.norm(before, axis=2)
    else:
        values = np.full(lengths.shape, np.inf)
        values[1:] = np.linalg.norm(np.diff(moves, axis=0), axis=2) / lengths[1:]
    return values


LATENT = [name for name, kind in RULES.items() if not kind.decodes and not kind.gated]


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("parts", [[(0, 5)], [(0, 2), (2, 5)]])
def test_latent_rules_measure_each_position(name, parts):
    path = settling(0.8, steps=12, positions=5)
    expected = per_position(name, path)
    rule = make_rule(name, 0.03, VOCABULARY)
    for _ in range(2):  # what was seen before is forgotten
        rule.start(0, 5)
        runners = [Made(path[:, a:b]) for a, b in parts]
        for number in range(11):
            for runner, (a, b) in zip(runners, parts, strict=True):
                runner.step(number)
                values = rule.measure(runner, number + 1, a)
                assert values.dtype == np.float32
                assert np.allclose(values, expected[number, a:b], rtol=1e-3, atol=1e-6)


def test_a_state_of_zeros_has_no_direction():
    path = settling(0.5)
    path[0, 1] = 0
    runner = Made(path)
    runner.step(0)
    values = make_rule("cosine", 0.1, VOCABULARY).measure(runner, 1, 0)
    assert np.isinf(values).tolist() == [False, True, False]


@pytest.mark.parametrize("name", LATENT)
def test_each_position_settles_at_its_own_step(name):
    path = np.concatenate([settling(rate, 30, 1) for rate in (0.3, 0.7, 0.5)], axis=1)
    below = per_position(name, path) < 0.03
    if name == "acceleration":
        below[1:] &= below[:-1].copy()  # two in a row
    first = 1 + below.argmax(axis=0)
    assert below.any(axis=0).all()
    assert len(set(first)) == 3
    controller = Controller(Depth(exit=name, threshold=0.03, prompt="each"), 29, VOCABULARY)
    controller.start(0, 3)
    runner, seen = Made(path), {}
    for number in range(29):
        runner.step(number)
        for row in np.flatnonzero(controller.check_exit(runner, number + 1)).tolist():
            seen.setdefault(row, number + 1)
    assert [seen[row] for row in range(3)] == first.tolist()


def test_a_rule_that_is_never_content_ends_at_the_depth():
    steps, value = run_steps(rdlite.Depth(exit="latent-diff", threshold=0), Made(settling(0.9)), 11)
    assert steps == 11
    assert value > 0


def logits_settling(at, steps=40):
    """Logits that change until step `at` and then stay."""
    rng = np.random.default_rng(1)
    path = rng.standard_normal((steps, VOCABULARY)).astype(np.float32)
    path[at:] = path[at]
    return path


@pytest.mark.parametrize("rule", ["kl", "minp-kl", "entropy-diff"])
def test_rules_of_predictions_stop_one_step_after_nothing_changes(rule):
    runner = Made(settling(0.5), logits_settling(9))
    steps, value = run_steps(rdlite.Depth(exit=rule), runner)
    assert steps == 10
    assert abs(value) < 1e-6


def test_argmax_stability_counts_agreements_in_a_row():
    runner = Made(settling(0.5), logits_settling(9))
    assert run_steps(rdlite.Depth(exit="argmax-stability", threshold=3), runner) == (12, 3)


def test_the_gate_saves_decoding_until_states_have_almost_settled():
    runner = Made(settling(0.7), logits_settling(1))
    steps, _ = run_steps(rdlite.Depth(exit="gated-kl"), runner)
    path = runner.path
    changes = np.linalg.norm(np.diff(path, axis=0), axis=2) / np.linalg.norm(path[1:], axis=2)
    first = 1 + int(np.argmax(changes.mean(axis=1) < GatedKL.GATE))
    assert first > 2
    assert runner.decoded == [first, first + 1]
    assert steps == first + 1


def test_a_rule_starts_anew_for_each_group():
    controller = Controller(rdlite.Depth(exit="kl"), 30, VOCABULARY)
    taken = [controller.run_steps(Made(settling(0.5), logits_settling(5))) for _ in range(3)]
    assert taken == [6, 6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 0}, "max_steps must be a whole number from 1 to 1024, got 0"),
        ({"max_steps": 8, "min_steps": 9}, "min_steps must be a whole number from 1 to 8, got 9"),
        ({"check_every": 0}, "check_every must be"),
        ({"exit": "latent-dif"}, "got 'latent-dif'; did you mean latent-diff?"),
        ({"exit": 7}, "exit must be one of latent-diff, "),
        ({"threshold": 0.1}, "a threshold needs an exit rule"),
        ({"exit": "kl", "threshold": -1}, "the threshold of kl must be a number from 0 to 100"),
        ({"exit": "kl", "threshold": float("nan")}, "the threshold of kl must be"),
        ({"exit": "argmax-stability", "threshold": 0}, "from 1 to 1024, got 0"),
        ({"exit": "cosine", "prompt": "all"}, "prompt must be one of mean, each, got 'all'"),
        ({"prompt": None}, "prompt must be one of mean, each, got None"),
        ({"prompt": "each"}, "prompt='each' needs an exit rule; give exit=... too"),
        (
            {"exit": "kl", "prompt": "each"},
            "looks at states (latent-diff, acceleration, cosine, gate), not kl, which looks at the "
            "last position's predictions; or read with prompt='mean'",
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused(arguments, message):
    with pytest.raises(rdlite.InputError, match=re.escape(message)):
        rdlite.Depth(**arguments)


def test_every_rule_has_a_default_within_its_bounds():
    for kind in RULES.values():
        assert kind.low <= kind.default <= kind.high
    assert list(RULES) == list(MAKERS)


def read(sequence, ids, steps):
    runner = sequence.begin(ids, steps)
    runner.states[0].fill(0.1)
    for number in range(steps):
        runner.step(number)
    logits = runner.logits(steps).copy()
    sequence.commit(len(ids))
    return logits


def test_positions_that_left_early_show_their_last_step(model):
    sequence = model.new_sequence()
    read(sequence, [5, 6, 7], 2)
    read(sequence, [8], 4)
    deep = read(sequence, [9], 6)
    slots = [slot.data for slot in sequence.steps_cache.slots]
    for step in (2, 3, 4, 5):
        assert np.array_equal(slots[step][..., :3, :], slots[1][..., :3, :])
    for step in (4, 5):
        assert np.array_equal(slots[step][..., 3, :], slots[3][..., 3, :])
    assert not np.array_equal(slots[3][..., 3, :], slots[1][..., 3, :])
    sequence.truncate(3)
    read(sequence, [1], 6)  # another way on, and back: nothing of it stays
    sequence.truncate(3)
    read(sequence, [8], 4)
    assert np.array_equal(read(sequence, [9], 6), deep)


def test_generation_reports_steps_and_values(model):
    depth = rdlite.Depth(6, exit="latent-diff", threshold=0.5)
    generation = model.generate("hello", 8, depth=depth)
    tokens = list(generation)
    assert all(1 <= token.steps <= 6 for token in tokens)
    assert all(
        (token.exit_value < 0.5) == (token.steps < 6) or token.steps == 6 for token in tokens
    )
    assert generation.stats.core_steps == sum(token.steps for token in tokens)
    assert [token.exit_value for token in model.generate("hello", 2)] == [None, None]
