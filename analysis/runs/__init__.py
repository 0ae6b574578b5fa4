"""A run folder: every path in it, the steps that fill it, and what each step records."""
