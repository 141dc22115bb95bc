"""Speculation: drafts at fewer steps, and the schedules that say how to make them."""
