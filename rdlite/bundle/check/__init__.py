"""The rules that graphs from strangers must hold before onnxruntime sees them."""
