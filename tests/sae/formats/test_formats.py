"""Dictionaries on disk: four layouts give the same features or refuse with the reason."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from circuits.errors import CircuitsError, DictionaryError, HubError, ModelError
from circuits.model import Site
from sae import load_dictionaries, load_dictionary
from sae.formats.checks import site_of
from sae.formats.folders import LAYOUTS
from tests.support.small import normal
from tests.support.small_dictionaries import (
    N_FEATURE,
    small_dictionary,
    some_activations,
    threshold_dictionary,
)
from tests.support.small_models import published_folder

KINDS = {
    "topk": small_dictionary,
    "batchtopk": threshold_dictionary,
    "float64": partial(small_dictionary, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_sae_lens_loads_what_is_saved_and_gives_equal_bits(kind, tmp_path):
    from sae_lens import SAE

    dictionary, x = KINDS[kind](), some_activations().reshape(2, 100, -1)
    theirs = SAE.load_from_disk(dictionary.save(tmp_path / "saved"))
    features = dictionary.encode(x)
    for sae in (theirs, dictionary.sae_lens):
        assert torch.equal(sae.encode(x), features)
        assert torch.equal(sae.decode(features), dictionary.decode(features))
        assert sae.cfg.metadata.hook_name == "blocks.0.mlp.hook_in"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_dictionary_comes_back_with_all_it_had(kind, tmp_path):
    dictionary, x = KINDS[kind](notes={"seed": 3, "trained_on": "stories"}), some_activations()
    dictionary = dictionary.measured([x])
    again = load_dictionary(dictionary.save(tmp_path / "saved"), device="cpu")
    assert torch.equal(again.encode(x), dictionary.encode(x))
    assert again.site == dictionary.site
    assert again.notes == dictionary.notes
    assert again.statistics.table().equals(dictionary.statistics.table())


def test_a_run_gives_its_dictionaries_by_site_in_the_models_order(tmp_path):
    sites = [Site("mlp_out", 1), Site("mlp_in", 1), Site("resid_post", 0)]
    for seed, site in enumerate(sites):
        small_dictionary(seed, site=site).save(tmp_path / "saes" / site.hook_name)
    for folder in (tmp_path, tmp_path / "saes"):
        found = load_dictionaries(folder, device="cpu")
        assert list(found) == [sites[2], sites[1], sites[0]]
        assert torch.equal(found[sites[0]].decoder, small_dictionary(0).decoder)


def test_a_site_s_text_finds_its_dictionary_and_a_wrong_one_is_refused_with_those_there(tmp_path):
    site = Site("mlp_out", 1)
    small_dictionary(site=site).save(tmp_path / "saes" / site.hook_name)
    found = load_dictionaries(tmp_path, device="cpu")
    assert found["mlp_out@1"] is found["blocks.1.hook_mlp_out"] is found[site]
    assert "mlp_out@1" in found
    assert "mlp_in@1" not in found
    assert "anything" not in found
    assert found.get("mlp_out@1") is found[site]
    assert found.get("mlp_in@1") is None
    for wrong in ("mlp_in@1", "mlp@1", Site("mlp_in", 1), 3):
        with pytest.raises(KeyError) as refused:
            _ = found[wrong]
        said = str(refused.value)
        assert said == f"'{wrong}' is not among the sites here. There are: mlp_out@1."
        assert isinstance(refused.value, CircuitsError)


def signed(**fields):
    return small_dictionary(**{"relu": False, "bias": torch.full((N_FEATURE,), -9.0), **fields})


def one_threshold(**fields):
    threshold = torch.full((N_FEATURE,), 3.0)
    return small_dictionary(k=None, threshold=threshold, notes={"k": 7, "lm_name": "x"}, **fields)


SAVED = {
    ("sae-lens", "topk"): small_dictionary,
    ("sae-lens", "thresholds"): threshold_dictionary,
    ("sae-lens", "signed"): signed,
    ("sae-lens", "signed thresholds"): partial(threshold_dictionary, level=-9.0, relu=False),
    ("published", "signed"): signed,
    ("published", "no bias"): partial(signed, bias=torch.zeros(N_FEATURE), notes={"tag": "v2"}),
    ("sparsify", "topk"): partial(small_dictionary, site=Site("mlp_out", 1)),
    ("dictionary_learning", "topk"): partial(small_dictionary, site=Site("resid_post", 4)),
    ("dictionary_learning", "one threshold"): one_threshold,
}
NAMED = {"sparsify": "layers.1.mlp"}  # a layout in which the folder's name is the site


@pytest.mark.parametrize(("layout", "kind"), SAVED)
def test_each_layout_gives_back_the_same_features(layout, kind, tmp_path):
    dictionary, x = SAVED[layout, kind](), some_activations()
    saved = dictionary.save(tmp_path / NAMED.get(layout, "saved"), layout)
    again = load_dictionary(saved, device="cpu")
    assert torch.equal(again.encode(x), dictionary.encode(x))
    assert torch.equal(again.reconstruct(x), dictionary.reconstruct(x))
    assert again.site == dictionary.site
    twice = again.save(tmp_path / "again" / saved.name, layout)
    for file in saved.iterdir():
        if file.suffix != ".pt":
            assert (twice / file.name).read_bytes() == file.read_bytes()


def test_features_are_those_of_each_layouts_own_description(tmp_path):
    x = some_activations(dtype=torch.float64)

    def weights(dictionary, layout, name):
        folder = dictionary.save(tmp_path / layout, layout)
        return {key: w.double() for key, w in load_file(folder / name).items()}

    def top(scores, k=5):
        kept = scores.topk(k)
        return torch.zeros_like(scores).scatter(1, kept.indices, kept.values)

    dictionary = signed()
    w = weights(dictionary, "published", "model.safetensors")
    features = top((x - w["b_dec"]) @ w["w_enc.weight"].mT + w["w_enc.bias"])
    assert bool((features < 0).any())
    wanted = features @ w["w_dec.weight"].mT + w["b_dec"]
    torch.testing.assert_close(dictionary.reconstruct(x).double(), wanted, rtol=1e-4, atol=1e-4)

    dictionary = small_dictionary()
    w = weights(dictionary, "sparsify", "sae.safetensors")
    features = top(((x - w["b_dec"]) @ w["encoder.weight"].mT + w["encoder.bias"]).relu())
    wanted = features @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(dictionary.reconstruct(x).double(), wanted, rtol=1e-4, atol=1e-4)

    dictionary = one_threshold()
    w = weights(dictionary, "dictionary_learning", "ae.safetensors")
    scores = ((x - w["b_dec"]) @ w["encoder.weight"].mT + w["encoder.bias"]).relu()
    wanted = (scores * (scores > w["threshold"])) @ w["decoder.weight"].mT + w["b_dec"]
    torch.testing.assert_close(dictionary.reconstruct(x).double(), wanted, rtol=1e-4, atol=1e-4)


def test_plain_sae_lens_refuses_a_signed_dictionary_rather_than_cut_it(tmp_path):
    from sae_lens import SAE

    folder = signed().save(tmp_path / "saved")
    with pytest.raises(KeyError, match="signed_topk"):
        SAE.load_from_disk(folder)
    with pytest.raises(DictionaryError, match="keeps negative values, which sae-lens would cut"):
        _ = signed().sae_lens


def their_sae(kind, **fields):
    """sae-lens' own object, with every part drawn at random."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = get_sae_class(kind)
    metadata = SAEMetadata(hook_name="blocks.3.hook_resid_post", model_name="theirs")
    sae = sae_class(config_class(d_in=16, d_sae=48, metadata=metadata, **fields))
    return with_random_weights(sae)


