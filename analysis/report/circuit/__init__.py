"""The page of one circuit."""
