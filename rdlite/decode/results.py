"""What a generation yields: tokens, and statistics at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One new token.

    Attributes:
        id: the token.
        text: what can be shown after it; never half a character, so sometimes empty.
        steps: core steps that were run to choose it.
        exit_value: what the exit rule said last; None without a rule, or if it said nothing yet.
        logprob: its log-probability (natural) under the model's own distribution.
        alternatives: the likeliest tokens in its place and their log-probabilities, the likeliest
            first: as many as were asked for.
        changes: how far each core step moved the state, relative to its length; None unless asked
            for.
    """

    id: int
    text: str
    steps: int
    exit_value: float | None
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    changes: tuple[float, ...] | None = None


@dataclass(slots=True)
class Stats:
    """What a generation took. Times in seconds.

    Attributes:
        prompt_tokens: positions of the prompt.
        reused_tokens: those of them that were in the cache already.
        new_tokens: tokens that were generated.
        core_steps: core steps that chose them, one position each.
        prompt_steps: core steps that read the prompt, times the positions that took them.
        rounds: of speculation: how often it went on from a token that was certain.
        drafted: positions that were drafted, and of which it is known whether they are right.
        accepted: how many of those stayed.
        speculation: how the last rounds were: the most positions at once, and core steps of a
            draft; one position at full depth is plain decoding.
        time_to_first_token: from the start to the first token, the reading of the prompt included.
        decode_seconds: what the tokens after the first took.
        finish: why it ended: "stop" (a stop token), "stop-string", "length" (max_tokens),
            "context" (no room) or "cancelled".
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    core_steps: int = 0
    prompt_steps: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    speculation: tuple[int, int] | None = None
    time_to_first_token: float = 0.0
    decode_seconds: float = 0.0
    finish: str = "cancelled"

    @property
    def tokens_per_second(self) -> float:
        """Speed of the tokens after the first, which is counted to the prompt."""
        rest = self.new_tokens - 1
        return rest / self.decode_seconds if rest > 0 and self.decode_seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """The part of the drafts that turned out right; None without drafts."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def mean_steps(self) -> float:
        """Core steps per new token."""
        return self.core_steps / self.new_tokens if self.new_tokens else 0.0

    @property
    def mean_prompt_steps(self) -> float:
        """Core steps per token of the prompt that was not in the cache."""
        read = self.prompt_tokens - self.reused_tokens
        return self.prompt_steps / read if read else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name, the means and the speed too."""
        means = ("tokens_per_second", "mean_steps", "mean_prompt_steps", "acceptance")
        return asdict(self) | {name: getattr(self, name) for name in means}


#: A token, its log-probability, the core steps it took and what the exit rule said last.
Choice = tuple[int, float, int, float | None]
