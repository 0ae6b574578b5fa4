"""The pages about a whole run: overview, low rank, layers, images."""
