"""What optimum needs to know of the three graphs: inputs, outputs and something to trace them with.

Each is registered with optimum's TasksManager as a model type of its own, `huginn_raven-core` and
so on, as optimum has it for the parts of diffusers' models. `huginn_raven` itself must stay
unknown there: for model types that it knows, optimum splits models its own way and never calls
`fn_get_submodels`.
"""

from typing import Any, ClassVar

import torch
from optimum.exporters.onnx import OnnxConfig
from optimum.exporters.onnx.model_patcher import PatchingSpec
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedConfig
from torch import Tensor

from rdlite.architectures import huginn
from rdlite.bundle.check.graph import contract
from rdlite.config.model import ModelConfig

from ..optimum.tracing import split_evenly

OPSET = 18
TASK = "feature-extraction"
#: Sizes to trace with: several new positions behind some others, all different.
TRACED = {"B": 2, "S": 3, "C": 8, "P": 2}
PAST = 2
DTYPES = {"INT64": torch.int64, "INT32": torch.int32, "FLOAT": torch.float32}

register = TasksManager.create_register("onnx")


class HuginnPartOnnxConfig(OnnxConfig):
    """The contract of one graph, as optimum says such things."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DEFAULT_ONNX_OPSET = OPSET
    PART: ClassVar[str]

    def __init__(self, config: Any, task: str = TASK, **options: Any) -> None:
        """Take a ModelConfig, or a transformers config with the keys of the hub's config.json."""
        super().__init__(config, task, **options)
        known = isinstance(config, ModelConfig)
        self._sizes = config if known else huginn.read_config(config.to_diff_dict())

    @property
    def PATCHING_SPECS(self) -> list[PatchingSpec]:  # a new list: optimum adds to it
        """What is replaced while a model is traced."""
        return [PatchingSpec(torch.Tensor, "chunk", split_evenly, torch.Tensor.chunk)]

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names of the inputs, and of their axes that may have any size."""
        return _dynamic_axes(contract(self.PART, self._sizes)[0])

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """The same of the outputs."""
        return _dynamic_axes(contract(self.PART, self._sizes)[1])

    def generate_dummy_inputs(self, framework: str = "pt", **sizes: Any) -> dict[str, Any]:
        """Tensors that the graph can be run on; `sizes` are optimum's for other models."""
        result: dict[str, Any] = {}
        caches: list[Tensor] = []
        for name, (dtype, shape) in contract(self.PART, self._sizes)[0].items():
            fixed = [TRACED[size] if isinstance(size, str) else size for size in shape]
            kind = DTYPES[dtype]
            tensor = torch.zeros(fixed, dtype=kind) if kind != torch.float32 else torch.randn(fixed)
            if name.startswith("past_key_values."):
                caches.append(tensor)
            else:
                result[name] = tensor
        total = PAST + TRACED["S"]
        result["seqlens_k"] += total - 1
        result["total_sequence_length"] += total
        return result | ({"past_key_values": caches} if caches else {})

    @classmethod
    def flatten_output_collection_property(cls, name: str, field: Any) -> dict[str, Any]:
        """Name the tensors of a cache, keys and values in turn."""
        kinds = ("key", "value")
        return {f"{name}.{i // 2}.{kinds[i % 2]}": tensor for i, tensor in enumerate(field)}


def _dynamic_axes(values: Any) -> dict[str, dict[int, str]]:
    return {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, (_, shape) in values.items()
    }


@register("huginn_raven-prelude", TASK)
class PreludeOnnxConfig(HuginnPartOnnxConfig):
    """Token ids to embeds."""

    PART = "prelude"


@register("huginn_raven-core", TASK)
class CoreOnnxConfig(HuginnPartOnnxConfig):
    """One step of the recurrence."""

    PART = "core"


@register("huginn_raven-coda", TASK)
class CodaOnnxConfig(HuginnPartOnnxConfig):
    """A state to logits."""

    PART = "coda"


def onnx_configs(config: ModelConfig) -> dict[str, OnnxConfig]:
    """Return optimum's custom_onnx_configs: one for each part, as TasksManager knows them."""
    return {
        part: TasksManager.get_exporter_config_constructor(
            "onnx", task=TASK, model_type=f"huginn_raven-{part}", library_name="transformers"
        )(config)
        for part in ("prelude", "core", "coda")
    }
