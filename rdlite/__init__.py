"""rdlite runs recurrent-depth language models on the machine in front of you.

    import rdlite
    model = rdlite.load()  # nano, the model that comes with rdlite; or the path of a bundle
    print(model.chat().send("What is 48 + 76?").text)

Names are imported when they are first used, so that `import rdlite` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rdlite.version import __version__ as __version__

if TYPE_CHECKING:
    from rdlite.api.chat import Chat
    from rdlite.api.load import load
    from rdlite.api.model import Model
    from rdlite.batch.predictor import BatchPredictor
    from rdlite.config.cache import Cache
    from rdlite.config.constraint import Constraint
    from rdlite.config.cuda import Cuda
    from rdlite.config.depth import Depth
    from rdlite.config.model import ModelConfig
    from rdlite.config.parallel import Parallel
    from rdlite.config.sampling import Sampling
    from rdlite.decode.generation import Generation
    from rdlite.decode.results import Stats, Token
    from rdlite.errors import (
        BundleError,
        CheckpointError,
        ContextError,
        DepthWarning,
        FamilyError,
        GGUFError,
        GraphError,
        HubError,
        InputError,
        OutputError,
        RdliteError,
        RoundingWarning,
        RuntimeFailure,
    )

_HOMES = {
    "api.chat": ["Chat"],
    "api.load": ["load"],
    "api.model": ["Model"],
    "batch.predictor": ["BatchPredictor"],
    "config.cache": ["Cache"],
    "config.constraint": ["Constraint"],
    "config.cuda": ["Cuda"],
    "config.depth": ["Depth"],
    "config.model": ["ModelConfig"],
    "config.parallel": ["Parallel"],
    "config.sampling": ["Sampling"],
    "decode.generation": ["Generation"],
    "decode.results": ["Stats", "Token"],
    "errors": [
        "BundleError",
        "CheckpointError",
        "ContextError",
        "DepthWarning",
        "FamilyError",
        "GGUFError",
        "GraphError",
        "HubError",
        "InputError",
        "OutputError",
        "RdliteError",
        "RoundingWarning",
        "RuntimeFailure",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BatchPredictor",
    "BundleError",
    "Cache",
    "Chat",
    "CheckpointError",
    "Constraint",
    "ContextError",
    "Cuda",
    "Depth",
    "DepthWarning",
    "FamilyError",
    "GGUFError",
    "Generation",
    "GraphError",
    "HubError",
    "InputError",
    "Model",
    "ModelConfig",
    "OutputError",
    "Parallel",
    "RdliteError",
    "RoundingWarning",
    "RuntimeFailure",
    "Sampling",
    "Stats",
    "Token",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rdlite' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rdlite.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
