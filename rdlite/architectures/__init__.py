"""One file per model family: its config, its weights by name, its three graphs.

Reads no weights.
"""
