"""Commands that look at a model or measure it."""
