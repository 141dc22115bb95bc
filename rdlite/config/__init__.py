"""What is said of a model, and what a user may ask of it: frozen data with bounds.

Runs nothing, opens nothing.
"""
