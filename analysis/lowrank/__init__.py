"""How well a few eigenvectors stand in for a feature: measured, kept, drawn and told."""

from analysis.lowrank.curve import RankCurve
from analysis.lowrank.measure import rank_curve

__all__ = ["RankCurve", "rank_curve"]
