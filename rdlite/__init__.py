"""rdlite runs recurrent-depth language models on the machine in front of you.

    import rdlite
    model = rdlite.load()  # nano, the model that comes with rdlite; or the path of a bundle
    print(model.chat().send("What is 48 + 76?").text)

Names are imported when they are first used, so that `import rdlite` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdlite.cache import Cache
    from rdlite.chat import Chat
    from rdlite.config import ModelConfig
    from rdlite.constraint import Constraint
    from rdlite.cuda import Cuda
    from rdlite.depth import Depth
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
        RuntimeFailure,
    )
    from rdlite.generate import Generation, Stats, Token
    from rdlite.model import Model, load
    from rdlite.sampling import Sampling

__version__ = "0.1.0"

_HOMES = {
    "cache": ["Cache"],
    "chat": ["Chat"],
    "config": ["ModelConfig"],
    "constraint": ["Constraint"],
    "cuda": ["Cuda"],
    "depth": ["Depth"],
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
        "RuntimeFailure",
    ],
    "generate": ["Generation", "Stats", "Token"],
    "model": ["Model", "load"],
    "sampling": ["Sampling"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
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
    "RdliteError",
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
