"""Training dictionaries: the plan, the sources of activations, one step, and the whole run."""
