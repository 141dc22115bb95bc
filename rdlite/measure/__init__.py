"""Numbers about models: accuracy, divergence, exit thresholds, cache scales.

Runs models through the API.
"""
