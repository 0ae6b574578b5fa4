"""What of a behaviour's contrast depends on each layer of a model, and by which ways."""
