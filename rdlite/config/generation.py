"""generation_config.json of a bundle: where answers stop, and how the model likes to be sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from rdlite.config.sampling import Sampling
from rdlite.errors import BundleError, InputError
from rdlite.utils.schema import Bounds, decode, read_json

MAX_STOPS = 64


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Token ids and texts that end an answer, and default sampling.

    `stop_sources` tells, for people, who names each of them; `stops_ignored` what else was named,
    and why no answer ends there.
    """

    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    temperature: Annotated[float, Bounds(0, 100)] = 0.0
    top_k: Annotated[int, Bounds(0, 2**22)] = 0
    top_p: Annotated[float, Bounds(0, 1)] = 1.0
    min_p: Annotated[float, Bounds(0, 1)] = 0.0
    repetition_penalty: Annotated[float, Bounds(0.01, 100)] = 1.0
    stop_sources: Mapping[str, str] = field(default_factory=dict)
    stops_ignored: Mapping[str, str] = field(default_factory=dict)

    @property
    def sampling(self) -> Sampling:
        """The model's own default sampling."""
        return Sampling(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty
        )


def read_generation_config(data: bytes, vocab_size: int) -> GenerationConfig:
    """Parse and check the file; raises BundleError."""
    where = "generation_config.json"
    config = decode(GenerationConfig, read_json(data, where, BundleError), where, BundleError)
    if len(config.stop_ids) + len(config.stop_strings) > MAX_STOPS:
        raise BundleError(f"{where} has more than {MAX_STOPS} stops")
    if max(len(config.stop_sources), len(config.stops_ignored)) > 2 * MAX_STOPS:
        raise BundleError(f"{where} tells the sources of more than {2 * MAX_STOPS} stops")
    for token in config.stop_ids:
        if not 0 <= token < vocab_size:
            raise BundleError(f"{where}: stop id {token} is outside 0 to {vocab_size - 1}")
    if "" in config.stop_strings:
        raise BundleError(f"{where} has an empty stop string")
    try:
        _ = config.sampling
    except InputError as problem:
        raise BundleError(f"{where}: {problem}") from None
    return config
