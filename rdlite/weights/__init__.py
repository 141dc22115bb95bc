"""A model on its way from one format to another.

Config, weights in pieces, how they are stored.
"""
