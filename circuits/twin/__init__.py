"""A gated model made bilinear: MLPs fitted without gates, training, a label with the price."""
