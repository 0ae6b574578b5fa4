"""Single features: where they are active, what they promote, and a card with all of it."""
