"""The texts of one model: sessions, sequences and the pool that keeps them.

Knows ids, not text.
"""
