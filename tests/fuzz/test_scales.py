"""Every number follows its power of the weights' scale, or is refused: none is zero, infinite or
NaN because a dtype ended."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from analysis.runs.run import Run
from circuits import Basis, BilinearLayer, Interactions, Spectrum, hosvd, interaction_graph
from circuits.algebra.output_statistics import output_statistics
from circuits.algebra.similarity import form_cosines
from circuits.errors import CircuitsError
from circuits.graph import known_pairs, scored_strongest
from circuits.model import Site
from sae import Dictionary
from tests.support import small_runs
from tests.support.small import basis, normal, small_layer

SCALES = (1e-25, 1e-10, 1e10, 1e20)
DTYPES = {torch.float32: 2e-6, torch.float64: 1e-11}
OF_SIZE = ["value_1", "linear_rms", "cross_mean", "cross_rms", "strongest_weight", "self_mean",
           "self_rms", "and_score"]  # fmt: skip
OF_SHAPE = ["effective_rank", "entropy_rank", "energy_2", "cross_kurtosis", "self_kurtosis"]
TESTED = ["z", "q", "q_form"]
PAIRS = [(1, 2), (3, 4), (5, 5)]


def column(table, names) -> Tensor:
    return torch.tensor(np.array(table[names], dtype=float))


class Scaled:
    """Things whose weights have a scale."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.outputs = basis(9, seed=2).to(dtype)
        self.x, self.features = normal(5, 8, seed=3, dtype=dtype), normal(2, 20, dtype=dtype)
        self.form = Interactions(small_layer(), basis(20), basis(9)).matrix(0).to(dtype)

    def layer(self, s: float) -> BilinearLayer:
        plain = small_layer(dtype=self.dtype)
        return BilinearLayer(s * plain.left, s * plain.right, s * plain.down)

    def features_of(self, s: float) -> Basis:
        return Basis.from_decoder(s * basis(20).write.to(self.dtype))

    def inter(self, s: float) -> Interactions:
        return Interactions(self.layer(s), self.features_of(1), self.outputs)

    def between(self, s: float) -> Interactions:
        return Interactions(self.layer(1), self.features_of(s), self.outputs)

    def both(self, s: float) -> Interactions:
        return Interactions(self.layer(s), self.features_of(s), self.outputs)

    def dictionary(self, s: float) -> Dictionary:
        rows, zero = s * basis(20).write.to(self.dtype), torch.zeros(20, dtype=self.dtype)
        return Dictionary(rows, rows, zero, zero[:8], k=3)

    def spectrum(self, s: float, rank: int | None = None) -> Spectrum:
        return Spectrum.of(s * self.form, rank)


