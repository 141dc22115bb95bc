"""The bundle folder: its manifest, reading, writing and updating it.

The trust boundary; knows no onnxruntime.
"""
