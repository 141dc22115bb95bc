"""Whether what the extra `[optimum]` brings is installed, in versions that go together."""

from importlib.metadata import PackageNotFoundError, version

from rdlite.errors import RuntimeFailure
from rdlite.utils.install import install_hint

#: The first version that is too new, None where any will do.
NEEDED = {"torch": None, "optimum": None, "optimum-onnx": (0, 2), "transformers": (4, 58)}
INSTALL = (
    f"install it into an environment of its own: {install_hint('cpu', 'optimum')} "
    "(without a GPU, first PyTorch's build for the CPU)"
)


def check_extra() -> None:
    """Raise RuntimeFailure, naming the fix, unless the extra `[optimum]` is usable."""
    for name, limit in NEEDED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            raise RuntimeFailure(
                f"portable bundles need {name}, which is not installed; {INSTALL}"
            ) from None
        if limit is not None and _release(found) >= limit:
            wanted = ".".join(map(str, limit))
            raise RuntimeFailure(
                f"portable bundles need {name} < {wanted}, {found} is installed; "
                f"pip install '{name}<{wanted}', or {INSTALL}"
            )


def _release(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in text.split(".")[:2])
