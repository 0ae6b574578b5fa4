"""Single features: where they are active, what they promote, and all of it on one card."""
