"""How tokens are chosen, as a user says it."""

from collections.abc import Mapping
from dataclasses import dataclass

from rdlite.errors import InputError
from rdlite.utils.checks import check_integer, check_number


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy: always the likeliest.

    Attributes:
        temperature: divides the logits; 0 is greedy. 0 to 100.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest tokens whose probabilities sum to at least this. Above 0, up to 1.
        min_p: drop tokens less likely than this times the likeliest. 0 to 1.
        repetition_penalty: divide positive logits (multiply negative ones) of tokens that the
            text already has. 0.01 to 100; 1 is off.
        logit_bias: token id -> number added to its logit, -1000 to 1000.
        frequency_penalty: subtracted from a token's logit for each time that the answer has it
            already. -2 to 2.
        presence_penalty: subtracted once if the answer has it. -2 to 2.

    Filters work in this order: bias, penalties, temperature, top_k, top_p, min_p.
    Raises InputError for numbers out of bounds.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check all bounds."""
        check_number("temperature", self.temperature, 0, 100)
        check_integer("top_k", self.top_k, 0, 2**22)
        if check_number("top_p", self.top_p, 0, 1) == 0:
            raise InputError("top_p must be above 0 and at most 1, got 0")
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        if not isinstance(self.logit_bias, Mapping | None):
            raise InputError(
                f"logit_bias must map token ids to numbers, got {self.logit_bias!r:.60}"
            )
        for token, bias in (self.logit_bias or {}).items():
            check_integer("a token id in logit_bias", token, 0, 2**22)
            check_number(f"the logit_bias of token {token}", bias, -1000, 1000)
