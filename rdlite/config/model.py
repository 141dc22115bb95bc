"""What a model is: its sizes, where its recurrence starts, how deep it goes. Frozen, checked."""

import warnings
from dataclasses import dataclass, replace
from typing import Annotated

from rdlite.errors import BundleError, DepthWarning, InputError
from rdlite.utils.checks import check_integer
from rdlite.utils.schema import Bounds, Choices, check_fields

#: Products that bound memory: a token's key in one layer, stored rotary tables, core layers run.
MAX_CACHE_WIDTH, MAX_ROTARY_SIZE, MAX_CORE_RUNS = 2**16, 2**24, 2**14


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """Layers in each of the three graphs."""

    prelude: Annotated[int, Bounds(0, 1024)]
    core: Annotated[int, Bounds(1, 1024)]
    coda: Annotated[int, Bounds(0, 1024)]


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How Llama 3.1 stretches rotary frequencies: slow ones by `factor`, fast ones not at all.

    A wave is slow if it turns fewer than `low_frequency` times within `original_context`
    positions, and fast if it turns more than `high_frequency` times.
    """

    factor: Annotated[float, Bounds(1, 1e6)]
    low_frequency: Annotated[float, Bounds(1e-6, 1e6)]
    high_frequency: Annotated[float, Bounds(1e-6, 1e6)]
    original_context: Annotated[int, Bounds(1, 2**22)]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding: its base, and whether pairs are (2i, 2i+1) or (i, i + D/2)."""

    base: Annotated[float, Bounds(1, 1e12)]
    interleaved: bool = False
    scaling: RotaryScaling | None = None


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Where the state starts and how often the core runs.

    `random` starts are normal with `initial_std`, cut off at three of them; `embeds` starts from
    the prelude's output. `mean_steps` is the depth the model was trained around, and the default.
    Past `max_steps`, if there is one, answers are ruined. With an `exit_threshold` the core has a
    gate, whose word is the graph's output `exit_probability`; the threshold is the published one.
    Where a norm follows the whole stack of layers, `norm_each_step` says whether it ends every step
    or only the last one.
    """

    initial_state: Annotated[str, Choices(("random", "zeros", "embeds"))]
    initial_std: Annotated[float, Bounds(0, 1e6)]
    mean_steps: Annotated[int, Bounds(1, 1024)]
    max_steps: Annotated[int | None, Bounds(1, 1024)] = None
    exit_threshold: Annotated[float | None, Bounds(0, 1)] = None
    norm_each_step: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of a model, enough to build its graphs; raises BundleError."""

    family: str
    vocab_size: Annotated[int, Bounds(1, 2**22)]
    hidden_size: Annotated[int, Bounds(1, 2**17)]
    intermediate_size: Annotated[int, Bounds(1, 2**19)]
    num_attention_heads: Annotated[int, Bounds(1, 4096)]
    num_key_value_heads: Annotated[int, Bounds(1, 4096)]
    head_dim: Annotated[int, Bounds(2, 1024)]
    context_length: Annotated[int, Bounds(1, 2**22)]
    norm_eps: Annotated[float, Bounds(0, 1)]
    embedding_scale: Annotated[float, Bounds(0, 1e6)]
    qk_bias: bool
    tied_embedding: bool
    layers: LayerCounts
    rotary: Rotary
    recurrence: Recurrence

    def __post_init__(self) -> None:
        """Check what a single field's bounds cannot."""
        for part in (self.layers, self.rotary, self.rotary.scaling, self.recurrence, self):
            if part is not None:
                check_fields(part, "config: ", BundleError)
        if self.num_attention_heads % self.num_key_value_heads:
            raise BundleError(
                f"config: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        limits = {
            "num_key_value_heads x head_dim": (
                self.num_key_value_heads * self.head_dim,
                MAX_CACHE_WIDTH,
            ),
            "layers.core x mean_steps": (
                self.layers.core * self.recurrence.mean_steps,
                MAX_CORE_RUNS,
            ),
        }
        for name, (value, limit) in limits.items():
            if value > limit:
                raise BundleError(f"config: {name} must be at most {limit}, got {value}")
        scaling = self.rotary.scaling
        if scaling is not None and scaling.high_frequency <= scaling.low_frequency:
            raise BundleError(
                f"config: rotary.scaling.high_frequency ({scaling.high_frequency:g}) must be above "
                f"low_frequency ({scaling.low_frequency:g})"
            )
        if self.head_dim % 16:  # GroupQueryAttention asks for that where it rotates
            raise BundleError(f"config: head_dim must be a multiple of 16, got {self.head_dim}")

    @property
    def rotary_positions(self) -> int:
        """Positions in the tables of a bundle; longer tables are made when a model is loaded."""
        return min(self.context_length, MAX_ROTARY_SIZE // self.head_dim)

    @property
    def cache_numbers_per_layer(self) -> int:
        """Numbers that one layer keeps of one token: a key and a value for every head."""
        return 2 * self.num_key_value_heads * self.head_dim

    def steps_or_default(self, steps: int | None) -> int:
        """The depth to run at: `steps`, or the model's own where it is None.

        Raises InputError outside 1 .. 1024, and past the depth that the model was made for.
        """
        if steps is None:
            return self.recurrence.mean_steps
        check_integer("steps", steps, 1, 1024)
        most = self.recurrence.max_steps
        if most is not None and steps > most:
            raise InputError(
                f"{steps} steps were asked for; the model was made for {most} at most, and more "
                f"ruin its answers: ask for 1 to {most}, or force it (--force-steps, "
                "rdlite.load(..., force_steps=True))"
            )
        return steps

    def without_bound(self) -> "ModelConfig":
        """Return it with no bound on its depth; warns with DepthWarning if it had one."""
        most = self.recurrence.max_steps
        if most is None:
            return self
        warnings.warn(
            f"the model was made for {most} steps at most; its answers get worse past that",
            DepthWarning,
            stacklevel=2,
        )
        return replace(self, recurrence=replace(self.recurrence, max_steps=None))
