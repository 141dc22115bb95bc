"""Through optimum: PyTorch models traced into portable bundles. Needs the extra `[optimum]`.

Importing this loads none of it; the names do when they are used first.
"""

from typing import Any

from .extra import check_extra

_HOME_OF = {
    "export_portable": "portable",
    "onnx_configs": "part_configs",
    "submodels": "parts",
    "write_traced": "portable",
}

__all__ = ["check_extra", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a name when it is used first; raises RuntimeFailure where the extra is missing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    check_extra()
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
