"""Questions about a model's circuits, and their reports."""
