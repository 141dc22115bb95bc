"""The folder where models from the hub are kept, and how they get there by name."""
