"""Every bound by which a circuit is found and judged, in one place, fixed on one day.

They were set on models and dictionaries of seeds 0 to 6. What `python -m benchmarks circuits` says
of later seeds was looked at afterwards, and no value was changed since; `DRAWS` was added then, and
makes "specific" stricter; `N_PAIRS_ACROSS` is of a later day. Shares are of margins.
"""

FIXED = "2026-11-29"

# what a model and a circuit need, to be called one
SHOWN = 0.75
"""Share of right cases that a model must have in every class to show a behaviour."""

COVERAGE = 0.9
"""Share of what the MLP does in each stratum that the pairs of a circuit should carry. Through
several layers the rest of one, a tenth, is of the stratum's margin: so much of it may the pairs of
a layer lack of what its MLP does; and the choice ends before where the limit of pairs comes first,
or no pair brings more (`GAIN`)."""

N_PAIRS = 16
"""Pairs that a circuit of one layer has at most."""

N_PAIRS_ACROSS = 48
"""The same of each layer of a circuit through several: they do what the layer does in all classes,
and what a later layer makes of them. Set later than the other bounds, on seeds 0 to 2 of the
stories with lies."""

CARRIED = 0.5
"""Share of the contrast in those pairs: below it there is no circuit to speak of."""

DIRECT = 0.1
"""Share of the model's own margin that an MLP must add directly."""

MISSED = 0.5
"""Share of the contrast through the dictionary's error: beyond it pairs describe another model."""

GAIN = 0.003
"""What another pair must bring: its shares of all strata, as far as they are wanted, added up."""

ELSEWHERE = 0.25
"""Share of what a pair adds to an affected class that it may add to another class."""

# causal
LEAST = 16
"""Cases that every class needs before anything is claimed, and a stratum before it is judged."""

REMOVED = 0.6
"""Share that removing the circuit must remove, over all affected cases."""

LEFT = 0.5
"""Share that it may leave in any stratum."""

KEPT = 0.6
"""Share of the MLP's effect that the circuit alone must keep in any stratum; through several layers
in those of all classes."""

# computed here
COMPUTED = 0.5
"""Share of what the circuit's own pairs add to the contrast that they compute from both factors."""

INHERITED = 0.35
"""Share of the contrast that may have been in the MLP's input, of either sign, in any frame."""

WITHIN = 0.2
"""Share of it that may come from the spread within the classes, of either sign, in any frame."""

# specific, and beyond random pairs
SIDE_EFFECT = 0.25
"""Relative change of another class that removing the circuit may make in any stratum."""

AT_RANDOM = 0.05
"""Share that as many random pairs may remove, of either sign, in the median."""

TOGETHER = 0.05
"""Share of the affected cases that pairs and features of controls must be active on."""

DRAWS = 5
"""Different draws of random pairs that write as much, below which they are not judged."""

AS_LOUD = 0.1
"""Of what the circuit removes for what it writes, what random pairs that write as much may remove
in the median."""

AS_LOUD_WORST = 1 / 3
"""The same in the worst draw."""
