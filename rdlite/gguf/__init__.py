"""Reading GGUF files, and the names that a model has in them. Writes nothing."""
