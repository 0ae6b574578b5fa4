"""A bilinear layer, the bases it is written in, and what follows from its weights alone."""
