"""The exit rules by name: bounds and defaults of their thresholds."""

from dataclasses import dataclass

from rdlite.config.model import ModelConfig


@dataclass(frozen=True, slots=True)
class RuleKind:
    """What the threshold of a rule may be, and what the rule needs."""

    default: float
    low: float
    high: float
    #: Whether it decodes the last position's state at every look, which costs a pass of the coda.
    decodes: bool = False
    #: Whether it needs a model whose core has a gate.
    gated: bool = False


RULES = {
    "latent-diff": RuleKind(0.03, 0, 10),
    "acceleration": RuleKind(0.03, 0, 10),
    "cosine": RuleKind(1e-3, 0, 2),
    "kl": RuleKind(1e-3, 0, 100, True),
    "gated-kl": RuleKind(1e-3, 0, 100, True),
    "minp-kl": RuleKind(1e-5, 0, 100, True),
    "entropy-diff": RuleKind(1e-3, 0, 100, True),
    "argmax-stability": RuleKind(5, 1, 1024, True),
    "gate": RuleKind(0.9, 0, 1, gated=True),
}


def rules_for(config: ModelConfig) -> list[str]:
    """Return the names of the rules that a model can use."""
    has_gate = config.recurrence.exit_threshold is not None
    return [name for name, kind in RULES.items() if has_gate or not kind.gated]
