"""Is a circuit the cause? Exact edits of the running model, each beside its controls."""
