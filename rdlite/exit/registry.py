"""Makes exit rules by name."""

from collections.abc import Callable

from rdlite.exit.latent import Acceleration, Cosine, Gate, LatentDiff
from rdlite.exit.predictions import KL, ArgmaxStability, EntropyDiff, GatedKL, MinPKL
from rdlite.exit.protocols import ExitRule

#: Makes a rule of a threshold and the vocabulary's size; the names are those of RULES.
MAKERS: dict[str, Callable[[float, int], ExitRule]] = {
    "latent-diff": lambda threshold, _: LatentDiff(threshold),
    "acceleration": lambda threshold, _: Acceleration(threshold),
    "cosine": lambda threshold, _: Cosine(threshold),
    "kl": KL,
    "gated-kl": GatedKL,
    "minp-kl": MinPKL,
    "entropy-diff": EntropyDiff,
    "argmax-stability": lambda threshold, _: ArgmaxStability(threshold),
    "gate": lambda threshold, _: Gate(threshold),
}


def make_rule(name: str, threshold: float, vocab_size: int) -> ExitRule:
    """Return a new exit rule.

    Args:
        name: a key of RULES.
        threshold: within the bounds of RULES.
        vocab_size: of the model, for rules that look at predictions.
    """
    return MAKERS[name](threshold, vocab_size)