def with_random_weights(sae):
    with torch.no_grad():
        for seed, weight in enumerate(sae.parameters()):
            weight.copy_(normal(*weight.shape, seed=seed, dtype=torch.float32))
    return sae


THEIRS = {
    "topk": {"k": 6},
    "topk by decoder norms": {"k": 6, "rescale_acts_by_decoder_norm": True},
    "topk not centred": {"k": 6, "apply_b_dec_to_input": False},
    "jumprelu": {},
    "jumprelu not centred": {"apply_b_dec_to_input": False},
    "standard": {},
}


@pytest.mark.parametrize("kind", THEIRS)
def test_what_sae_lens_saves_is_read_with_the_same_features(kind, tmp_path):
    sae = their_sae(kind.split()[0], **THEIRS[kind])
    sae.save_model(tmp_path)
    dictionary, x = load_dictionary(tmp_path, device="cpu"), some_activations()
    assert dictionary.site == Site("resid_post", 3)
    assert dictionary.notes == {"model_name": "theirs"}
    features = sae.encode(x).detach()
    torch.testing.assert_close(dictionary.encode(x), features, rtol=1e-5, atol=1e-4)
    decoded = sae.decode(features).detach()
    torch.testing.assert_close(dictionary.reconstruct(x), decoded, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_training_checkpoint_of_sae_lens_is_read_as_what_it_becomes(kind, tmp_path):
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(kind)
    scaled = {"normalize_activations": "expected_average_only_in"}
    sae = with_random_weights(sae_class(config_class(d_in=16, d_sae=48, k=5, **scaled)))
    if kind == "batchtopk":
        sae.topk_threshold.fill_(11.0)
    (tmp_path / "checkpoint").mkdir()
    sae.save_model(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "activation_scaler.json").write_text('{"scaling_factor": 0.6}')
    sae.fold_activation_norm_scaling_factor(0.6)
    sae.save_inference_model(tmp_path / "trained")
    trained = SAE.load_from_disk(tmp_path / "trained")
    x = some_activations()
    for folder in ("checkpoint", "trained"):
        dictionary = load_dictionary(tmp_path / folder, device="cpu")
        wanted = trained.encode(x).detach()
        assert bool((wanted > 0).any())
        torch.testing.assert_close(dictionary.encode(x), wanted, rtol=1e-4, atol=1e-3)


def test_a_folder_from_before_sae_lens_6_is_read_as_sae_lens_reads_it(tmp_path):
    from sae_lens import SAE

    small_dictionary().save(tmp_path / "new")
    old = {
        **{"d_in": 16, "d_sae": 48, "dtype": "float32", "device": "cpu", "hook_layer": 0},
        **{"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}},
        **{"hook_point": "blocks.0.hook_resid_pre", "normalize_activations": False},
        **{"finetuning_scaling_factor": False, "model_name": "old", "prepend_bos": True},
    }
    (tmp_path / "new" / "cfg.json").write_text(json.dumps(old))
    dictionary, x = load_dictionary(tmp_path / "new", device="cpu"), some_activations()
    assert dictionary.site == Site("resid_pre", 0)
    theirs = SAE.load_from_disk(tmp_path / "new")
    assert torch.equal(dictionary.encode(x), theirs.encode(x))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.2.mlp.hook_in", Site("mlp_in", 2)),
        ("blocks.2.hook_mlp_out", Site("mlp_out", 2)),
        ("model.layers.1.mlp", Site("mlp_out", 1)),
        ("layers.7", Site("resid_post", 7)),
        ("layers.3.self_attn", Site("attn_out", 3)),
        ("blocks.2.ln2.hook_normalized", None),  # before the norm's weight, which mlp_in is after
        ("transformer.h.3", None),
        (None, None),
    ],
)
def test_a_hook_is_a_site_only_where_it_is_the_same_activation(name, site):
    assert site_of(name) == site


