"""A transcoder's quality is what a plain loop measures, and what cannot take one says so."""

from dataclasses import replace

import pytest
import torch

import analysis
import sae
from analysis import quality, transcoder_table
from analysis.discovery.provenance import check_dictionaries
from analysis.transcoder_quality import Needed, pair_terms
from circuits.errors import CircuitsError, DictionaryError
from circuits.model import Site
from tests.support.dictionary_oracle import WINDOW, Oracle, tied
from tests.support.small import normal
from tests.support.small_dictionaries import (
    N_FEATURE,
    small_dictionary,
    small_transcoder,
    some_activations,
)
from tests.support.small_models import small_corpus

INTO, OUT = Site("mlp_in", 0), Site("mlp_out", 0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("texts"), 80)


def transcoder(**fields):
    parts = {"relu": True, "bias": torch.zeros(N_FEATURE)}
    return small_transcoder(**{**parts, **fields}).to(torch.float64)


def read(model, corpus):
    """All counted tokens at the MLP's input and output."""
    return (Oracle(model, corpus, small_dictionary(site=site)).x for site in (INTO, OUT))


def loss_with(model, corpus, function):
    """The model's loss with a function of the MLP's input in place of its output."""
    oracle, kept = Oracle(model, corpus, small_dictionary(site=OUT)), []
    with model.replaced({INTO: lambda x: kept.append(x) or x}):
        return oracle.loss(lambda y: function(kept.pop().reshape(y.shape)))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["topk", "thresholds"])
def test_a_transcoders_row_is_what_a_plain_loop_measures(kind, skip, plain, corpus):
    rule = {} if kind == "topk" else {"k": None, "threshold": torch.full((N_FEATURE,), 1.0)}
    one = transcoder(skip=skip, **rule)
    row = quality(one, plain, corpus, window=WINDOW, error=0.0).iloc[0]
    x, y = read(plain, corpus)
    f = one.encode(x)
    made = f @ one.decoder + one.offset + (x @ one.skip.mT if skip else 0)
    error, spread = y - made, (y - y.mean(0)).square().sum()
    close = {"rel": 1e-6}
    assert row["site"] == "mlp_in@0 to mlp_out@0"
    assert row["fvu"] == pytest.approx(float(error.square().sum() / spread), **close)
    left = (error - error.mean(0)).square().sum() / spread
    assert row["explained_variance"] == pytest.approx(1 - float(left), **close)
    assert row["l0"] == pytest.approx(float((f != 0).double().sum(1).mean()))
    losses = {
        "clean": loss_with(plain, corpus, plain.layer(0)),
        "sae": loss_with(plain, corpus, one.reconstruct),
        "with_error": loss_with(plain, corpus, plain.layer(0)),
        "zero": loss_with(plain, corpus, torch.zeros_like),
        "mean": loss_with(plain, corpus, lambda given: y.mean(0).expand_as(given)),
    }
    for name, loss in losses.items():
        assert row[f"loss_{name}"] == pytest.approx(loss, rel=1e-6), name
    gap = losses["zero"] - losses["clean"]
    assert row["recovered"] == pytest.approx((losses["zero"] - losses["sae"]) / gap, rel=1e-4)


def pair(**fields):
    return tied(site=INTO, **fields), tied(
        site=OUT, encoder=normal(N_FEATURE, 16, seed=3), **fields
    )


def test_the_table_is_what_each_way_gives_by_itself(plain, corpus):
    one, (inputs, outputs), layer = transcoder(), pair(), plain.layer(0)
    table = transcoder_table(one, inputs, outputs, plain, corpus, window=WINDOW, n_explained=40)
    x, y = read(plain, corpus)
    lifted = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    best = torch.linalg.lstsq(lifted, y).solution
    made = {
        "transcoder": one.reconstruct(x),
        "autoencoders and layer": outputs.reconstruct(layer(inputs.reconstruct(x))),
        "input and layer": layer(inputs.reconstruct(x)),
        "output": outputs.reconstruct(y),
        "affine map": lifted @ best,
        "zero": torch.zeros_like(y),
        "clean": y,
    }
    spread = (y - y.mean(0)).square().sum()
    for name, wanted in made.items():
        fvu = float((y - wanted).square().sum() / spread)
        assert table["fvu"][name] == pytest.approx(fvu, rel=1e-5, abs=1e-12), name
    assert table["recovered"][["clean", "zero"]].tolist() == [1, 0]
    own = quality(one, plain, corpus, window=WINDOW).iloc[0]
    assert table["loss"]["transcoder"] == pytest.approx(own["loss_sae"])
    alone = quality(outputs, plain, corpus, window=WINDOW).iloc[0]
    assert table["recovered"]["output"] == pytest.approx(alone["recovered"])
    assert table["between"].dropna().to_dict() == {
        "transcoder": "linear, no pairs", "autoencoders and layer": "pairs, exact",
    }  # fmt: skip


