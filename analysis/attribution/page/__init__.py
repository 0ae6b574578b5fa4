"""The page of an attribution graph: its picture, and each node's ledger beside it."""
