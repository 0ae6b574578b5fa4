"""What one token, or two at a distance, do to the next token's logits, from the weights alone.

The tokens stand some way apart and every other position is zero. What two do *together* is what
the network gives for both less what it gives for each alone, ``f(a, b) − f(a) − f(b)``. It is an
exact sum over paths. Logits have no zero of their own (adding one number to all of them changes
nothing), so every effect is relative to its mean over the candidate answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.studies.rules.paths import (
    ALONE,
    FIRST,
    SECOND,
    Gate,
    Path,
    SplitPass,
    check_is_polynomial,
)
from circuits.arguments import checked
from circuits.errors import (
    ArgumentError,
    FeatureRangeError,
    check_count,
    check_indices,
    check_some,
    shorten,
)
from circuits.model.model import Model

_BOTH = ((1, 1), (1, 0), (0, 1))  # which of two tokens are there


@checked
@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of tokens on the answers' logits, and the paths that they are the sum of."""

    tokens: Mapping[str, Sequence[int]]  # of each axis: "first" and "second", or "token"
    answers: Sequence[int]  # effects are relative to their mean over these
    distances: Sequence[int]  # that are summed over; none for single tokens
    total: Float[Tensor, "*token answer"]
    paths: Mapping[Path, Float[Tensor, "*token answer"]]

    def strongest(self, n: int) -> pd.DataFrame:
        """The largest positive effects: tokens, answer, effect, path (the strongest of it), and
        the share that this path has in the effect."""
        n = min(check_count("Effects.strongest", n, None, "n"), self.total.numel())
        effects, order = self.total.flatten().sort(descending=True, stable=True)
        parts = torch.stack([each.flatten()[order[:n]] for each in self.paths.values()])
        most, which = parts.max(0)
        names, places = [*self.paths], torch.unravel_index(order[:n], self.total.shape)
        named = [*self.tokens.values(), self.answers]
        columns = [[of[i] for i in place.tolist()] for of, place in zip(named, places, strict=True)]
        table = pd.DataFrame(dict(zip([*self.tokens, "answer"], columns, strict=True)))
        table["effect"] = effects[:n].tolist()
        table["path"] = [names[i] for i in which.tolist()]
        table["share"] = (most / effects[:n]).nan_to_num(0.0, 0.0, 0.0).tolist()
        return table

    def shares(self, rules: pd.DataFrame) -> pd.DataFrame:
        """The share that each path has in the summed effect of some rules (a table with a column
        for each axis), the largest first."""
        whole = self.sum_of(rules)
        parts = {path: float(each[self._places(rules)].sum()) for path, each in self.paths.items()}
        shares = [part / whole if whole else 0.0 for part in parts.values()]
        table = pd.DataFrame({"path": [*parts], "share": shares})
        return table.sort_values("share", ascending=False, key=abs, ignore_index=True)

    def sum_of(self, rules: pd.DataFrame) -> float:
        """The summed effect of some rules."""
        return float(self.total[self._places(rules)].sum())

    def _places(self, rules: pd.DataFrame) -> tuple[Tensor, ...]:
        axes = {**self.tokens, "answer": self.answers}
        check_rules("Effects", rules, axes)
        return tuple(
            torch.tensor([[*listed].index(token) for token in rules[name]])
            for name, listed in axes.items()
        )


