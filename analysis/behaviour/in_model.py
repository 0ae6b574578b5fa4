"""A behaviour in one model: its tokens, answers and classes, and the effects of its factors.

The *effects* of values over the classes are their mean, what each factor adds, and what two add
together, ``x = μ + n N + s S + ns X`` with n and s −1 or 1: class means, exactly, of any numbers
or vectors. Which answer is right follows one effect, the *target*: for negation that is X, because
neither the negator nor the adjective alone decides.

Answers have a *side* that does not change with the class. A margin is towards the right answer;
effects are of the logit difference towards one side, otherwise the target would cancel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analysis.behaviour.answers import answer_tokens, suggested
from analysis.behaviour.cases import Behaviour, Case
from circuits.algebra.bilinear import computing_dtype
from circuits.arguments import checked, checked_methods
from circuits.corpus.tokenizer import unknown_words
from circuits.errors import BehaviourError, check_count, check_rows, check_width
from circuits.model.model import Model
from circuits.model.ranges import check_finite
from circuits.model.site import Site

Computed = TypeVar("Computed")

_AT_A_TIME = 256  # cases in a forward pass
_MOST_DRAWS = 10**7
_HASH = 12  # characters of a case's hash


@checked_methods
@dataclass(frozen=True, eq=False)
class ModelCases:
    """The cases of a behaviour in a model's tokens."""

    behaviour: Behaviour
    model: Model
    tokens: Int64[Tensor, "case pos"]
    position: Int64[Tensor, " case"]  # the token that an answer follows
    answers: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # pairs of sets: side +1, side −1
    answer: Int64[Tensor, " case"]  # which of them
    side: Float[Tensor, " case"]  # +1 where the first set is right
    label: Int64[Tensor, " case"]
    signs: Float[Tensor, "class effect"]  # columns: mean, each factor, both together
    cut: dict[str, str] = field(default_factory=dict)  # answers of several tokens, and the first
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)  # what was computed of them

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def effects_named(self) -> tuple[str, ...]:
        """The effects in order: of a factor by its name, of both by the names together."""
        factors = self.behaviour.factors
        return ("mean", *factors, *([" x ".join(factors)] if len(factors) == 2 else []))

    @cached_property
    def target(self) -> int:
        """The effect that decides which answer is right."""
        sides = self.class_means(self.side)
        for effect in range(1, self.signs.shape[1]):
            if abs(float((self.signs[:, effect] * sides).mean())) == 1:
                return effect
        raise BehaviourError(
            f"behaviour {self.behaviour.name!r}: which answers are right follows neither a factor "
            f"nor both together (mean side by class: {self.listed(sides)}). Give each class one "
            f"right side."
        )

    def listed(self, values: Float[Tensor, " class"]) -> str:
        """A value of each class, for a message."""
        check_rows("ModelCases.listed", values, len(self.signs), "classes")
        pairs = zip(self.behaviour.labels, values.tolist(), strict=True)
        return ", ".join(f"{label} {value:.2f}" for label, value in pairs)

    @cached_property
    def affected(self) -> Float[Tensor, " class"]:
        """1 for the classes that a circuit must be seen in, 0 for the others."""
        labels = self.behaviour.labels
        return torch.tensor([float(label in self.behaviour.affected) for label in labels])

    @cached_property
    def pair(self) -> Int64[Tensor, " case"] | None:
        """The minimal pair of each case, counted from 0."""
        numbers = [case.pair for case in self.behaviour.cases]
        if None in numbers:
            return None
        order = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
        return torch.tensor([order[number] for number in numbers])

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """A short hash of each case: of its tokens up to its position, whatever the answers."""
        each = zip(self.tokens.tolist(), self.position.tolist(), strict=True)
        texts = (json.dumps(row[: at + 1]) for row, at in each)
        return tuple(hashlib.sha256(text.encode()).hexdigest()[:_HASH] for text in texts)

    @property
    def first_pieces(self) -> tuple[str, ...]:
        """The answers that are compared by their first token alone, each with that."""
        return tuple(f"{word} by {piece}" for word, piece in self.cut.items())

    @property
    def tiles(self) -> list[Int64[Tensor, "case pos"]]:
        """The tokens of as many cases as are run at a time."""
        return list(self.tokens.split(_AT_A_TIME))

    def class_means(
        self, values: Float[Tensor, "case ..."], among: Bool[Tensor, " case"] | None = None
    ) -> Float[Tensor, "class ..."]:
        """The mean over each class, or over its cases that are ``among`` some."""
        check_rows("ModelCases", values, len(self), "cases")
        chosen = torch.ones_like(self.label, dtype=torch.bool) if among is None else among
        classes = range(len(self.signs))
        return torch.stack([values[(self.label == c) & chosen].mean(0) for c in classes])

    def effects(
        self, values: Float[Tensor, "case ..."], among: Bool[Tensor, " case"] | None = None
    ) -> Float[Tensor, "effect ..."]:
        """What the mean is, and what each factor and both together add."""
        means = self.class_means(values, among)
        signs = self.signs.to(means)
        return torch.tensordot(signs.mT, means, dims=1) / len(signs)

    def weights(self, classes: Float[Tensor, " class"]) -> Float[Tensor, " case"]:
        """Of each case, so that a sum of values towards a side is the mean margin over some
        classes, each class alike; in float64, for such sums are of parts that cancel."""
        check_rows("ModelCases.weights", classes, len(self.signs), "classes")
        counts, chosen = torch.bincount(self.label, minlength=len(classes)), classes.double()
        return self.side * (chosen / counts / chosen.sum())[self.label]

    def resampled(
        self, values: Float[Tensor, " case"], n: int, seed: int
    ) -> Float[Tensor, "draw class"]:
        """Class means of bootstrap draws: of whole pairs, or of each class's cases."""
        check_rows("ModelCases.resampled", values, len(self), "cases")
        check_count("ModelCases.resampled", n, _MOST_DRAWS, "n")
        counts = self._drawn(n, seed)
        member = torch.nn.functional.one_hot(self.label, len(self.signs)).double()
        total = counts @ (member * values.double().cpu()[:, None])
        return total / (counts @ member)

    def once(self, name: Hashable, compute: Callable[[], Computed]) -> Computed:
        """What was computed of these cases under a name, or is now. While the model is edited,
        nothing is taken from what was kept before, and nothing kept."""
        if self.model.is_edited:
            return compute()
        if name not in self.kept:
            self.kept[name] = compute()
        kept: Computed = self.kept[name]
        return kept

    def _drawn(self, n: int, seed: int) -> Float[Tensor, "draw case"]:
        """How often each case is in each draw; the same for all values, so kept. A draw that lacks
        a class, of which it would have no mean, is drawn again."""
        if ("draws", n, seed) not in self.kept:
            rng = np.random.default_rng(seed)
            unit = self.pair
            if unit is None:
                unit = torch.arange(len(self))
                groups = [(self.label == c).nonzero()[:, 0] for c in range(len(self.signs))]
            else:
                groups = [torch.arange(int(unit.max()) + 1)]
            counts = torch.zeros(n, len(self), dtype=torch.float64)
            member = torch.nn.functional.one_hot(self.label, len(self.signs)).double()
            lacking = torch.arange(n)
            while len(lacking):
                of_unit = torch.zeros(len(lacking), int(unit.max()) + 1, dtype=torch.float64)
                for members in groups:
                    size = len(members)
                    drawn = rng.multinomial(size, np.full(size, 1 / size), size=len(lacking))
                    of_unit[:, members] = torch.from_numpy(drawn).double()
                counts[lacking] = of_unit[:, unit]
                lacking = lacking[(counts[lacking] @ member == 0).any(1)]
            self.kept["draws", n, seed] = counts
        return self.kept["draws", n, seed]

    def directions(self) -> Float[Tensor, "case model"]:
        """What each case's logit difference towards side +1 reads from the last stream, divided by
        its scale."""
        reads = self.model.unembedding.cpu()
        reads = reads.to(computing_dtype(reads))
        each = torch.stack([reads[list(a)].mean(0) - reads[list(b)].mean(0)
                            for a, b in self.answers])  # fmt: skip
        return each[self.answer]

    def by_answers(
        self, reads: Float[Tensor, "case model"]
    ) -> Iterator[tuple[Int64[Tensor, " row"], Float[Tensor, " model"], Float[Tensor, " row"]]]:
        """Of each pair of answer sets the cases, the direction they all read, and each length."""
        check_rows("ModelCases.by_answers", reads, len(self), "cases")
        check_width("ModelCases.by_answers", reads, self.model.d_model, "directions")
        for number in range(len(self.answers)):
            rows = (self.answer == number).nonzero()[:, 0]
            length = reads[rows].norm(dim=1)
            yield rows, reads[rows[0]] / length[0], length

    @torch.no_grad()
    def read(self, sites: Iterable[str | Site]) -> dict[str, Float[Tensor, "case model"]]:
        """The activations at the position of each case, by ``point@layer``."""
        found: dict[str, list[Tensor]] = {}
        sites = list(sites)
        for rows, position in zip(self.tiles, self.position.split(_AT_A_TIME), strict=True):
            here = torch.arange(len(rows))
            for site, x in self.model.read(rows, sites).items():
                at = x[here, position].cpu()
                found.setdefault(str(site), []).append(at.to(computing_dtype(at)))
        return {site: torch.cat(parts) for site, parts in found.items()}

    @property
    def last(self) -> str:
        """The stream that the answers are read from."""
        return f"resid_post@{self.model.n_layer - 1}"

    def read_with_answers(
        self, sites: Iterable[str | Site]
    ) -> tuple[dict[str, Float[Tensor, "case model"]], Float[Tensor, "case model"]]:
        """`read` of the sites and the last stream; and what each case's logit difference towards
        side +1 reads of a part of that stream, which the last norm divides by its scale."""
        found = self.read([*sites, self.last])
        epsilon = float(self.model.network.config.rms_norm_eps)
        scale = (found[self.last].square().mean(-1) + epsilon).sqrt()
        return found, self.directions() / scale[:, None]

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "case token"]:
        """What the model expects after the position of each case."""
        each = zip(self.tiles, self.position.split(_AT_A_TIME), strict=True)
        logits = torch.cat([self.model.logits_at(rows, position).cpu() for rows, position in each])
        return logits.to(computing_dtype(logits))

    def difference(self, logits: Float[Tensor, "case token"]) -> Float[Tensor, " case"]:
        """The behaviour's metric, towards side +1."""
        check_rows("ModelCases.difference", logits, len(self), "cases")
        check_width("ModelCases.difference", logits, self.model.n_token, "logits")
        chances = self.behaviour.metric == "probability"
        values = logits.softmax(-1) if chances else logits
        out = values.new_empty(len(self))
        for number, (one, other) in enumerate(self.answers):
            rows = self.answer == number
            sets = (values[rows][:, list(side)] for side in (one, other))
            a, b = (part.sum(1) if chances else part.mean(1) for part in sets)
            out[rows] = a - b
        return check_finite("ModelCases.difference", out)

    def margins(self, logits: Float[Tensor, "case token"] | None = None) -> Float[Tensor, " case"]:
        """The metric towards the right answer; by default of the model as it is now."""
        return self.side * self.difference(self.logits() if logits is None else logits)

    def shown(self, margins: Float[Tensor, " case"]) -> Float[Tensor, " class"]:
        """The share of each class's cases that the model gets right."""
        return self.class_means((margins > 0).float())


