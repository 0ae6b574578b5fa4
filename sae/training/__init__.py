"""Training dictionaries: the plan, the sources of activations, one step, the whole run."""