Law = tuple[Callable[[Scaled, float], Tensor], int]
LAWS: dict[str, Law] = {
    "BilinearLayer of weights": (lambda w, s: w.layer(s)(w.x), 3),
    "BilinearLayer of activations": (lambda w, s: w.layer(1)(s * w.x), 2),
    "interaction": (lambda w, s: w.layer(s).interaction(w.x[0]), 3),
    "interaction of directions": (lambda w, s: w.layer(1).interaction(s * w.x[0]), 1),
    "pair_gram": (lambda w, s: w.layer(s).pair_gram, 4),
    "hosvd": (lambda w, s: hosvd(w.layer(s)).values, 3),
    "energies": (lambda w, s: w.inter(s).energies, 6),
    "energies of features": (lambda w, s: w.between(s).energies, 4),
    "energies of both": (lambda w, s: w.both(s).energies, 10),
    "matrix": (lambda w, s: w.inter(s).matrix(0), 3),
    "weights": (lambda w, s: w.between(s).weights(0, [1, 2, 3]), 2),
    "ceilings": (lambda w, s: torch.tensor(w.inter(s).ceilings([0, 1]), dtype=torch.float64), 3),
    "strongest": (lambda w, s: column(w.inter(s).strongest(9), "weight"), 3),
    "strongest of features": (lambda w, s: column(w.between(s).strongest(9), "weight"), 2),
    "spectrum": (lambda w, s: w.inter(s).spectrum(0).values, 3),
    "spectrum of features": (lambda w, s: w.between(s).spectrum(0).values, 2),
    "Spectrum.of": (lambda w, s: w.spectrum(s).values, 1),
    "Spectrum of few": (lambda w, s: Spectrum.of(s * torch.block_diag(*[w.form] * 8), 2).values, 1),
    "Spectrum.matrix": (lambda w, s: w.spectrum(s).matrix(), 1),
    "Spectrum.energy": (lambda w, s: torch.tensor([w.spectrum(s, 4).energy(2)]), 0),
    "effective_rank": (lambda w, s: torch.tensor([w.spectrum(s).effective_rank]), 0),
    "entropy_rank": (lambda w, s: torch.tensor([w.spectrum(s).entropy_rank]), 0),
    "Spectrum.activation": (lambda w, s: w.spectrum(1).activation(s * w.features), 2),
    "sizes of outputs": (lambda w, s: column(output_statistics(w.inter(s)), OF_SIZE), 3),
    "shapes of outputs": (lambda w, s: column(output_statistics(w.both(s)), OF_SHAPE), 0),
    "cosines": (lambda w, s: form_cosines(w.both(s), [0, 1, 2]), 0),
    "z": (lambda w, s: column(scored_strongest(w.both(s), 4), "z"), 0),
    "known pairs": (lambda w, s: column(known_pairs(w.both(s), 0, PAIRS), TESTED), 0),
    "their weights": (lambda w, s: column(known_pairs(w.inter(s), 0, PAIRS), ["weight", "own"]), 3),
    "graph": (
        lambda w, s: torch.tensor(
            [d["weight"] for *_, d in interaction_graph(w.inter(s), 0, 9).edges(data=True)],
            dtype=torch.float64,
        ),
        3,
    ),
    "Basis.read": (lambda w, s: w.features_of(s).read, -1),
    "Basis.coordinates": (lambda w, s: w.features_of(s).coordinates(w.x), -1),
    "Basis.compose": (lambda w, s: w.features_of(s).compose(w.features), 1),
    "Basis.control": (lambda w, s: w.features_of(s).control().write, 1),
    "Basis.report": (
        lambda w, s: column(w.features_of(s).report(), ["rank", "condition", "coherence"]),
        0,
    ),
    "Dictionary.encode": (lambda w, s: w.dictionary(s).encode(w.x), 1),
    "Dictionary.encode of activations": (lambda w, s: w.dictionary(1).encode(s * w.x), 1),
    "Dictionary.decode": (lambda w, s: w.dictionary(s).decode(w.features), 1),
    "Dictionary.reconstruct": (lambda w, s: w.dictionary(s).reconstruct(w.x), 2),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_a_number_follows_its_power_of_the_scale_or_is_refused(name, dtype):
    (law, power), world = LAWS[name], Scaled(dtype)
    wanted, kept = law(world, 1.0).double(), 0
    for scale in SCALES:
        try:
            found = law(world, scale).double()
        except CircuitsError as error:
            assert "is too " in str(error), error  # noqa: PT017
            assert "Compute in float64" in str(error), error  # noqa: PT017
            continue
        kept += 1
        error = (found / scale**power - wanted).abs().max()
        assert float(error) <= DTYPES[dtype] * float(wanted.abs().max()), scale
    # in float64 nothing is refused, and in float32 only what is far from one
    assert (
        kept == len(SCALES) if dtype == torch.float64 else kept >= 2 or "both" in name or not power
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales") / "run"
    model, text = small_runs.begun(folder)
    return Run(folder, text=text, device="cpu", model=model)


def of_scale(model, part: str, scale: float):
    network = deepcopy(model.network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if part in name:
                weight.mul_(scale)
    return replace(model, network=network, _replacing=[])


MEASURED: dict[str, Callable] = {
    "logits": lambda model, tokens: model.logits(tokens),
    "loss": lambda model, tokens: model.loss(tokens),
    **{
        site: lambda model, tokens, site=site: model.read(tokens, site)[Site.parse(site)]
        for site in ("mlp_in@0", "mlp_out@0", "attn_out@0", "mlp_in@1", "mlp_out@1")
    },
}


@pytest.mark.parametrize("part", ["mlp", "norm", "embed", "self_attn", "lm_head"])
def test_a_model_is_as_in_float64_or_refused_at_every_scale(run, part):
    tokens = run.model.tokens("w20 w21 w22")
    for scale in (*SCALES, 1e-20, 1e35):
        model = of_scale(run.model, part, scale)
        exact = model.in_dtype(torch.float64)
        for name, measured in MEASURED.items():
            try:
                found = measured(model, tokens).double()
            except CircuitsError as error:
                assert len(str(error)) > 80  # noqa: PT017
                continue
            wanted = measured(exact, tokens)
            error = float((found - wanted).abs().max())
            assert error <= 1e-4 * float(wanted.abs().max()), (name, scale)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_questions_of_layers_beyond_float32_are_refused(run, scale):
    model = of_scale(run.model, "mlp", scale)
    known, behaviour = {"model": model, "dictionaries": run.dictionaries}, small_runs.behaviour()
    circuit = small_runs.circuit(model, run.dictionaries, "one")
    few = {"corpus": run.text, "n_documents": 4, "min_active": 1}
    asked = {
        "find": lambda: analysis.find_circuit(**known, behaviour=behaviour, layer=0),
        "rank": lambda: analysis.rank_curve(**known, layer=0, **few),
        "propose": lambda: analysis.propose_circuits(**known, layer=0),
        "validate": lambda: analysis.validate(
            **known, circuit=circuit, behaviour=behaviour, text=run.text
        ),
    }
    for name, ask in asked.items():
        # a model whose layers add nothing may also be refused for what it does not show
        also = "does not show" if name == "find" and scale < 1 else "$^"
        with pytest.raises(CircuitsError, match=rf"is too |beyond float32|{also}"):
            ask()


def test_activations_with_nan_or_infinity_are_refused_by_name():
    world = Scaled(torch.float32)
    x = world.x.clone()
    x[0, 0] = torch.nan
    for ask in (world.layer(1), world.features_of(1).coordinates, world.dictionary(1).encode):
        with pytest.raises(CircuitsError, match=r"1 of 40 numbers of x are NaN or infinite"):
            ask(x)
