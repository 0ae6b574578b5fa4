"""Figures as values, the picture of a circuit, and labels that are safe to show."""
