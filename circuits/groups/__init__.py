"""Groups of a matrix's rows, the description length that chooses them, and the gates they form."""
