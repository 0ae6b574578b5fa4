"""Decompositions of an image model: components, neurons, trees, masks, dictionaries."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.studies.images.components import component_truncation, shared_neurons
from analysis.studies.images.dictionaries import (
    DICTIONARY,
    agreement,
    pair_outputs,
    read_through,
    train_dictionary,
    train_on_pairs,
)
from analysis.studies.images.masks import mask_curve, masks
from analysis.studies.images.model import ImageModel, accuracy
from analysis.studies.images.spectra import ClassSpectra
from analysis.studies.images.tree import tree, tree_curve
from circuits import BilinearLayer
from circuits.errors import DictionaryError, FeatureRangeError, ImageError
from tests.support.small import dense_tensor, generator, normal, relative_error, small_layer
from tests.support.small_images import few, random_model

SMALL = replace(DICTIONARY, n_features=12, k=3, n_tokens=20_000, n_batch=128, n_buffer=1024)


@pytest.fixture(scope="module")
def dictionary(model, digits):
    return train_dictionary(model, digits.train, SMALL)


# components


@pytest.mark.parametrize("biases", ["", "left right down"])
def test_all_components_lose_nothing(biases):
    model, images = random_model(biases), few(200)
    table = component_truncation(model, images, [1, 6, 50])
    assert table["components"].tolist() == [1, 6]
    assert table["lost"].iloc[1] == 0


def test_components_keep_more_than_random_directions_do(model, digits):
    table = component_truncation(model, digits.test, [8])
    assert float(table["accuracy"][0]) > float(table["control"][0]) + 0.1


def test_a_layer_of_few_neurons_is_recovered():
    layer = small_layer(7, 3, d_out=4)
    found = shared_neurons(layer, 3)
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.start < 0.99
    x = normal(5, 7, seed=3)
    assert relative_error(found.layer(x), layer(x)) < 1e-2


def test_more_neurons_than_eigenvectors_are_possible():
    two = torch.eye(6, dtype=torch.float64)[:2]
    layer = BilinearLayer(two, two, torch.ones(1, 2, dtype=torch.float64))
    found = shared_neurons(layer, 5)
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.layer.d_hidden == 5


@pytest.mark.parametrize("biases", ["", "left right"])
def test_the_reported_similarity_is_the_cosine_of_the_dense_tensors(biases):
    layer = small_layer(6, 12, d_out=5, biases=biases)
    found = shared_neurons(layer, 4, n_step=20)
    first, second = dense_tensor(layer).flatten(), dense_tensor(found.layer).flatten()
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    assert found.similarity == pytest.approx(cosine, abs=1e-6)
    assert found.start < found.similarity < 1


# trees


@pytest.mark.parametrize("biases", ["", "left right down"])
@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_a_whole_tree_is_the_model(biases, n_layer):
    model = random_model(biases, n_layer)
    pixels = few().pixels
    for label in range(model.n_class):
        grown = tree(model, label, [99] * n_layer)
        assert relative_error(grown(pixels), model(pixels)[:, label]) < 1e-9


def test_a_truncated_tree_lists_what_it_keeps():
    model = random_model("left right", 2)
    cut = tree(model, 1, [3, 2])
    assert cut.n_leaf == 6
    table = cut.table()
    assert table["path"].tolist() == ["0", "0.0", "0.1", "1", "1.0", "1.1", "2", "2.0", "2.1"]
    assert table["depth"].tolist() == [0, 1, 1] * 3
    whole = tree(model, 1, [99, 99])
    assert table[table["depth"] == 0]["value"].tolist() == pytest.approx(
        whole.spectrum.values[:3].tolist()
    )


def test_the_curve_of_cuts_is_that_of_the_trees():
    model, images = random_model("", 2), few(60)
    curve = tree_curve(model, images, [(1, 1), (99, 99)])
    assert curve["lost"].iloc[1] == 0
    one = torch.stack([tree(model, c, (1, 1))(images.pixels) for c in range(4)], dim=1)
    assert curve["accuracy"].iloc[0] == accuracy(one, images)
    assert curve["leaves"].tolist() == [4, 4 * 6 * 6]


def test_a_tree_needs_a_number_for_each_layer():
    with pytest.raises(ImageError, match="1 numbers of eigenpairs for 2 layers"):
        tree(random_model("", 2), 0, [3])
    with pytest.raises(FeatureRangeError, match="kept = 0"):
        tree(random_model(), 0, [0])


# masks


def test_a_mask_excites_its_own_eigenvectors_and_no_other_class(model):
    spectra = ClassSpectra.of(model)
    found = masks(spectra, 2).flatten(1)
    assert torch.linalg.vector_norm(found, dim=1).tolist() == pytest.approx([1] * 10)
    for label, spectrum in enumerate(spectra.spectra):
        along = (found @ spectrum.vectors[spectrum.values > 0][:2].mT).abs()
        assert bool((along[label] > 1e-3).all())
        assert float(along[[c for c in range(10) if c != label]].max()) < 1e-10


def test_masks_fool_more_than_the_same_pixels_in_another_order(model, digits):
    curve = mask_curve(ClassSpectra.of(model), digits.test, [0.0, 3.0]).groupby("strength").mean()
    assert curve["fooled"][0.0] == curve["fooled_control"][0.0]
    assert curve["accuracy"][0.0] == pytest.approx(
        accuracy(model.logits(digits.test), digits.test), abs=0.01
    )
    assert curve["fooled"][3.0] > 2 * curve["fooled_control"][3.0]


def test_a_class_that_nothing_excites_has_no_mask():
    layer = BilinearLayer(torch.eye(4), -torch.eye(4), torch.ones(2, 4))
    model = ImageModel((layer,), torch.eye(2), 2, 2)
    with pytest.raises(ImageError, match="class 0 has no eigenvalue above zero"):
        masks(ClassSpectra.of(model))


# dictionaries


def test_pair_outputs_are_columns_of_the_dense_tensor():
    layer = small_layer(5, 7, biases="left right")
    drawn = pair_outputs(layer, 40, generator(0))
    i, j = torch.randint(6, (2, 40), generator=generator(0))
    torch.testing.assert_close(drawn, dense_tensor(layer)[:, i, j].mT)


def test_reading_by_the_pseudoinverse_recovers_more_than_random_directions(
    model, dictionary, digits
):
    table = read_through(model, dictionary, digits.test)
    assert table.loc["clean", "recovered"] == 1
    assert table.loc["clean", "accuracy"] == accuracy(model.logits(digits.test), digits.test)
    recovered = table["recovered"]
    assert recovered["pinv_live"] > recovered["encoder"]
    assert recovered["pinv_live"] > recovered["random"] + 0.1
    assert table.loc["pinv", "fvu"] <= table.loc["pinv_live", "fvu"] + 1e-9
    assert int(table["n_live"].iloc[0]) <= 12


def test_images_that_are_all_the_same_have_no_share_of_a_variance(model, dictionary, digits):
    same = replace(digits.test, pixels=digits.test.pixels[:1].expand(len(digits.test), -1))
    with pytest.raises(ImageError, match="the same for all"):
        read_through(model, dictionary, same)


def test_the_control_of_outputs_reads_by_as_many_of_the_layers_own(model, dictionary, digits):
    table = read_through(model, dictionary, digits.test, seed=4)
    x = model.before(digits.test.pixels, 1).double()
    chosen = torch.randperm(len(x), generator=generator(4))[: int(table["n_live"].iloc[0])]
    rows = x[chosen] - dictionary.offset
    read = (x - dictionary.offset) @ torch.linalg.pinv(rows) @ rows + dictionary.offset
    variance = (x - x.mean(0)).square().sum()
    wanted = float((read - x).square().sum() / variance)
    assert table.loc["outputs", "fvu"] == pytest.approx(wanted, rel=1e-4)
    assert table.loc["outputs", "fvu"] < table.loc["random", "fvu"]


def test_what_a_full_dictionary_reads_by_its_pseudoinverse_is_the_layer(model, dictionary, digits):
    wide = replace(dictionary, encoder=normal(32, 32).float(), decoder=normal(32, 32).float(),
                   bias=torch.zeros(32))  # fmt: skip
    table = read_through(model, wide, digits.test)
    assert table.loc["pinv", "fvu"] < 1e-6
    assert table.loc["pinv", "recovered"] == pytest.approx(1, abs=1e-4)


def test_agreement_is_of_each_live_feature_and_is_the_plain_correlation(model, dictionary, digits):
    x = model.before(digits.test.pixels, 1)
    table = agreement(model, dictionary, digits.test)
    live = dictionary.active(x).counts > 0
    assert table["feature"].tolist() == live.nonzero()[:, 0].tolist()
    assert table["n_active"].tolist() == (dictionary.encode(x)[:, live] != 0).sum(0).tolist()
    row = int(table["n_active"].argmax())
    feature = int(table["feature"][row])
    decoder = dictionary.decoder[live].double()
    read = ((x - dictionary.offset).double() @ torch.linalg.pinv(decoder))[:, row]
    on = dictionary.encode(x)[:, feature] != 0
    scores = dictionary.preactivations(x)[:, feature]
    wanted = np.corrcoef(read[on].numpy(), scores[on].numpy())[0, 1]
    assert table["active"][row] == pytest.approx(wanted, abs=1e-4)


def test_features_of_pairs_need_no_image_and_are_the_same_twice(model):
    plan = replace(SMALL, n_tokens=8_192, n_buffer=4096)
    first, second = (train_on_pairs(model.last, plan) for _ in range(2))
    assert torch.equal(first.decoder, second.decoder)
    assert first.d_model == model.last.d_out


def test_a_dictionary_of_another_layer_is_refused(model, dictionary, digits):
    other = ImageModel((small_layer(64, 9, dtype=torch.float32),), normal(10, 64).float(), 8, 8)
    for function in (read_through, agreement):
        with pytest.raises(DictionaryError, match=r"activations of 32.*last layer writes 64"):
            function(other, dictionary, digits.test)