def test_the_pairs_add_up_to_what_the_layer_makes_of_the_inputs_features(plain, corpus):
    inputs, layer = tied(site=INTO, offset=normal(16, seed=5)), plain.layer(0)
    x, _ = read(plain, corpus)
    reads = normal(7, 16, seed=4)
    for token in x[:5]:
        f = inputs.encode(token[None])[0]
        active = f.nonzero()[:, 0]
        written = f[active, None] * inputs.decoder[active]
        terms = pair_terms(layer, written, inputs.offset, reads)
        assert len(terms) == len(active) * (len(active) + 3) // 2
        whole, still = layer(inputs.reconstruct(token[None])), layer(inputs.offset[None])
        torch.testing.assert_close(terms.sum(0), ((whole - still) @ reads.mT)[0])
        # one of them, from the interaction matrix of what is read
        (form,) = layer.interaction(reads[:1])
        parts = layer.lift(written, 0.0)
        torch.testing.assert_close(terms[1, 0], 2 * parts[0] @ form @ parts[1])


def test_terms_are_counted_until_a_tenth_is_left():
    needed = Needed(1)
    needed.add("features", torch.tensor([[1.0, 5.0], [-8.0, 0.4], [1.0, 5.0], [2.0, 0.2]]))
    # −8+2 is −6 of −4 and so on: only with all four is −8, 2, 1, 1 within a tenth; 5+5 is at once
    assert needed.found["features"] == [4, 2]


def test_a_transcoder_in_the_models_place_is_its_reconstruction_and_with_its_error_nothing(
    plain,
    corpus,
):
    one = transcoder(skip=True)
    tokens = torch.tensor([[1, 5, 9, 4, 2]])
    seen = plain.read(tokens, [INTO, OUT])
    with one.spliced(plain):
        made = plain.read(tokens, OUT)[OUT]
    torch.testing.assert_close(made, one.reconstruct(seen[INTO]))
    with one.spliced(plain, error=True):
        same = plain.logits(tokens)
    torch.testing.assert_close(same, plain.logits(tokens))


def test_what_reads_features_alone_takes_a_transcoder(plain, corpus):
    one = transcoder(skip=True)
    found = sae.examples(one, plain, corpus, [3], n=2).table()
    assert len(found) > 0
    # its direct path begins where it writes
    effects = sae.logit_effects(one, plain, [3], n=2)
    other = replace(one, site=OUT, target=None, skip=None)
    assert effects.equals(sae.logit_effects(other, plain, [3], n=2))
    card = sae.card(one, 3, plain, corpus, n=2)
    assert card.effects is not None
    assert int(one.measured([some_activations()]).statistics.n_token) == 200


def refusing(one, other, model, corpus):
    """Calls that need an autoencoder, with the names of what refuses."""
    both = {INTO: one, OUT: other}
    tokens = torch.tensor([1, 5, 9, 4, 2])
    reader = analysis.Reader(normal(16, seed=0))
    return {
        "Dictionary.basis": lambda: one.basis(),
        "Dictionary.error": lambda: one.error(some_activations()),
        "known_site": lambda: one.known_site("known_site"),
        "dictionaries": lambda: check_dictionaries(model, both),
        "Reader.of": lambda: analysis.Reader.of(one, 1),
        "ledger": lambda: analysis.ledger(model, 0, one, reader, tokens, 2),
        "rank_curve": lambda: analysis.rank_curve(model, one, corpus=corpus),
        "propose_circuits": lambda: analysis.propose_circuits(model, both, 0),
        "transcoder_table": lambda: transcoder_table(one, one, other, model, corpus),
    }


NEEDS = [*refusing(None, None, None, None)]


@pytest.mark.parametrize("call", NEEDS)
def test_what_needs_an_autoencoder_refuses_a_transcoder_in_one_sentence(
    call,
    plain,
    corpus,
):
    with pytest.raises(CircuitsError, match="transcoder") as refused:
        refusing(transcoder(), tied(site=OUT), plain, corpus)[call]()
    assert "\n" not in str(refused.value)


def test_a_table_of_dictionaries_that_are_not_of_one_mlp_is_refused(plain, corpus):
    one, (inputs, outputs) = transcoder(), pair()
    stream = transcoder(site=Site("resid_pre", 0))
    for given in ((stream, inputs, outputs), (one, outputs, inputs), (inputs, inputs, outputs)):
        with pytest.raises(DictionaryError, match="the bilinear layer is between mlp_in@0 and"):
            transcoder_table(*given, plain, corpus)