def check_rules(owner: str, rules: pd.DataFrame, axes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a table that is no list of rules among these tokens."""
    if lacking := [name for name in axes if name not in rules]:
        raise ArgumentError(
            f"{owner}: a table of rules lacks the columns {', '.join(lacking)}. Pass rows of "
            f"Effects.strongest."
        )
    if not len(rules):
        raise ArgumentError(f"{owner}: a table without a rule has no effect. Pass rows.")
    for name, listed in axes.items():
        if strange := [token for token in rules[name] if token not in listed]:
            raise FeatureRangeError(
                f"{owner}: column {name} has {shorten(strange, 3)}, for which no effect was "
                f"computed. Compute effects of all tokens of the table."
            )


@checked
@torch.no_grad()
def pair_effects(
    model: Model,
    first: Sequence[int],
    second: Sequence[int],
    distances: Sequence[int] = (1,),
    answers: Sequence[int] | None = None,
    removed: Sequence[Path] = (),
) -> Effects:
    """What each token of ``first`` does together with each of ``second`` that stands so far behind
    it, summed over the distances; in float64, with some paths ``removed``. ``answers`` are the
    candidates (all tokens)."""
    tokens, distances, answers = _checked(model, first, second, distances, answers)
    exact, paths = model.in_dtype(torch.float64), dict[Path, Tensor]()
    total = torch.zeros((), dtype=torch.float64)
    read, shape = _read(exact, answers), (*map(len, tokens.values()), len(answers))
    for distance in distances:
        for kept in _BOTH:
            sign = 1 if all(kept) else -1
            one = _pair(exact, tokens, distance, kept, removed)
            total = total + sign * (one.normed()[:, -1] @ read)
            for path, part in one.paths(SECOND):
                if path not in removed:
                    own = (part @ read).view(shape)
                    paths[path] = paths[path] + sign * own if path in paths else sign * own
    return Effects(tokens, answers, distances, total.view(shape), paths)


@checked
@torch.no_grad()
def single_effects(
    model: Model, tokens: Sequence[int], answers: Sequence[int] | None = None
) -> Effects:
    """What each token does when it stands alone; in float64."""
    owner = "single_effects"
    check_is_polynomial(owner, model)
    tokens = _tokens(owner, tokens, model, "tokens")
    answers = _tokens(owner, range(model.n_token) if answers is None else answers, model, "answers")
    exact = model.in_dtype(torch.float64)
    x = exact.network.get_input_embeddings().weight[torch.tensor(tokens)][:, None]
    here = torch.ones(x.shape[:2], dtype=torch.bool, device=model.device)
    one, read = SplitPass(exact, x, {ALONE: here}), _read(exact, answers)
    paths = {path: part @ read for path, part in one.paths(ALONE)}
    return Effects({"token": tokens}, answers, (), one.normed()[:, -1] @ read, paths)


@checked
@torch.no_grad()
def explaining_paths(
    model: Model,
    rules: pd.DataFrame,
    answers: Sequence[int],
    distances: Sequence[int] = (2, 5, 8),
    n: int = 5,
    enough: float = 0.1,
) -> pd.DataFrame:
    """The paths that make some rules: each time the one whose removal, together with those before
    it, leaves the least of the rules' summed effect. Only paths that read the first token are
    tried: a path that reads the second alone makes nothing of the pair. It ends after ``n``, or
    when no more than ``enough`` of the effect is left. Columns: path, left (a share)."""
    owner = "explaining_paths"
    check_count(owner, n, None, "n")
    check_rules(owner, rules, dict.fromkeys(("first", "second"), range(model.n_token)))
    first, second = (sorted(set(rules[name])) for name in ("first", "second"))
    given = _checked(model, first, second, distances, answers)
    whole = pair_effects(model, first, second, distances, answers)
    if (all_of_it := whole.sum_of(rules)) <= 0:
        raise ArgumentError(
            f"{owner}: the rules' effect is {all_of_it:.3g}, not above 0, so no path makes it. "
            f"Pass rules that the model has: rows of Effects.strongest."
        )
    exact, places = model.in_dtype(torch.float64), whole._places(rules)
    tried = [path for path in whole.paths if any(w.source == FIRST for w in path.writers)]
    chosen: list[Path] = []
    left: list[float] = []
    while tried and len(chosen) < n and (not left or left[-1] > enough):
        sums = {p: float(_total(exact, *given, [*chosen, p])[places].sum()) for p in tried}
        chosen.append(min(sums, key=lambda path: sums[path]))
        tried.remove(chosen[-1])
        left.append(sums[chosen[-1]] / all_of_it)
    return pd.DataFrame({"path": chosen, "left": left})


@checked
@torch.no_grad()
def path_neurons(
    model: Model, gate: Gate, rules: pd.DataFrame, answers: Sequence[int], distance: int = 2
) -> pd.DataFrame:
    """What each hidden neuron of a gate's MLP adds directly to the logits through this gate, summed
    over the rules, the largest first. Columns: neuron, effect."""
    owner = "path_neurons"
    check_rules(owner, rules, dict.fromkeys(("first", "second"), range(model.n_token)))
    first, second = (sorted(set(rules[name])) for name in ("first", "second"))
    tokens, distances, answers = _checked(model, first, second, [distance], answers)
    check_rules(owner, rules, {**tokens, "answer": answers})
    exact = model.in_dtype(torch.float64)
    pairs = [_pair(exact, tokens, distances[0], kept, [gate]) for kept in _BOTH]  # it is checked
    both, *alone = (one.product(gate)[:, -1] for one in pairs)
    hidden = (both - sum(alone)).view(len(first), len(second), -1)
    mlp, norm = exact.network.model.layers[gate.layer].mlp, exact.network.model.norm
    says = norm(mlp.down_proj.weight.mT) @ _read(exact, answers)
    i, j, k = (torch.tensor([[*of].index(token) for token in rules[name]])
               for name, of in (*tokens.items(), ("answer", answers)))  # fmt: skip
    effect = (hidden[i, j] * says.mT[k]).sum(0)
    values, order = effect.sort(descending=True, stable=True)
    return pd.DataFrame({"neuron": order.tolist(), "effect": values.tolist()})


def _total(
    exact: Model,
    tokens: Mapping[str, Sequence[int]],
    distances: Sequence[int],
    answers: Sequence[int],
    removed: Sequence[Path],
) -> Tensor:
    """The effects alone, without their paths."""
    total = torch.zeros((), dtype=torch.float64)
    for distance in distances:
        for kept in _BOTH:
            last = _pair(exact, tokens, distance, kept, removed).normed()[:, -1]
            total = total + (1 if all(kept) else -1) * last
    return (total @ _read(exact, answers)).view(*map(len, tokens.values()), len(answers))


def _pair(
    exact: Model,
    tokens: Mapping[str, Sequence[int]],
    distance: int,
    kept: tuple[int, int],
    removed: Sequence[Path],
) -> SplitPass:
    """All pairs, with one of their tokens or both."""
    one, two = (torch.tensor(listed, device=exact.device) for listed in tokens.values())
    embedding = exact.network.get_input_embeddings().weight
    x = embedding.new_zeros(len(one) * len(two), 2, exact.d_model)
    x[:, 0] = kept[0] * embedding[one.repeat_interleave(len(two))]
    x[:, 1] = kept[1] * embedding[two.repeat(len(one))]
    at_first = torch.zeros(x.shape[:2], dtype=torch.bool, device=exact.device)
    at_first[:, 0] = True
    groups = {FIRST: at_first, SECOND: ~at_first}
    return SplitPass(exact, x, groups, removed, places=(0, distance))


def _read(exact: Model, answers: Sequence[int]) -> Float[Tensor, "model answer"]:
    """What reads the answers' logits, relative to their mean."""
    rows = exact.network.lm_head.weight[torch.tensor(answers)]
    return (rows - rows.mean(0)).mT


def _checked(
    model: Model,
    first: Sequence[int],
    second: Sequence[int],
    distances: Sequence[int],
    answers: Sequence[int] | None,
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...], tuple[int, ...]]:
    """Tokens, distances and answers that this model has."""
    owner = "pair_effects"
    check_is_polynomial(owner, model)
    tokens = {"first": _tokens(owner, first, model, "first tokens"),
              "second": _tokens(owner, second, model, "second tokens")}  # fmt: skip
    far = check_some(owner, distances, "distances")
    far = [check_count(owner, one, model.n_context - 1, "distance") for one in far]
    everything = range(model.n_token) if answers is None else answers
    return tokens, tuple(far), _tokens(owner, everything, model, "answers")


def _tokens(owner: str, tokens: Sequence[int], model: Model, what: str) -> tuple[int, ...]:
    return tuple(check_indices(owner, check_some(owner, tokens, what), model.n_token, "token"))
