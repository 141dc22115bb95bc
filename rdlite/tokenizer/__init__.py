"""Text to token ids and back, and chat templates; safe with files from strangers.

Knows no model.
"""
