"""Everything the decode loop needs to know of one generation."""

from __future__ import annotations

from dataclasses import dataclass, field

from rdlite.constrain.mask import TokenMask
from rdlite.decode.cancellation import Cancellation
from rdlite.decode.results import Stats
from rdlite.decode.sampler import Sampler
from rdlite.decode.speculation.rounds import Speculation
from rdlite.decode.speculation.staggered import Staggered
from rdlite.decode.wavefront import Wavefront
from rdlite.exit.controller import Controller
from rdlite.exit.recorder import Recorder
from rdlite.ort.initial_state import InitialState
from rdlite.tokenizer.stream import StopScanner, TextStream

CHUNK = 64  # positions of a prompt that are read at once


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `generate_tokens` needs to know of one generation."""

    controller: Controller
    max_tokens: int
    start: InitialState
    sampler: Sampler
    stop_ids: frozenset[int]
    stream: TextStream | None
    stops: StopScanner
    min_tokens: int = 0
    stats: Stats = field(default_factory=Stats)
    chunk: int = CHUNK
    speculation: Speculation | Staggered | None = None
    recorder: Recorder | None = None
    mask: TokenMask | None = None
    wavefront: Wavefront | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
