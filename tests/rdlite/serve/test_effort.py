"""reasoning_effort: the tuned curve says how deep, or parts of the full depth do."""

import dataclasses

import pytest

from rdlite import Depth
from rdlite.config.exit_defaults import CurvePoint, ExitDefaults
from rdlite.serve.requests.effort import depth_for

CURVE = (CurvePoint(0.1, 9, 1), CurvePoint(0.2, 7, 0.92), CurvePoint(0.4, 5, 0.8))
TUNED = ExitDefaults("latent-diff", 16, {"latent-diff": 0.1}, 0.01, "x", CURVE)
DEFAULT = Depth(16, exit="latent-diff", threshold=0.1)


@pytest.mark.parametrize(
    ("effort", "threshold"), [("low", 0.2), ("minimal", 0.4), ("none", 0.4), ("medium", 0.1)]
)
def test_the_curve_says_how_early_to_stop(effort, threshold):
    wanted = Depth(16, exit="latent-diff", threshold=threshold)
    assert depth_for(effort, DEFAULT, 16, TUNED) == wanted
    assert depth_for(effort, dataclasses.replace(DEFAULT, min_steps=3), 16, TUNED).min_steps == 3


def test_a_model_tuned_with_a_larger_loss_than_an_effort_goes_no_deeper_for_it():
    loose = dataclasses.replace(TUNED, loss=0.3, thresholds={"latent-diff": 0.4})
    default = dataclasses.replace(DEFAULT, threshold=0.4)
    assert depth_for("low", default, 16, loose) == default


@pytest.mark.parametrize(
    ("default", "tuned"),
    [
        (DEFAULT, None),
        (DEFAULT, dataclasses.replace(TUNED, curve=())),
        (Depth(16), TUNED),
        (Depth(16, exit="kl"), TUNED),
        (Depth(16, exit="latent-diff", threshold=0.7), TUNED),
    ],
)
def test_without_a_curve_for_its_rule_an_effort_is_a_part_of_the_full_depth(default, tuned):
    steps = {effort: depth_for(effort, default, 16, tuned) for effort in ("none", "low", "medium")}
    assert [depth.max_steps for depth in steps.values()] == [2, 4, 16]
    assert {depth.exit for depth in steps.values()} == {default.exit}


@pytest.mark.parametrize("effort", ["high", "xhigh"])
def test_a_high_effort_takes_every_step(effort):
    assert depth_for(effort, DEFAULT, 16, TUNED) == Depth(16)


def test_more_effort_takes_more_steps(server):
    def steps(effort):
        question = {"role": "user", "content": "a = 7, b = a + 5, c = b * 3; what is c mod 10?"}
        asked = {"model": "nano", "messages": [question], "reasoning_effort": effort}
        with server.client() as client:
            return client.chat.completions.create(**asked).usage.mean_steps

    efforts = ("minimal", "low", "medium", "high")
    taken = [steps(effort) for effort in efforts]
    assert taken == sorted(set(taken))
