"""Transcoders on disk, as sae-lens and circuit-tracer have them, and what neither can hold."""

import json
import re
from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional

from circuits.errors import CircuitsError, DictionaryError
from circuits.model import Site
from sae import load_dictionaries, load_dictionary
from tests.support.small import normal
from tests.support.small_dictionaries import (
    small_dictionary,
    small_transcoder,
    some_activations,
    threshold_transcoder,
)

KINDS = {
    "top-k": small_transcoder,
    "top-k, signed": partial(small_transcoder, relu=False),
    "top-k with skip": partial(small_transcoder, skip=True),
    "thresholds": threshold_transcoder,
    "thresholds with skip": partial(threshold_transcoder, skip=True),
    "of another width": partial(threshold_transcoder, d_target=11, skip=True),
    "of the stream": partial(
        small_transcoder, site=Site("resid_pre", 2), target=Site("resid_post", 2)
    ),
}


def equal(one, other, x):
    """Whether two transcoders are the same in everything that computes."""
    return (
        torch.equal(one.encode(x), other.encode(x))
        and torch.equal(one.reconstruct(x), other.reconstruct(x))
        and (one.site, one.target, one.fingerprint) == (other.site, other.target, other.fingerprint)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_transcoder_comes_back_with_all_it_had(kind, tmp_path):
    transcoder, x = KINDS[kind](notes={"seed": 3}), some_activations()
    saved = transcoder.measured([x]).save(tmp_path / "saved")
    again = load_dictionary(saved, device="cpu")
    assert equal(again, transcoder, x)
    assert again.notes == {"seed": 3}
    assert again.statistics is not None
    twice = again.save(tmp_path / "again")
    assert (twice / "cfg.json").read_bytes() == (saved / "cfg.json").read_bytes()


@pytest.mark.parametrize("kind", ["thresholds", "thresholds with skip", "of another width"])
def test_plain_sae_lens_loads_one_with_thresholds_and_computes_the_same(kind, tmp_path):
    from sae_lens import SAE

    transcoder, x = KINDS[kind](), some_activations()
    theirs = SAE.load_from_disk(transcoder.save(tmp_path / "saved"))
    for sae in (theirs, transcoder.sae_lens):
        features = sae.encode(x).detach()
        assert bool((features > 0).any())
        torch.testing.assert_close(features, transcoder.encode(x), atol=1e-6, rtol=1e-6)
        decoded = sae.decode(features).detach()
        torch.testing.assert_close(decoded, transcoder.decode(features), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(sae(x).detach(), transcoder.reconstruct(x), atol=1e-5, rtol=1e-6)
        assert sae.cfg.metadata.hook_name_out == "blocks.0.hook_mlp_out"


def test_plain_sae_lens_refuses_a_top_k_transcoder_which_it_would_compute_wrongly(tmp_path):
    from sae_lens import SAE

    with pytest.raises(KeyError, match="topk_transcoder"):
        SAE.load_from_disk(small_transcoder().save(tmp_path / "saved"))
    with pytest.raises(DictionaryError, match="sae-lens has no top-k transcoder"):
        _ = small_transcoder().sae_lens


@pytest.mark.parametrize("start", ["", "jumprelu_"])
@pytest.mark.parametrize("skips", ["", "skip_"])
def test_what_sae_lens_saves_is_read_with_the_same_features(start, skips, tmp_path):
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = get_sae_class(f"{start}{skips}transcoder")
    hooks = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    config = config_class(
        d_in=16, d_sae=48, d_out=11, apply_b_dec_to_input=False,
        metadata=SAEMetadata(**hooks, model_name="theirs"),
    )  # fmt: skip
    sae = sae_class(config)
    with torch.no_grad():
        for seed, weight in enumerate(sae.parameters()):
            weight.copy_(normal(*weight.shape, seed=seed, dtype=torch.float32))
    sae.save_model(tmp_path)
    transcoder, x = load_dictionary(tmp_path, device="cpu"), some_activations()
    assert (transcoder.site, transcoder.target) == (Site("mlp_in", 3), Site("mlp_out", 3))
    assert transcoder.notes == {"model_name": "theirs"}
    torch.testing.assert_close(transcoder.encode(x), sae.encode(x).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(transcoder.reconstruct(x), sae(x).detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("apply_b_dec_to_input", True, "apply_b_dec_to_input is true, which a transcoder cannot"),
        ("rescale_acts_by_decoder_norm", True, "rescale_acts_by_decoder_norm is true"),
        ("normalize_activations", "expected_average_only_in", "cannot be multiplied into"),
        ("metadata", {"hook_name_out": "hook_x"}, "hook_name_out is 'hook_x', not one of our"),
        ("metadata", {}, "hook_name_out is None, not one of our sites"),
        ("d_out", 7, "W_dec has shape (48, 16), where cfg.json asks for (48, 7)"),
    ],
)
def test_a_folder_of_sae_lens_that_does_not_fit_is_refused(field, value, said, tmp_path):
    folder = small_transcoder().save(tmp_path / "saved")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(DictionaryError, match=re.escape(said)):
        load_dictionary(folder, device="cpu")


SETS = {
    "signed": partial(small_transcoder, relu=False),
    "signed with skip": partial(small_transcoder, relu=False, skip=True),
    "thresholds": threshold_transcoder,
    "thresholds with skip": partial(threshold_transcoder, skip=True),
}


def layer(kind, number, **fields):
    sites = {"site": Site("mlp_in", number), "target": Site("mlp_out", number)}
    return SETS[kind](10 * number, **{**sites, **fields})


@pytest.mark.parametrize("kind", SETS)
def test_a_set_of_circuit_tracers_comes_back_layer_by_layer(kind, tmp_path):
    folder, x = tmp_path / "set", some_activations()
    written = [layer(kind, number) for number in range(3)]
    for transcoder in written:
        transcoder.save(folder, "circuit_tracer")
    assert {file.name for file in folder.iterdir()} == {
        "config.yaml", *(f"layer_{number}.safetensors" for number in range(3)),
    }  # fmt: skip
    found = load_dictionaries(folder, device="cpu")
    assert list(found) == [each.site for each in written]
    assert all(equal(a, b, x) for a, b in zip(found.values(), written, strict=True))
    one = load_dictionary(folder / "layer_2.safetensors", device="cpu")
    assert equal(one, written[2], x)
    with pytest.raises(DictionaryError, match=r"a set of 3 transcoders. Pass the file of one"):
        load_dictionary(folder, device="cpu")


@pytest.mark.parametrize("kind", SETS)
def test_the_files_compute_what_circuit_tracer_makes_of_them(kind, tmp_path):
    """Its forward pass, written from what its modules do: F.linear, JumpReLU or top-k, W_skip.T."""
    transcoder, x = layer(kind, 0), some_activations()
    folder = transcoder.save(tmp_path / "set", "circuit_tracer")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model_kind"] == "transcoder_set"
    assert config["feature_input_hook"] == "mlp.hook_in"
    assert config["feature_output_hook"] == "hook_mlp_out"
    w = load_file(folder / "layer_0.safetensors")
    scores = functional.linear(x, w["W_enc"], w["b_enc"])
    if config["activation"] == "topk":
        places = scores.topk(config["k"]).indices
        features = scores * torch.zeros_like(scores).scatter(1, places, 1.0)
    else:
        features = scores * (scores > w["activation_function.threshold"])
    made = features @ w["W_dec"] + w["b_dec"]
    if "W_skip" in w:
        made = made + x @ w["W_skip"].mT
    torch.testing.assert_close(transcoder.encode(x), features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(transcoder.reconstruct(x), made, atol=1e-4, rtol=1e-5)


def test_a_published_relu_set_is_read(tmp_path):
    """As circuit-tracer's sets are: no field activation, and others of provenance."""
    (tmp_path / "config.yaml").write_text(
        "model_name: meta-llama/Llama-3.2-1B\nmodel_kind: transcoder_set\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\nscan: a-scan\n"
    )
    w = {name: normal(*shape, seed=i, dtype=torch.float32) for i, (name, shape) in enumerate(
        {"W_enc": (20, 16), "W_dec": (20, 16), "b_enc": (20,), "b_dec": (16,)}.items()
    )}  # fmt: skip
    save_file(w, tmp_path / "layer_0.safetensors")
    transcoder, x = load_dictionary(tmp_path, device="cpu"), some_activations()
    wanted = functional.relu(x @ w["W_enc"].mT + w["b_enc"])
    torch.testing.assert_close(transcoder.encode(x), wanted, atol=1e-5, rtol=1e-5)
    assert (transcoder.site, transcoder.target) == (Site("resid_mid", 0), Site("mlp_out", 0))
    assert transcoder.notes == {"model_name": "meta-llama/Llama-3.2-1B", "scan": "a-scan"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (small_transcoder, "its negative values are cut at zero, and this layout's top-k keeps"),
        (small_dictionary, "it is an autoencoder, and this layout holds transcoders"),
        (partial(threshold_transcoder, d_target=11), "it reads 16 dimensions and writes 11"),
        (
            partial(threshold_transcoder, threshold=torch.full((48,), -1.0), relu=False),
            "it keeps negative values above its thresholds",
        ),
    ],
)
def test_what_circuit_tracer_would_compute_otherwise_is_not_written(make, said, tmp_path):
    with pytest.raises(DictionaryError, match=said):
        make().save(tmp_path / "set", "circuit_tracer")
    assert not (tmp_path / "set").exists()


def test_a_set_takes_only_layers_of_its_own_kind_each_once(tmp_path):
    folder = layer("signed", 0).save(tmp_path / "set", "circuit_tracer")
    with pytest.raises(DictionaryError, match=r"layer_0.safetensors: already exists"):
        layer("signed", 0).save(folder, "circuit_tracer")
    with pytest.raises(DictionaryError, match=r"the layers there have another k, and a set has"):
        layer("signed", 1, k=4).save(folder, "circuit_tracer")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DictionaryError, match=r"already exists and is no set of transcoders"):
        layer("signed", 0).save(tmp_path / "other", "circuit_tracer")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_kind": "cross_layer_transcoder"}, "model_kind is 'cross_layer_transcoder', not"),
        ({"activation": "gelu"}, "activation is 'gelu', not relu, jumprelu or topk"),
        ({"feature_output_hook": "hook_x"}, "feature_output_hook hook_x is not one of our sites"),
        ({"k": 99}, "k is 99, but there are only 48 features"),
        ({"activation": "relu"}, None),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config, said, tmp_path):
    folder = layer("signed", 0).save(tmp_path / "set", "circuit_tracer")
    where = folder / "config.yaml"
    where.write_text(yaml.safe_dump({**yaml.safe_load(where.read_text()), **config}))
    if said is None:
        assert load_dictionary(folder, device="cpu").k is None
        return
    with pytest.raises(DictionaryError, match=said):
        load_dictionary(folder, device="cpu")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_a_configuration_that_is_none_is_refused(text, tmp_path):
    folder = layer("signed", 0).save(tmp_path / "set", "circuit_tracer")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(DictionaryError, match=r"config.yaml: (holds no fields|cannot be read)"):
        load_dictionary(folder, device="cpu")


