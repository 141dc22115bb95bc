"""Graphs that follow from those of a checked bundle when it is loaded."""