@checked
def in_model(behaviour: Behaviour, model: Model) -> ModelCases:
    """The cases in a model's tokens; refused with all that does not fit."""
    tokenizer = model.words(f"behaviour {behaviour.name!r}")
    texts = [case.text for case in behaviour.cases]
    tokens = model.tokens(texts)
    lengths = model.mask(tokens).sum(1)
    faults = _unknown(tokenizer, tokens, texts)
    known, cut = answer_tokens(behaviour, tokenizer, faults)
    position = _positions(behaviour, lengths.tolist(), faults)
    faults += [] if faults else _alike(behaviour, tokens, position)
    if faults:
        raise BehaviourError(f"behaviour {behaviour.name!r}: {'; '.join(faults)}.")
    sides, sets, numbers = _sides(behaviour)
    each = (tuple(tuple(dict.fromkeys(known[w] for w in side)) for side in pair) for pair in sets)
    answers = tuple((a, b) for a, b in each)
    labels = behaviour.labels
    kinds = {case.label: case for case in behaviour.cases}
    values = [[behaviour.value_of(kinds[label], f) for f in behaviour.factors] for label in labels]
    plus = torch.tensor(values).float() * 2 - 1
    both = [plus.prod(1, keepdim=True)] * (plus.shape[1] == 2)
    signs = torch.cat([torch.ones(len(labels), 1), plus, *both], dim=1)
    return ModelCases(
        behaviour,
        model,
        tokens.cpu(),
        torch.tensor(position),
        answers,
        torch.tensor(numbers),
        torch.tensor(sides),
        torch.tensor([labels.index(case.label) for case in behaviour.cases]),
        signs,
        cut,
    )


