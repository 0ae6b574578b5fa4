"""The ways, other than a head's, by which what a layer's pairs write reaches the answers."""

BY_NO_HEAD = "no head"
"""What stays in the residual stream, where it was written."""

BY_LOOKS = "where heads look"
"""What makes later heads look elsewhere."""

BY_NORMS = "what norms divide by"
"""What makes all other parts of the stream larger or smaller to what reads it."""
