"""The catalogue of a run's features: captions, example contexts, and cards."""