def test_an_unknown_hook_name_is_kept_and_the_site_can_be_given(tmp_path):
    dictionary = small_dictionary(site=None, notes={"hook_name": "transformer.h.3"})
    folder = dictionary.save(tmp_path / "saved")
    again = load_dictionary(folder, device="cpu")
    assert again.notes == {"hook_name": "transformer.h.3"}
    with pytest.raises(ModelError, match=r"unknown, and its hook 'transformer.h.3' is not one of"):
        again.known_site("examples")
    assert load_dictionary(folder, site="attn_out@3", device="cpu").site == Site("attn_out", 3)


def refusal(folder):
    """What loading this folder says."""
    with pytest.raises(DictionaryError) as refused:
        load_dictionary(folder)
    return str(refused.value)


def test_no_pickle_is_opened(tmp_path, monkeypatch):
    folder = small_dictionary(site=None).save(tmp_path / "ae", "dictionary_learning")

    def opened(*_args, **_fields):
        raise AssertionError("a pickle was opened")

    for where in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(where, opened)
    assert load_dictionary(folder, device="cpu").k == 5
    (folder / "ae.safetensors").unlink()
    assert refusal(folder) == (
        f"{folder}: has ae.pt but no ae.safetensors. ae.pt is a pickle, and opening one can run "
        f"any code, so it is not opened. If you trust it, write the other file beside it: "
        f"state = torch.load('ae.pt', weights_only=True, map_location='cpu'); "
        f"safetensors.torch.save_file({{n: t.contiguous() for n, t in state.items()}}, "
        f"'ae.safetensors')"
    )


