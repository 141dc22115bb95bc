"""Plugins for other programs: simonw's llm, and optimum-cli."""
