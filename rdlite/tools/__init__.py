"""Functions that a model may call: the syntax of its template, its grammar, and back to calls."""