def _unknown(tokenizer: Any, tokens: Tensor, texts: list[str]) -> list[str]:
    unknown = tokenizer.unk_token_id
    if unknown is None or not bool((tokens == unknown).any()):
        return []
    rows = (tokens == unknown).any(1).nonzero()[:, 0].tolist()
    lost = sorted({word for row in rows for word in unknown_words(tokenizer, texts[row])})
    return [f"{len(rows)} texts have words that the model does not know ({suggested(tokenizer, lost)})"]  # fmt: skip  # noqa: E501


def _positions(behaviour: Behaviour, lengths: list[int], faults: list[str]) -> list[int]:
    position = []
    for case, length in zip(behaviour.cases, lengths, strict=True):
        at = length - 1 if case.position is None else case.position
        at = at + length if at < 0 else at
        if not 0 < at < length:
            faults.append(
                f"position {case.position} of {case.text!r:.60}, which has the tokens 1 to "
                f"{length - 1} (0 begins the text), or -1 to {1 - length} from its end"
                if length > 1
                else f"{case.text!r:.60} has no token that an answer could follow"
            )
            return []
        position.append(at)
    of_pair: dict[int, set[int]] = {}
    for case, length in zip(behaviour.cases, lengths, strict=True):
        if case.pair is not None:
            of_pair.setdefault(case.pair, set()).add(length)
    if uneven := [pair for pair, sizes in of_pair.items() if len(sizes) > 1]:
        texts = [case.text for case in behaviour.cases if case.pair == uneven[0]]
        faults.append(
            f"the texts of {len(uneven)} pairs have unequal numbers of tokens, so positions in "
            f"them mean different things, as {' / '.join(map(repr, texts[:2]))}; use words of as "
            f"many tokens, or leave out 'pair'"
        )
    return position


