"""GGUF: one file that carries a model; written for others, and read back without loss."""

from .load import import_gguf, open_gguf
from .reader import GGUFFile, read_gguf
from .write import TYPES, export_gguf

__all__ = ["TYPES", "GGUFFile", "export_gguf", "import_gguf", "open_gguf", "read_gguf"]
