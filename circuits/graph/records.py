"""What a circuit is made of: its rows, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from circuits.storage.records import LATER, Word

Metric = Literal["logit difference", "probability"]

UNIT: dict[Metric, str] = {"logit difference": "logits", "probability": "probability"}
"""What margins are measured in."""


@dataclass(frozen=True)
class Feature:
    """An input feature."""

    feature: int
    label: str
    group: int = -1
    loading: float | None = None
    stability: float | None = None
    frequency: float | None = None
    mean: float | None = None  # over a behaviour's classes, and what its factors add to it
    first_effect: float | None = None
    second_effect: float | None = None
    joint_effect: float | None = None


class _Weighed:
    """Something with a weight, and a contrast where there is a behaviour."""

    weight: float
    contrast: float | None

    @property
    def strength(self) -> float:
        """Its contrast where there is a behaviour, else its weight."""
        return self.weight if self.contrast is None else self.contrast


@dataclass(frozen=True)
class Interaction(_Weighed):
    """A pair of input features."""

    first: int
    second: int
    weight: float
    own: float | None = None
    z: float | None = None
    q: float | None = None
    q_form: float | None = None  # against the form turned within the space that holds it
    coactivation: float | None = None
    together: float | None = None
    data_weight: float | None = None
    contrast: float | None = None  # added to a behaviour's affected classes, in logits
    elsewhere: float | None = None  # to its other classes
    computed: float | None = None  # of its part in the whole behaviour: made of the two factors
    inherited: float | None = None  # made of the mean and a contrast that was there before


@dataclass(frozen=True)
class Gate(_Weighed):
    """What two groups compute together."""

    first: int
    second: int
    gate: str
    weight: float
    share: float
    coherence: float
    contrast: float | None = None


@dataclass(frozen=True)
class Output:
    """A feature that a circuit builds."""

    feature: int
    label: str
    effect: float | None = None  # on the answers' logit difference, for each unit of activation
    share: float | None = None  # of the layer's contrast that goes through it


@dataclass(frozen=True)
class Group:
    """Features that play one part."""

    number: int
    name: str
    effect: str | None = None  # that its features share, where a behaviour is known: "negated"
    stability: float | None = None  # of the group, where it was found from the weights


@dataclass(frozen=True)
class Detector:
    """Output features that detect a class of a behaviour: any of them above its cut; none where no
    feature does better than one that is always active."""

    label: str
    features: tuple[int, ...]
    cuts: tuple[float, ...]
    f1: float  # on held-out cases
    # the F1 there of a feature that is always active; None in older files
    baseline: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class Source:
    """What a circuit was read from; hashes, and None where it is not known."""

    model: str | None = None
    layer: int | None = None
    inputs: str | None = None  # dictionary
    outputs: str | None = None
    reader: str | None = None  # of the output features: pinv or encoder
    interactions: str | None = None  # the layer's weights in both dictionaries


class Choice(Word):
    """By what the pairs of a circuit are chosen."""

    BY_HAND = "by_hand"
    STRONGEST = "n_edges"
    COVERAGE = "coverage"
    SIGNIFICANT = "significant"
    CONTRAST = "contrast"


@dataclass(frozen=True)
class Selection:
    """How a circuit's pairs and groups were chosen."""

    pairs: Choice = Choice.BY_HAND
    level: float | None = None  # number of pairs, share to cover, or false-discovery rate
    groups: str | None = None  # the method that found them
    seed: int | None = None


@dataclass(frozen=True)
class Thresholds:
    """What `find_circuit` was asked for."""

    coverage: float  # of the contrast, by the pairs
    n_pairs: int  # at most
    right: float  # share of right cases that the model must have in every class


@dataclass(frozen=True)
class Shares:
    """Of a behaviour's contrast."""

    carried: float  # by the pairs, of what the MLP adds to the affected classes
    computed: float  # in this MLP, from two factors, over all classes
    inherited: float  # in the MLP's input already
    within: float  # from the spread within the classes
    error: float  # through what the dictionary misses
    direct: float  # of the model's own margin, that the MLP adds
    through_outputs: float  # through the output features that are listed
    # made later, as what the MLP writes is read otherwise in each class, by later layers or norms;
    # not in circuits of one layer, whose shares are of what the answers read alike
    later: float | None = field(default=None, metadata=LATER)

    def as_dict(self) -> dict[str, float]:
        """Those that are known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class BehaviourEvidence:
    """What a circuit does for a behaviour, on the cases that it was chosen on."""

    behaviour: str
    metric: Metric
    factors: tuple[str, ...]
    affected: tuple[str, ...]  # classes
    n_cases: int
    shares: Shares
    thresholds: Thresholds
    detectors: tuple[Detector, ...] = ()
    # hashes of those cases, so that none of them is validated on; none in older files
    chosen_on: tuple[str, ...] = field(default=(), repr=False, metadata=LATER)
    # strata of which the held-out half has no word in common with them; None: it is not known
    other_words: tuple[str, ...] | None = field(default=None, metadata=LATER)
    first_pieces: tuple[str, ...] = field(default=(), metadata=LATER)  # as "sad by sa"

    @property
    def compared(self) -> str:
        """How answers of several tokens were compared, in a sentence; nothing where none are."""
        if not self.first_pieces:
            return ""
        return (
            f"Answers of several tokens are compared by the first: {', '.join(self.first_pieces)}."
        )

    @property
    def held_out_half(self) -> str:
        """In what the held-out cases differ from those that the circuit was chosen on."""
        if self.other_words is None:
            return "not recorded"
        return f"other words ({', '.join(self.other_words)})" if self.other_words else "other pairs"


@dataclass(frozen=True)
class Proposal:
    """Why an output was proposed, from its weights alone."""

    in_gates: float  # share of the pairs' energy that lies between two groups
    energy_of_four: float  # share of the form's energy that four eigenvectors hold
    opposite: int | None = None  # the output at the other end of the same direction
