"""The exit rule that a model uses when nothing else is asked for, as `rdlite tune` measured it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from rdlite.errors import BundleError
from rdlite.utils.schema import Bounds, Choices, Line, check_fields

#: The names of the rules, in the order in which they are shown.
RULE_NAMES = (
    "latent-diff",
    "acceleration",
    "cosine",
    "kl",
    "gated-kl",
    "minp-kl",
    "entropy-diff",
    "argmax-stability",
    "gate",
)


MOST_POINTS = 64


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What the default rule does at one threshold.

    Attributes:
        threshold: of the rule.
        steps: core steps a position, mean.
        agreement: share of the answers that are those of full depth.
    """

    threshold: Annotated[float, Bounds(0, 1024)]
    steps: Annotated[float, Bounds(1, 1024)]
    agreement: Annotated[float, Bounds(0, 1)]


@dataclass(frozen=True, slots=True)
class ExitDefaults:
    """Thresholds that keep a loss, and the rule that is cheapest with them; raises BundleError.

    Attributes:
        rule: the model's default.
        steps: the full depth that it was measured against, and the model's default depth with it.
        thresholds: of every rule that can keep the loss, by its name.
        loss: share of answers that may differ from those of full depth.
        measured_on: what the answers were, for people.
        curve: what the default rule does at up to 64 thresholds, from the strictest on.
    """

    rule: Annotated[str, Choices(RULE_NAMES)]
    steps: Annotated[int, Bounds(1, 1024)]
    thresholds: Mapping[str, float]
    loss: Annotated[float, Bounds(0, 1)]
    measured_on: Annotated[str, Line()]
    curve: tuple[CurvePoint, ...] = ()

    def __post_init__(self) -> None:
        """Check what a single field's bounds cannot."""
        check_fields(self, "exit: ", BundleError)
        for name, threshold in self.thresholds.items():
            if name not in RULE_NAMES or not 0 <= threshold <= 1024:
                raise BundleError(f"exit: thresholds has {name!r:.40}: {threshold!r:.40}")
        if self.rule not in self.thresholds:
            raise BundleError(f"exit: thresholds lacks that of {self.rule}")
        if len(self.curve) > MOST_POINTS:
            raise BundleError(
                f"exit: curve has {len(self.curve)} points, at most {MOST_POINTS} are read"
            )
        for point in self.curve:
            check_fields(point, "exit: curve[].", BundleError)
        steps = [point.steps for point in self.curve]
        if steps != sorted(steps, reverse=True):
            raise BundleError("exit: curve must go from the most steps to the fewest")

    def threshold_for(self, agreement: float) -> float | None:
        """Return the loosest threshold up to which so many answers are those of full depth.

        Args:
            agreement: share of the answers.

        Returns:
            None: the curve has no such point.
        """
        found = None
        for point in self.curve:  # a lucky loose one does not count
            if point.agreement < agreement:
                break
            found = point.threshold
        return found
