"""Building and rewriting ONNX graphs, and packing quantized weights. Knows no model family."""
