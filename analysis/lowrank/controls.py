"""What every correlation of a rank curve is compared with."""

from enum import Enum


class Control(str, Enum):
    """A control of `rank_curve`; its value is part of column names."""

    __str__ = str.__str__

    ROTATED = "rotated"  # the same eigenvalues along random orthonormal directions
    SHUFFLED = "shuffled"  # another live feature's form
    UNTRAINED = "untrained"  # a model of the same shape with random weights

    @property
    def column(self) -> str:
        """The column of `RankCurve.table` that holds its correlation."""
        return f"correlation_{self}"
