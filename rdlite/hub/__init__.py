"""Downloads from the hub, resumed and hashed. Opens no model."""
