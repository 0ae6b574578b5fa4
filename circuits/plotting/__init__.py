"""Figures as values, and labels that are safe to show."""
