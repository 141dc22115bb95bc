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


@dataclass(frozen=True, slots=True)
class ExitDefaults:
    """Thresholds that keep a loss, and the rule that is cheapest with them; raises BundleError.

    Attributes:
        rule: the model's default.
        steps: the full depth that it was measured against, and the model's default depth with it.
        thresholds: of every rule that can keep the loss, by its name.
        loss: share of answers that may differ from those of full depth.
        measured_on: what the answers were, for people.
    """

    rule: Annotated[str, Choices(RULE_NAMES)]
    steps: Annotated[int, Bounds(1, 1024)]
    thresholds: Mapping[str, float]
    loss: Annotated[float, Bounds(0, 1)]
    measured_on: Annotated[str, Line()]

    def __post_init__(self) -> None:
        """Check what a single field's bounds cannot."""
        check_fields(self, "exit: ", BundleError)
        for name, threshold in self.thresholds.items():
            if name not in RULE_NAMES or not 0 <= threshold <= 1024:
                raise BundleError(f"exit: thresholds has {name!r:.40}: {threshold!r:.40}")
        if self.rule not in self.thresholds:
            raise BundleError(f"exit: thresholds lacks that of {self.rule}")
