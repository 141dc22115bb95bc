"""onnxruntime: sessions, bound calls, the KV cache and the states that they work on.

Knows no text and no exit rule.
"""
