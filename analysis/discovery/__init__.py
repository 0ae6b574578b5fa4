"""Finding circuits: from a behaviour to its pairs of features, or proposals without a behaviour."""