@pytest.mark.parametrize("layout", ["published", "sparsify", "dictionary_learning"])
def test_layouts_of_autoencoders_refuse_a_transcoder(layout, tmp_path):
    relu = layout != "published"
    with pytest.raises(DictionaryError, match="is a transcoder to mlp_out@0, and this layout has"):
        small_transcoder(relu=relu).save(tmp_path / "saved", layout)


def test_what_a_transcoder_may_be_is_checked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first
    refused = {
        "target mlp_in@0 is not computed after site mlp_in@0": {"target": Site("mlp_in", 0)},
        "target mlp_out@1 is not computed after site mlp_in@0": {"target": Site("mlp_out", 1)},
        "skip is given without a target": {"target": None, "skip": torch.ones(16, 16)},
        "axis target must have one size": {"skip": torch.ones(7, 16)},
    }
    known = small_transcoder()
    for said, fields in refused.items():
        with pytest.raises(CircuitsError, match=said):
            replace(known, **fields)


def test_an_autoencoder_keeps_its_fingerprint_and_a_target_or_skip_changes_it():
    known = small_dictionary()
    assert known.fingerprint == replace(known, notes={"other": 1}).fingerprint
    one = small_transcoder()
    ends = [known, one, replace(one, target=Site("resid_post", 0)), small_transcoder(skip=True)]
    assert len({each.fingerprint for each in ends}) == 4
