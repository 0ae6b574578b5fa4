"""A gated model made bilinear: its gates fade while it trains on, and a label says the price."""