def test_the_export_that_is_advised_works(tmp_path):
    from safetensors.torch import save_file

    folder = small_dictionary(site=None).save(tmp_path / "ae", "dictionary_learning")
    (folder / "ae.safetensors").unlink()
    state = torch.load(folder / "ae.pt", weights_only=True, map_location="cpu")
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "ae.safetensors")
    again = load_dictionary(folder, device="cpu")
    assert torch.equal(again.decoder, small_dictionary().decoder)


def test_a_name_on_the_hub_is_fetched_folder_by_folder(tmp_path, monkeypatch):
    asked = {}

    def fetch(name, **fields):
        asked.update(name=name, **fields)
        return str(tmp_path)

    monkeypatch.setattr("circuits.storage.hub.hub_revision", lambda _name, _kind: "abc")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    small_dictionary().save(tmp_path / "deep" / "folder")
    found = load_dictionary("hub:owner/scope/deep/folder", device="cpu")
    assert found.site == Site("mlp_in", 0)
    assert (asked["name"], asked["revision"]) == ("owner/scope", "abc")
    assert "deep/folder/*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith((".pt", ".bin", ".py")) for pattern in asked["allow_patterns"])
    with pytest.raises(HubError, match="'owner/scope' on the hub has no folder 'other'"):
        load_dictionary("hub:owner/scope/other")


def test_a_mistyped_path_below_a_folder_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        DictionaryError, match=r"runs/stories/saes: no such folder\. .* write hub:runs"
    ):
        load_dictionary("runs/stories/saes")


