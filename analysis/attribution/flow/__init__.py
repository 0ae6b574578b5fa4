"""How a behaviour's contrast flows through every layer of a model, exactly."""
