"""Helpers that know nothing of models: checks, files, text, progress."""
