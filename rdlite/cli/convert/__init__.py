"""Commands that make models: from the hub, from checkpoints, as GGUF files."""
