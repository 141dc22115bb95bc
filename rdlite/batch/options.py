"""What all rows of a job share: the model, and how it answers where a row does not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rdlite.bundle.reader import Bundle
from rdlite.config.cache import Cache
from rdlite.config.depth import Depth, default_depth
from rdlite.config.generation import read_generation_config
from rdlite.config.sampling import Sampling
from rdlite.utils.checks import check_integer

MAX_AT_ONCE = 1024
#: Bytes of a model up to which it is small: its calls are too short to share among cores.
SMALL = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are answered; a row may say otherwise for itself. Picklable.

    Attributes:
        max_tokens: maximum new tokens of an answer.
        depth: how deep to think; None: the model's default.
        sampling: how tokens are chosen; None: the model's own default.
        seed: of initial states; draws are of the seed and the row's id, so that a row's answer does
            not depend on where it stands.
        stop: texts that end an answer.
        chat: read prompts that are texts as messages of a user; None: if the model has a chat
            template.
        logprob: tell the log-probability of each answer.
        column: the key or column that holds the prompt.
        ignore: keys of rows that are not meant for the model.
        template_variables: of the chat template's own.
    """

    max_tokens: int = 1024
    depth: Depth | None = None
    sampling: Sampling | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    chat: bool | None = None
    logprob: bool = False
    column: str = "prompt"
    ignore: tuple[str, ...] = ()
    template_variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the bounds; raises InputError."""
        check_integer("max_tokens", self.max_tokens, 1, 2**22)
        check_integer("seed", self.seed, 0, 2**64 - 1)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON would have it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Load:
    """Which model, and how to open it. Picklable; the arguments of `rdlite.load`.

    `at_once`: rows that are worked on together; None: as many as suit the model.
    """

    path: str = "nano"
    device: str = "cpu"
    threads: int | None = None
    context: int | None = None
    cache: Cache = field(default_factory=Cache)
    force_steps: bool = False
    at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds; raises InputError."""
        if self.at_once is not None:
            check_integer("at_once", self.at_once, 1, MAX_AT_ONCE)


def is_small(bundle: Bundle) -> bool:
    """Whether a model is so small that each core should have one of its own."""
    return bundle.weight_bytes <= SMALL


def model_defaults(bundle: Bundle) -> tuple[Depth, Sampling]:
    """Return how a model thinks and chooses tokens if it is not told; it need not be loaded."""
    data = bundle.read_text("generation_config.json")
    sampling = Sampling()
    if data is not None:
        sampling = read_generation_config(data, bundle.config.vocab_size).sampling
    return default_depth(bundle.config.recurrence, bundle.manifest.exit), sampling
