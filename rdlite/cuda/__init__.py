"""The same arrays, caches and bound calls in the memory of an NVIDIA GPU."""
