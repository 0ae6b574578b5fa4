"""Behaviours: texts in classes with answers, and the same in one model's tokens."""
