"""Every error a user can cause, in one tree; messages name the value, the rule and the way out.

RdliteError
├── InputError        a number, a name or a text given to rdlite is out of bounds
│   └── ContextError  a prompt does not fit the model's context
├── CheckpointError   a checkpoint folder cannot be exported
│   └── FamilyError   its family, or a key of its config, is not understood
├── HubError          a repository cannot be downloaded
├── BundleError       a bundle is damaged, incomplete or hostile
│   ├── GraphError    one of its ONNX graphs breaks the contract
│   └── GGUFError     it is a GGUF file, and breaks a rule of that
├── OutputError       a result cannot be written
└── RuntimeFailure    onnxruntime is missing, too old, or failed
"""


class RdliteError(Exception):
    """Base of every error that a user of rdlite can cause."""


class InputError(RdliteError, ValueError):
    """A value given to rdlite breaks a rule; the message names both."""


class ContextError(InputError):
    """A prompt is longer than the context; the message says both numbers."""


class CheckpointError(RdliteError):
    """A checkpoint is missing, damaged, or in a format that rdlite does not support."""


class FamilyError(CheckpointError):
    """A checkpoint belongs to no known family, or its config says something not understood."""


class HubError(RdliteError):
    """A repository of the hub is missing, closed, out of reach, or holds no safetensors."""


class BundleError(RdliteError):
    """A bundle is missing, damaged, tampered with, or of another contract version."""


class GraphError(BundleError):
    """An ONNX graph of a bundle breaks the graph contract."""


class GGUFError(BundleError):
    """A GGUF file is damaged, hostile, or holds a model that rdlite does not support."""


class OutputError(RdliteError):
    """A result cannot be written where it was asked for."""


class RuntimeFailure(RdliteError):
    """The ONNX Runtime is missing, too old, or failed while running a graph."""


class Interrupted(Exception):
    """A call was ended by its `Interrupt`; users never see it, their generation just ends."""


class DepthWarning(UserWarning):
    """More core steps were asked for than the model was made for."""


class RoundingWarning(UserWarning):
    """Weights that were rounded to few bits once are rounded again; the message says the cost."""