def edited(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def without(folder, name, field):
    path = folder / name
    config = json.loads(path.read_text())
    del config[field]
    path.write_text(json.dumps(config))


BAD_FIELDS = {
    "sae-lens": (
        "cfg.json",
        {
            "architecture": ("gated", "architecture is 'gated', not one of topk, batchtopk"),
            "normalize_activations": ("layer_norm", "it depends on each token"),
            "d_in": ("16", "d_in is '16', not a positive whole number"),
            "d_sae": (47, "W_enc has shape (16, 48), where cfg.json asks for (16, 47)"),
            "k": (99, "k is 99, but there are only 48 features"),
            "reshape_activations": ("hook_z", "reshape_activations is 'hook_z'"),
            "dropout": (0.1, "unknown field 'dropout'"),
            "metadata": ([], "metadata is not an object"),
        },
    ),
    "published": (
        "config.json",
        {
            "bilinear_encoder": (True, "features are then not linear in the site"),
            "target": (["mlp-out", 0], "it transcodes between two sites"),
            "expansion": (
                4,
                "w_enc.weight has shape (48, 16), where config.json asks for (64, 16)",
            ),
            "encoder_bias": (False, "holds the unknown w_enc.bias"),
            "gate": (True, "unknown field 'gate'"),
            "k": (49, "k is 49, but there are only 48 features"),
        },
    ),
    "sparsify": (
        "cfg.json",
        {
            "signed": (True, "it selects by absolute value, a Dictionary by value"),
            "activation": ("groupmax", "activation is 'groupmax', not 'topk'"),
            "transcode": (True, "its output is not decoded from features"),
            "num_latents": (50, "encoder.weight has shape (48, 16), where cfg.json asks for"),
        },
    ),
    "dictionary_learning": (
        "config.json",
        {
            "trainer": ({"dict_class": "GatedAutoEncoder"}, "dict_class is 'GatedAutoEncoder'"),
            "buffer": ({}, None),
        },
    ),
}
SIGNED = {"published": signed}


@pytest.mark.parametrize(
    ("layout", "field"),
    [(name, field) for name, (_, fields) in BAD_FIELDS.items() for field in fields],
)
def test_what_cannot_be_read_exactly_is_refused_with_its_file_and_field(layout, field, tmp_path):
    config, fields = BAD_FIELDS[layout]
    value, said = fields[field]
    folder = SIGNED.get(layout, small_dictionary)().save(tmp_path / "saved", layout)
    edited(folder, config, **{field: value})
    if said is None:
        assert load_dictionary(folder, device="cpu").k == 5
        return
    message = refusal(folder)
    assert said in message
    assert str(folder) in message


def test_a_missing_scale_is_named(tmp_path):
    folder = small_dictionary().save(tmp_path / "saved")
    edited(folder, "cfg.json", normalize_activations="expected_average_only_in")
    with pytest.raises(DictionaryError, match=r"activation_scaler.json, is missing. Copy that"):
        load_dictionary(folder)


WEIGHTS = {layout: entry.weights for layout, entry in LAYOUTS.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_file_cut_short_is_refused_by_name(layout, tmp_path):
    folder = SIGNED.get(layout, small_dictionary)().save(tmp_path / "saved", layout)
    file = folder / WEIGHTS[layout]
    file.write_bytes(file.read_bytes()[:-100])
    if layout == "sae-lens":
        without(folder, "cfg.json", "weights_sha256")  # which would be noticed first
    with pytest.raises(DictionaryError, match=r"not a readable safetensors file") as refused:
        load_dictionary(folder)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_that_are_not_numbers_are_refused_by_name(layout, tmp_path):
    from safetensors.torch import save_file

    folder = SIGNED.get(layout, small_dictionary)().save(tmp_path / "saved", layout)
    file = folder / WEIGHTS[layout]
    save_file({**load_file(file), "b_dec": torch.full((16,), torch.nan)}, file)
    if layout == "sae-lens":
        without(folder, "cfg.json", "weights_sha256")
    with pytest.raises(DictionaryError, match=r"b_dec holds NaN or infinity") as refused:
        load_dictionary(folder)
    assert str(file) in str(refused.value)


def test_weights_swapped_between_dictionaries_of_one_size_are_noticed(tmp_path):
    first, second = (small_dictionary(seed).save(tmp_path / str(seed)) for seed in (0, 1))
    file = second / "sae_weights.safetensors"
    file.write_bytes((first / "sae_weights.safetensors").read_bytes())
    assert refusal(second) == (
        f"{file}: not the weights that cfg.json was written with (their SHA-256 differs), so they "
        f"belong to another dictionary or are damaged. Copy both files together; if you changed "
        f"the weights, remove 'weights_sha256' from cfg.json."
    )


def test_what_sae_lens_saves_again_is_not_taken_for_swapped(tmp_path):
    from sae_lens import SAE

    theirs = SAE.load_from_disk(small_dictionary().save(tmp_path / "first"))
    theirs.W_dec.data *= 2
    theirs.save_model(tmp_path / "second")
    again = load_dictionary(tmp_path / "second", device="cpu")
    assert torch.equal(again.decoder, 2 * small_dictionary().decoder)


def test_statistics_of_another_dictionary_are_refused(tmp_path):
    x = some_activations()
    folder = small_dictionary().measured([x]).save(tmp_path / "first")
    other = small_dictionary(n_feature=40).measured([x]).save(tmp_path / "second")
    file = folder / "stats.safetensors"
    file.write_bytes((other / "stats.safetensors").read_bytes())
    with pytest.raises(DictionaryError, match=r"shape \(40,\), where dictionary beside it asks"):
        load_dictionary(folder)


CANNOT = {
    ("published", "cuts"): (small_dictionary, "negative values are cut at zero, and this layout"),
    ("published", "size"): (
        partial(small_dictionary, n_feature=40, relu=False),
        "its 40 features are not a multiple of its width",
    ),
    ("sparsify", "signed"): (signed, "it keeps negative values, and this layout cuts them"),
    ("sparsify", "thresholds"): (threshold_dictionary, "this layout has only top-k"),
    ("dictionary_learning", "thresholds"): (
        threshold_dictionary,
        "its features have different thresholds, and this layout has only one",
    ),
}


@pytest.mark.parametrize(("layout", "kind"), CANNOT)
def test_what_a_layout_cannot_represent_is_not_written(layout, kind, tmp_path):
    make, said = CANNOT[layout, kind]
    with pytest.raises(DictionaryError) as refused:
        make().save(tmp_path / "saved", layout)
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path):
    folder = small_dictionary().save(tmp_path / "saved")
    with pytest.raises(DictionaryError, match=r"saved: already exists. Name a new folder"):
        small_dictionary(1).save(folder)
    with pytest.raises(DictionaryError, match=r"notes cannot be written as JSON \(Object of type"):
        small_dictionary(notes={"from": folder}).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(
        DictionaryError, match=r"no format 'onnx'. Choose one of sae-lens, published"
    ):
        small_dictionary().save(tmp_path / "other", "onnx")


def test_a_save_that_breaks_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_args):
        raise OSError("No space left on device")

    dictionary = small_dictionary().measured([some_activations()])
    monkeypatch.setattr("sae.statistics.save_file", broken)
    with pytest.raises(OSError, match="No space left"):
        dictionary.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_dictionary_is_refused_with_its_files(tmp_path):
    (tmp_path / "sae.safetensors").touch()
    with pytest.raises(DictionaryError, match=r"known layout \(it holds sae.safetensors\)"):
        load_dictionary(tmp_path)
    with pytest.raises(DictionaryError, match=r"a file: pass the folder it is in"):
        load_dictionary(tmp_path / "sae.safetensors")
    with pytest.raises(DictionaryError, match=r"a language model, not a dictionary. Load it with"):
        load_dictionary(published_folder(tmp_path / "model"))
    small_dictionary().save(tmp_path / "run" / "saes" / "blocks.0.mlp.hook_in")
    with pytest.raises(
        DictionaryError, match=r"run: a run folder. Pass one of its saes, or pass it"
    ):
        load_dictionary(tmp_path / "run")


def test_a_run_without_dictionaries_or_with_swapped_folders_is_refused(tmp_path):
    with pytest.raises(DictionaryError, match=r"no dictionaries in it. They are in folders such"):
        load_dictionaries(tmp_path)
    with pytest.raises(DictionaryError, match=r"nowhere: no such folder"):
        load_dictionaries(tmp_path / "nowhere")
    small_dictionary().save(tmp_path / "saes" / "blocks.1.mlp.hook_in")
    with pytest.raises(DictionaryError) as refused:
        load_dictionaries(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/saes/blocks.1.mlp.hook_in: holds a dictionary of mlp_in@0, whose folder is "
        f"blocks.0.mlp.hook_in. The folders were swapped or renamed; rename them back."
    )
    (tmp_path / "saes" / "blocks.1.mlp.hook_in" / "cfg.json").write_text("{")
    with pytest.raises(DictionaryError, match=r"cfg.json: not readable JSON"):
        load_dictionaries(tmp_path)
