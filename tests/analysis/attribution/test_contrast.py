"""Where a contrast comes from: shares and pairs that add up, against sums written out by hand."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.attribution import contrast
from analysis.attribution.contrast import (
    PairAccount,
    Totals,
    by_layer,
    made_here,
    origins,
)
from analysis.attribution.output_features import OutputFeatures
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from circuits.model import Model, Site
from sae import Dictionary
from tests.support.planted_negation import planted_behaviour, planted_dictionaries, planted_model
from tests.support.small import normal, relative_error, small_layer
from tests.support.small_dictionaries import small_dictionary, threshold_dictionary
from tests.support.small_models import small_network, small_tokenizer

LAYER = 1
SETS = ((("w30", "w31"), ("w32",)), (("w33",), ("w34", "w35", "w36")))


def small_behaviour(factors: int = 2, uneven: bool = True) -> Behaviour:
    """Of words without meaning: pairs that ask for one of two sets of answers each, sets of unequal
    size, and one class with more cases than the others."""
    values = list(product((False, True), repeat=factors))
    cases = []
    for number in range(7):
        one, other = SETS[number % 2]
        for value in values:
            odd = sum(value) % 2 == 1
            if uneven and number == 6 and value != values[0]:
                continue
            words = [f"w{4 + (5 * number + 3 * v + 2 * i) % 26}" for i, v in enumerate(value)]
            cases.append(
                Case(
                    " ".join([f"w{4 + number}", *words, "w9", f"w{12 + number}"]),
                    "".join("ny"[v] for v in value),
                    other if odd else one,
                    one if odd else other,
                    {name: v for name, v in zip("ab", value, strict=False)},
                    number,
                )
            )
    return Behaviour("small", tuple(cases))


def small_model(dtype: torch.dtype = torch.float64, **fields) -> Model:
    network = small_network(**fields).to(dtype).requires_grad_(False)
    return Model(network, small_tokenizer(), Path("small"))


def small_account(
    factors: int = 2, *, dictionary: Dictionary | None = None, **fields
) -> PairAccount:
    into = small_dictionary(site=Site("mlp_in", LAYER)) if dictionary is None else dictionary
    cases = in_model(small_behaviour(factors), small_model(**fields))
    return PairAccount.of(cases, LAYER, into)


ACCOUNTS = pytest.mark.parametrize(
    ("factors", "biases"), [(1, False), (1, True), (2, False), (2, True)]
)


def means_of(cases, values: Tensor) -> Tensor:
    """Class means by hand, in the order of the labels."""
    rows = [
        [i for i, case in enumerate(cases.behaviour.cases) if case.label == label]
        for label in cases.behaviour.labels
    ]
    return torch.stack([sum(values[i] for i in each) / len(each) for each in rows])


# --- computed or inherited


@pytest.mark.parametrize("biases", ["", "left right down"])
@pytest.mark.parametrize("factors", [1, 2])
def test_the_shares_agree_with_sums_over_class_means(factors, biases):
    """Of random activations: the N x S term, the mean x X terms and what is left."""
    cases = in_model(small_behaviour(factors), small_model())
    layer, direction = small_layer(d_model=16, biases=biases), normal(16, seed=4)
    x = normal(len(cases), 16, seed=5) + 0.5 * cases.label[:, None]
    found = origins(cases, layer, x, direction)
    form = layer.interaction(direction)
    lifted = torch.cat([x, torch.ones(len(x), 1)], 1) if layer.has_constant else x
    means = means_of(cases, lifted)
    if factors == 1:
        no, yes = means
        mean, a = (yes + no) / 2, (yes - no) / 2
        computed, inherited = torch.zeros(()), 2 * mean @ form @ a
        signs = torch.tensor([-0.5, 0.5])
    else:
        nn, ny, yn, yy = means
        mean, both = (nn + ny + yn + yy) / 4, (nn - ny - yn + yy) / 4
        a, b = (yn + yy - nn - ny) / 4, (ny + yy - nn - yn) / 4
        computed, inherited = 2 * a @ form @ b, 2 * mean @ form @ both
        signs = torch.tensor([0.25, -0.25, -0.25, 0.25])
    values = torch.stack([(row @ form @ row) for row in lifted])
    total = signs.double() @ means_of(cases, values)
    assert found.contrast == pytest.approx(float(total))
    assert found.computed == pytest.approx(float(computed / total))
    assert found.inherited == pytest.approx(float(inherited / total))
    assert found.computed + found.inherited + found.within == pytest.approx(1)


def test_without_spread_in_the_classes_nothing_is_of_the_spread():
    cases = in_model(small_behaviour(), small_model())
    x = normal(4, 16, seed=6)[cases.label]
    found = origins(cases, small_layer(d_model=16), x, normal(16, seed=4))
    assert found.within == pytest.approx(0, abs=1e-9)
    spread = origins(cases, small_layer(d_model=16), x + normal(*x.shape), normal(16, seed=4))
    assert abs(spread.within) > 0.01


def test_a_layer_without_a_contrast_has_no_shares():
    cases = in_model(small_behaviour(), small_model())
    found = origins(cases, small_layer(d_model=16), torch.zeros(len(cases), 16).double(),
                    normal(16))  # fmt: skip
    assert (found.contrast, found.computed, found.inherited, found.within) == (0, 0, 0, 0)
    assert not made_here(found.computed, found.inherited, found.within)


@pytest.mark.parametrize(
    ("shares", "made"),
    [
        ((1.0, 0.0, 0.0), True),
        ((0.71, 0.15, 0.14), True),
        ((1.3, -0.3, 0.0), True),
        ((3.0, -2.0, 0.0), False),  # two large parts that cancel
        ((0.5, 0.49, 0.01), False),
        ((0.5, 0.0, 0.5), False),
        ((0.0, 1.0, 0.0), False),
    ],
)
def test_only_a_contrast_that_was_not_there_before_is_made_here(shares, made):
    assert made_here(*shares) is made


def test_the_planted_models_shares_are_known():
    cases = in_model(planted_behaviour(), planted_model())
    account = PairAccount.of(cases, 0, planted_dictionaries()[Site("mlp_in", 0)])
    assert made_here(account.origins.computed, account.origins.inherited, account.origins.within)
    assert account.origins.computed == pytest.approx(1)
    inherited = PairAccount.of(
        in_model(planted_behaviour(), planted_model("inherited")), 1,
        planted_dictionaries("inherited")[Site("mlp_in", 1)],
    )  # fmt: skip
    assert not made_here(
        max(inherited.origins.computed, 0.1), inherited.origins.inherited, inherited.origins.within
    )
    assert inherited.origins.inherited == pytest.approx(1)


# --- by component


@ACCOUNTS
def test_components_add_up_to_the_margins(factors, biases):
    cases = in_model(small_behaviour(factors), small_model(torch.float32, mlp_bias=biases))
    table = by_layer(cases)
    assert list(table["component"]) == ["embedding", *["attention", "MLP"] * 2]
    margins, affected = cases.class_means(cases.margins()), cases.affected > 0
    assert table["contrast"].sum() == pytest.approx(float(margins[affected].mean()), rel=1e-4)
    if factors == 2:
        assert table["elsewhere"].sum() == pytest.approx(float(margins[~affected].mean()), rel=1e-4)
    else:
        assert not table["elsewhere"].any()
    assert table["contrast"].abs().min() > 1e-3


# --- pairs


def summed(total: Totals) -> float:
    return total.pairs + total.constant + total.bias + total.error


@ACCOUNTS
def test_pairs_constants_bias_and_error_add_up_to_the_mlp(factors, biases):
    account = small_account(factors, mlp_bias=biases)
    total = account.totals
    assert summed(total) == pytest.approx(total.mlp, rel=1e-9)
    assert (abs(total.bias) > 1e-3) == biases
    assert abs(total.error) > 1e-3
    # the MLP's part of the model's own margins, as the running model writes it
    table = by_layer(account.cases).set_index(["component", "layer"])
    assert total.mlp == pytest.approx(table.loc[("MLP", LAYER), "contrast"], rel=1e-6)
    margins = account.cases.class_means(account.cases.margins())
    affected = account.cases.affected > 0
    assert account.margin == pytest.approx(float(margins[affected].mean()), rel=1e-6)


@ACCOUNTS
def test_each_pair_adds_what_it_writes_to_each_class(factors, biases):
    account = small_account(factors, mlp_bias=biases)
    cases, layer = account.cases, account.layer
    left, right = layer.factors
    n = account.dictionary.n_feature
    place = {int(f): i for i, f in enumerate(account.features)}
    assert place[n] == len(place) - 1
    for row in account.pairs.iloc[[0, 1, 7, 40, -1]].to_dict("records"):
        i, j = place[row["first"]], place[row["second"]]
        a, b = account.written[i], account.written[j]
        written = (left @ a) * (right @ b) + (left @ b) * (right @ a)
        written = layer.down @ (written / (2 if i == j else 1))
        products = account.values[:, i] * account.values[:, j]
        values = cases.side * products * (account.reads @ written)
        of_class = means_of(cases, values)
        for c, label in enumerate(cases.behaviour.labels):
            assert row[label] == pytest.approx(float(of_class[c]), abs=1e-9)
        affected = cases.affected > 0
        assert row["contrast"] == pytest.approx(float(of_class[affected].mean()), abs=1e-9)
        if factors == 2:
            assert row["elsewhere"] == pytest.approx(float(of_class[~affected].mean()), abs=1e-9)
        inside = affected[cases.label]
        assert row["together"] == pytest.approx(float((products[inside] != 0).double().mean()))
    assert account.pairs["contrast"].abs().is_monotonic_decreasing


@ACCOUNTS
def test_class_columns_and_class_totals_agree(factors, biases):
    account = small_account(factors, mlp_bias=biases)
    labels = list(account.cases.behaviour.labels)
    affected = account.cases.affected > 0
    inside = account.pairs[[x for x, on in zip(labels, affected, strict=True) if on]].mean(axis=1)
    torch.testing.assert_close(
        torch.tensor(inside.to_numpy()), torch.tensor(account.pairs["contrast"].to_numpy())
    )
    totals = account.class_totals
    assert float(totals[affected].mean()) == pytest.approx(account.totals.mlp)


@pytest.mark.parametrize("factors", [1, 2])
def test_computed_and_inherited_of_all_pairs_are_those_of_the_layer(factors):
    """Where the dictionary misses nothing: the orthonormal axes, all active, signed."""
    eye = torch.eye(16, dtype=torch.float64)
    exact = Dictionary(eye, eye, torch.zeros(16).double(), torch.zeros(16).double(), k=16,
                       relu=False, site=Site("mlp_in", LAYER))  # fmt: skip
    account = small_account(factors, dictionary=exact)
    parts = account.computed(account.pairs).sum(0)
    size = abs(account.origins.contrast)
    shares = account.origins
    assert float(parts[0]) == pytest.approx(shares.computed * size, abs=1e-9)
    assert float(parts[1]) == pytest.approx(shares.inherited * size, abs=1e-9)
    assert account.totals.error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "dictionary",
    [
        small_dictionary(site=Site("mlp_in", LAYER), relu=False),
        replace(threshold_dictionary(), site=Site("mlp_in", LAYER)),
        replace(threshold_dictionary(level=1e6), site=Site("mlp_in", LAYER)),
    ],
    ids=["signed", "thresholds", "none active"],
)
def test_accounts_of_every_kind_of_dictionary_add_up(dictionary):
    total = small_account(dictionary=dictionary, mlp_bias=True).totals
    assert summed(total) == pytest.approx(total.mlp, rel=1e-9)


def test_of_too_many_features_those_that_write_least_are_error(monkeypatch):
    whole = small_account(mlp_bias=True)
    assert len(whole.features) > 7
    monkeypatch.setattr(contrast, "MOST_FEATURES", 6)
    some = small_account(mlp_bias=True)
    assert len(some.features) == 7
    assert set(some.features.tolist()) < set(whole.features.tolist())
    assert summed(some.totals) == pytest.approx(some.totals.mlp, rel=1e-9)
    assert some.totals.mlp == whole.totals.mlp
    shared = whole.pairs.merge(some.pairs, on=["first", "second"])
    assert len(shared) == len(some.pairs)
    torch.testing.assert_close(*(torch.tensor(shared[f"contrast_{x}"].to_numpy()) for x in "xy"))
    kept = some.values[:, :-1].abs().sum(0) * some.written[:-1, :16].norm(dim=1)
    every = whole.values[:, :-1].abs().sum(0) * whole.written[:-1, :16].norm(dim=1)
    torch.testing.assert_close(kept.sort().values, every.sort().values[-6:])


# --- through the output features


@pytest.mark.parametrize("factors", [1, 2])
def test_what_goes_through_output_features_and_their_error_is_all(factors):
    out = small_dictionary(20, site=Site("mlp_out", LAYER))
    cases = in_model(small_behaviour(factors), small_model())
    found = OutputFeatures(cases, out)
    site = f"mlp_out@{LAYER}"
    y, reads = cases.read_with_answers([site])
    weights = cases.weights(cases.affected)
    missed = y[site] - (found.active @ out.decoder).double()
    assert found.whole == pytest.approx(float((weights * (y[site] * reads).sum(1)).sum()), rel=1e-5)
    share_of_rest = float((weights * (missed * reads).sum(1)).sum()) / found.whole
    assert float(found.shares.sum()) + share_of_rest == pytest.approx(1, abs=1e-4)
    brute = torch.stack([
        (weights * found.active[:, f] * (reads @ out.decoder[f].double())).sum()
        for f in range(out.n_feature)
    ]) / found.whole  # fmt: skip
    assert relative_error(found.shares, brute) < 1e-4


def test_of_every_mlp_it_is_known_where_its_contrast_comes_from():
    """The second layer of the inherited twin only reads; the computed model's one layer makes."""
    twin = by_layer(in_model(planted_behaviour(), planted_model("inherited")))
    mlps = twin[twin["component"] == "MLP"].set_index("layer")
    assert mlps.loc[1, "inherited"] == pytest.approx(1, abs=1e-5)
    assert mlps.loc[1, "computed"] == pytest.approx(0, abs=1e-5)
    assert mlps.loc[0, "contrast"] == pytest.approx(0, abs=1e-5)
    made = by_layer(in_model(planted_behaviour(), planted_model())).set_index("component")
    assert made.loc["MLP", "computed"] == pytest.approx(1, abs=1e-5)
    assert made.loc[["embedding", "attention"], "computed"].isna().all()


def test_a_pair_is_the_second_derivative_times_both_activations():
    """Of one bilinear layer: of what each case's answers read of its output, by autograd."""
    account, width = small_account(), small_model().d_model
    features = len(account.features) - 1  # the constant is none
    expected = torch.zeros(features, features, dtype=torch.float64)
    weights = account.cases.weights(account.cases.affected)
    for values, error, reads, weight in zip(
        account.values, account.error, account.reads, weights, strict=True
    ):
        constant = values[-1] * account.written[-1] + error

        def read(z: Tensor, constant: Tensor = constant, reads: Tensor = reads) -> Tensor:
            x = z @ account.written[:-1] + constant
            return account.layer(x[:width]) @ reads

        z = values[:-1]
        second = torch.autograd.functional.hessian(read, z) * z[:, None] * z
        expected += weight * (second.triu(1) + torch.diag(second.diagonal()) / 2)
    found = torch.zeros_like(expected)
    place = {feature: n for n, feature in enumerate(account.features.tolist())}
    for pair in account.pairs.to_dict("records"):
        one, other = sorted((place[pair["first"]], place[pair["second"]]))
        if other < features:
            found[one, other] += pair["contrast"]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
