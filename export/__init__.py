"""Checkpoints in, bundles out."""

from .exporter import export_checkpoint

__all__ = ["export_checkpoint"]
