"""Quantized weights: int8 and int4, judged by what the loop makes of their errors."""

from .options import Options
from .quantize import quantize_bundle, write_quantized
from .schemes import SCHEMES, find_scheme

__all__ = [
    "SCHEMES",
    "Options",
    "find_scheme",
    "quantize_bundle",
    "write_quantized",
]
