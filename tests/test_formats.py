"""Dictionaries on disk: four layouts give the same features, and what cannot be is refused."""

from functools import partial

import pytest
import torch

from circuits.model import Site
from sae import load_dictionaries, load_dictionary
from tests.small_dictionaries import small_dictionary, some_activations, threshold_dictionary

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