def _alike(behaviour: Behaviour, tokens: Tensor, position: list[int]) -> list[str]:
    """Cases that a model cannot tell apart: it does not see what follows their position."""
    first: dict[tuple[int, ...], Case] = {}
    pairs = []
    for case, row, at in zip(behaviour.cases, tokens.tolist(), position, strict=True):
        other = first.setdefault(tuple(row[: at + 1]), case)
        if other is not case:
            pairs.append((other, case))
    if not pairs:
        return []
    one, other = pairs[0]
    return [
        f"{len(pairs)} cases have the same tokens up to their position as an earlier case, as "
        f"{one.text!r:.160} and {other.text!r:.160}: they are one case to the model, and would "
        f"count more than once; keep one of each"
    ]


def _sides(behaviour: Behaviour) -> tuple[list[float], list[Any], list[int]]:
    """Each case's side, the pairs of answer sets, and which of them each case asks for.

    Side +1 is what is right in the first case, and so for all of its class: in whatever order the
    cases of a pair come, a class has one side in all of them.
    """
    sides, numbers = [], []
    sets: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    first: dict[int | None, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    side_of: dict[str, float] = {}
    for case in behaviour.cases:
        asks = (case.right, case.wrong)
        known = side_of.get(case.label, 1.0)
        pair = first.setdefault(case.pair, asks if known > 0 else asks[::-1])
        if asks not in (pair, pair[::-1]):
            raise BehaviourError(
                f"behaviour {behaviour.name!r}: {case.text!r:.60} is asked for "
                f"{case.right} against {case.wrong}, another case of its "
                f"{'kind' if case.pair is None else 'pair'} for {pair[0]} against {pair[1]}. Cases "
                f"that are compared need the same two sets of answers, either way round."
            )
        sides.append(1.0 if case.right == pair[0] else -1.0)
        side_of.setdefault(case.label, sides[-1])
        numbers.append(sets.setdefault(pair, len(sets)))
    return sides, list(sets), numbers
