"""The image case study: the pictures describe what the model computes."""

import gzip
import struct
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from analysis.studies.images.data import open_images
from analysis.studies.images.model import ImageModel, accuracy, load_image_model
from analysis.studies.images.png import decoded, encoded
from analysis.studies.images.spectra import (
    ClassSpectra,
    best_matches,
    explanation,
    form_similarity,
    rank_needed,
    roughness,
    truncation,
)
from analysis.studies.images.training import (
    ImagePlan,
    after_embedding,
    train_classifier,
    with_residual,
)
from circuits import BilinearLayer, Spectrum
from circuits.errors import HubError, ImageError, ModelError, PlanError
from tests.support.small import normal, relative_error, small_layer
from tests.support.small_images import QUICK, few, random_model


def test_a_model_classifies_digits_of_unseen_writers(model, digits):
    assert accuracy(model.logits(digits.test), digits.test) > 0.85
    guesses = digits.test.labels.roll(1)
    assert float((guesses == digits.test.labels).double().mean()) < 0.3


def test_training_twice_gives_the_same_bits(digits):
    plan = replace(QUICK, n_step=20, latent_noise=0.1)
    first, second = (train_classifier(digits.train, plan) for _ in range(2))
    other = train_classifier(digits.train, replace(plan, seed=1))
    assert torch.equal(first.last.left, second.last.left)
    assert torch.equal(first.head, second.head)
    assert not torch.equal(first.head, other.head)


@pytest.mark.parametrize("biases", ["", "left right down"])
def test_the_explanation_of_an_image_sums_to_its_logits(biases):
    model = random_model(biases)
    image = few().pixels[3]
    sums = explanation(ClassSpectra.of(model), image).groupby("class")["adds"].sum()
    assert relative_error(torch.tensor(sums.to_list(), dtype=torch.float64), model(image)) < 1e-10


def test_a_trained_models_explanations_sum_to_the_logits_to_a_hundred_thousandth(model, digits):
    spectra = ClassSpectra.of(model)
    for image in digits.test.pixels[:5]:
        sums = explanation(spectra, image).groupby("class")["adds"].sum()
        assert relative_error(torch.tensor(sums.to_list()), model(image)) < 1e-5


def test_pictures_are_unit_vectors_of_pixels_whatever_the_embedding():
    layer, embed = small_layer(6, 9), normal(6, 6, seed=3)
    first = ImageModel((after_embedding(layer, embed),), normal(4, 6, seed=40), 2, 3)
    wider = small_layer(6, 9)
    wider = replace(wider, left=wider.left / 2, right=wider.right / 2)
    second = ImageModel((after_embedding(wider, embed * 2),), first.head, 2, 3)
    for label in range(4):
        pictures = ClassSpectra.of(first).pictures(label).flatten(1)
        torch.testing.assert_close(pictures @ pictures.mT, torch.eye(6, dtype=torch.float64))
    values = [torch.stack([s.values for s in ClassSpectra.of(m).spectra]) for m in (first, second)]
    torch.testing.assert_close(*values)


def test_spectra_show_themselves_as_pictures_if_they_are_of_pixels():
    spectra = ClassSpectra.of(random_model())
    assert spectra._repr_png_() == encoded(spectra.sheet())
    assert ClassSpectra.of(random_model(n_layer=2))._repr_png_() is None


def test_a_residual_path_and_an_embedding_are_products_too():
    layer, x = small_layer(6, 9, biases="left right down"), normal(5, 6, seed=7)
    embed = normal(6, 4, seed=8)
    torch.testing.assert_close(with_residual(layer)(x), x + layer(x))
    pixels = normal(5, 4, seed=9)
    torch.testing.assert_close(after_embedding(layer, embed)(pixels), layer(pixels @ embed.mT))


@pytest.mark.parametrize("residual", [False, True])
def test_a_deep_model_with_everything_trains_and_is_made_of_its_layers(digits, residual):
    plan = ImagePlan(
        d_hidden=24, n_layer=2, d_embed=24, residual=residual, biases=True, n_step=180, n_batch=64,
        latent_noise=0.1, learning_rate=2e-3, weight_decay=0.1,
    )  # fmt: skip
    model = train_classifier(digits.train, plan)
    assert [layer.d_model for layer in model.layers] == [64, 24]
    assert accuracy(model.logits(digits.test), digits.test) > 0.6


def test_truncation_keeps_the_first_eigenpairs_and_all_lose_nothing(model, digits):
    spectra = ClassSpectra.of(model)
    curve = truncation(spectra, digits.test, [1, 3, 64, 100])
    assert curve["rank"].tolist() == [1, 3, 64]
    assert curve["lost"].iloc[-1] == 0
    kept = torch.stack(
        [s.truncate(3).activation(digits.test.pixels).sum(1) for s in spectra.spectra]
    )
    assert curve["accuracy"].iloc[1] == accuracy(kept.mT, digits.test)


def test_the_rank_needed_is_where_the_curve_stays_low():
    curve = truncation(ClassSpectra.of(random_model()), few(), [1, 2, 3])
    needed = [
        rank_needed(curve.assign(lost=lost)) for lost in ([0.0, 0.2, 0.0], [0.0] * 3, [0.1] * 3)
    ]
    assert needed == [3, 1, None]


def test_the_effective_rank_is_the_mean_over_classes():
    """Class 0 has the eigenvalues 3 and -1, for 4² / 10 = 1.6; class 1 has one, for 1."""
    down = torch.tensor([[3.0, -1.0, 0.0], [0.0, 0.0, 5.0]])
    model = ImageModel((BilinearLayer(torch.eye(3), torch.eye(3), down),), torch.eye(2), 1, 3)
    assert ClassSpectra.of(model).effective_rank == pytest.approx(1.3)


def test_signs_change_pictures_but_no_logit(model, digits):
    spectra = ClassSpectra.of(model)
    turned = spectra.with_sign(digits.train)
    for before, after in zip(spectra.spectra, turned.spectra, strict=True):
        torch.testing.assert_close(after.matrix(), before.matrix())
    top = turned[3].vectors[0]
    along = (digits.train.pixels.double() @ top).abs().topk(32).indices
    assert float((digits.train.pixels.double() @ top)[along].sum()) > 0


def test_form_similarity_is_the_cosine_of_the_dense_forms():
    first, second = random_model("left right"), random_model("left right", seed=9)
    a, b = first.class_forms().flatten(1), second.class_forms().flatten(1)
    dense = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    found = torch.tensor(form_similarity(first, second).to_numpy())
    torch.testing.assert_close(found, dense)


def test_the_same_model_matches_itself_and_the_control_does_not(model):
    spectra = ClassSpectra.of(model)
    found = best_matches(spectra, spectra, 3)
    assert found["cosine"].to_numpy() == pytest.approx(1)
    assert found["control"].mean() < 0.9


def test_noise_is_rough_and_a_broad_stroke_is_not():
    def of_pictures(pictures):
        values = torch.ones(1, dtype=torch.float64)
        model = ImageModel((small_layer(400, 2),), normal(1, 400), 20, 20)
        unit = pictures.reshape(1, -1) / pictures.norm()
        return roughness(ClassSpectra(model, (Spectrum(values, unit),)))

    assert of_pictures(normal(20, 20)) == pytest.approx(2, abs=0.3)
    stroke = torch.linspace(0, 3, 20, dtype=torch.float64).sin().expand(20, 20)
    assert of_pictures(stroke) < 0.05


def test_longer_decay_shrinks_initial_weights_more():
    assert ImagePlan(n_step=300).shrinking > 0.3
    assert ImagePlan(n_step=3000).shrinking < 0.02
    assert ImagePlan(weight_decay=0.0).shrinking == 1


@pytest.mark.parametrize("biases", ["", "left right down"])
def test_a_saved_model_comes_back_as_it_was(tmp_path, biases):
    model = random_model(biases, n_layer=2)
    model.save(tmp_path / "model.safetensors")
    back = load_image_model(tmp_path / "model.safetensors")
    assert torch.equal(back(few().pixels), model(few().pixels))


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "broken").write_bytes(b"nothing")
    for name in ("broken", "missing"):
        with pytest.raises(ModelError, match=f"{name}.*Train it again"):
            load_image_model(tmp_path / name)


# data


def arrays(n=8, size=(4, 3), seed=0):
    draws = np.random.default_rng(seed)
    x = [draws.integers(0, 256, (count, *size), dtype=np.uint8) for count in (n, 4)]
    y = [np.arange(count) % 4 for count in (n, 4)]
    names = ("x_train", "y_train", "x_test", "y_test")
    return dict(zip(names, (x[0], y[0], x[1], y[1]), strict=True))


def test_npz_and_idx_give_the_same_images(tmp_path):
    given = arrays()
    np.savez(tmp_path / "data.npz", **given)
    folder = tmp_path / "idx"
    folder.mkdir()
    names = [
        f"{part}-{what}-ubyte"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ]
    for name, array in zip(names, given.values(), strict=True):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        content = header + array.astype(np.uint8).tobytes()
        (folder / name).write_bytes(content)
    (folder / f"{names[0]}.gz").write_bytes(gzip.compress((folder / names[0]).read_bytes()))
    (folder / names[0]).unlink()
    first, second = open_images(tmp_path / "data.npz"), open_images(folder)
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert torch.equal(first.test.labels, second.test.labels)
    assert float(first.train.pixels.max()) <= 1
    assert (first.train.height, first.train.width) == (4, 3)


def bad(**changes):
    return {**arrays(), **changes}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (bad(x_train=np.zeros((8, 4, 3, 3), np.uint8)), r"\(8, 4, 3, 3\), 3 channels.*grey"),
        (bad(x_test=np.zeros((4, 5, 3), np.uint8)), r"size \(4, 3\), test images of size \(5, 3\)"),
        (bad(y_train=np.array([0, 1, 3, 0, 1, 3, 0, 1])), "no training image has class 2"),
        (bad(y_train=np.array([0, 1, 2, 3, 0, 1, 2, 2**40])), f"run to {2**40}, but no .* class 4"),
        (bad(y_train=np.zeros(8, int)), "from 0 to 0, so there is at most one class"),
        (bad(y_test=np.array([0, 1, 2, 4])), "from 0 to 3, but image 3 has 4"),
        (bad(y_train=np.array([-1, 1, 2, 3, 0, 1, 2, 3])), "image 0 has -1"),
        (bad(y_train=np.arange(7) % 4), "8 images with 7 labels"),
        (bad(y_train=np.zeros(8)), "not a list of class numbers"),
        (bad(x_train=np.full((8, 4, 3), "a")), "x_train is of type <U1"),
        (bad(x_train=np.full((8, 4, 3), np.nan)), "runs from nan to nan"),
        (bad(x_train=np.full((8, 4, 3), 300.0)), "runs from 300.0 to 300.0"),
        ({"x": np.zeros(3)}, "no x_train, y_train, x_test, y_test in it; it holds x"),
        (bad(x_train=np.array([object()] * 8)), "pickled ones are never opened"),
    ],
)  # fmt: skip
def test_bad_images_are_refused(tmp_path, given, message):
    np.savez(tmp_path / "data.npz", **given)
    with pytest.raises(ImageError, match=message):
        open_images(tmp_path / "data.npz")


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", **arrays())
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[60:300] = bytes(byte ^ 0x5A for byte in content[60:300])
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ImageError, match=r"not a readable \.npz \(Error -3"):
        open_images(tmp_path / "data.npz")


def test_places_without_images_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x09\x03")
    for name, message in (
        ("text.npz", "not a readable .npz"),
        ("one.npy", "not a readable .npz"),
        ("empty", "no train-images-…-ubyte"),
        ("idx", "not a readable IDX file"),
        ("nowhere", "no such file or folder"),
    ):
        with pytest.raises(ImageError, match=message):
            open_images(tmp_path / name)


def test_images_that_do_not_fit_the_model_are_refused(model, digits):
    with pytest.raises(ImageError, match="784 pixels were given to a model of 8 x 8"):
        model(torch.zeros(2, 784))
    with pytest.raises(ImageError, match="11 classes were given to a model of 10"):
        model.logits(replace(digits.test, n_class=11))
    with pytest.raises(ImageError, match="one model's last layer takes 64 numbers, the other's 7"):
        form_similarity(model, random_model("left"))
    spectra = [ClassSpectra.of(one) for one in (model, random_model())]
    with pytest.raises(ImageError, match="10 classes of 8 x 8 pixels and 4 classes of 2 x 3"):
        best_matches(*spectra)
    with pytest.raises(ImageError, match="last of 2 layers does not read pixels"):
        ClassSpectra.of(random_model(n_layer=2)).pictures(0)


def test_a_plan_that_contradicts_itself_is_refused():
    with pytest.raises(PlanError, match="d_hidden is 0, not a whole number of at least 1"):
        ImagePlan(d_hidden=0)
    with pytest.raises(PlanError, match="make them equal"):
        ImagePlan(residual=True)
    with pytest.raises(PlanError, match=r"weight_decay is inf.*; input_noise is -1\.0"):
        ImagePlan(input_noise=-1.0, weight_decay=float("inf"))


def test_a_part_of_the_images_has_equally_many_of_each_class(digits):
    part = digits.train.take(50)
    assert torch.bincount(part.labels).tolist() == [5] * 10
    assert not torch.equal(part.pixels, digits.train.take(50, seed=1).pixels)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_pictures_survive_a_png(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decoded(encoded(picture)), picture)


def predicted(picture, how, depth=8):
    """A row-by-row PNG whose rows are predicted in one way, straight from the format's text."""
    height, width = picture.shape
    old = np.zeros((height + 1, width + 1), int)
    old[1:, 1:] = picture
    a, b, c = old[1:, :-1], old[:-1, 1:], old[:-1, :-1]
    nearest = np.abs(np.stack([b - c, a - c, a + b - 2 * c])).argmin(0)
    guess = [0 * a, a, b, (a + b) // 2, np.choose(nearest, [a, b, c])][how]
    rows = np.concatenate([np.full((height, 1), how), (picture - guess) % 256], axis=1)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.astype(np.uint8).tobytes())))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in (*parts, (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        content += struct.pack(">I", len(body)) + name + body + check
    return content


@pytest.mark.parametrize("how", range(5))
def test_every_prediction_of_a_png_is_undone(how):
    picture = np.random.default_rng(1).integers(0, 256, (9, 6), dtype=np.uint8)
    assert np.array_equal(decoded(predicted(picture, how)), picture)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "not a PNG"),
        (encoded(np.zeros((3, 3), np.uint8))[:-20], "cut short or damaged"),
        (encoded(np.zeros((3, 3), np.uint8)).replace(b"\x08\x00", b"\x10\x00", 1), "damaged"),
        (predicted(np.zeros((3, 3), int), 0, depth=16), "16 bits, colour type 0"),
    ],
)
def test_an_unreadable_picture_is_refused(content, message):
    with pytest.raises(ImageError, match=message):
        decoded(content)


def hub_data(pictures, labels, label="label"):
    from datasets import Dataset

    rows = [{"bytes": encoded(picture), "path": None} for picture in pictures]
    return Dataset(pa.table({"image": rows, label: labels}))


def test_a_data_set_of_the_hub_is_its_pictures(monkeypatch):
    given = arrays()
    splits = {
        split: hub_data(given[f"x_{split}"], given[f"y_{split}"]) for split in ("train", "test")
    }
    monkeypatch.setattr("circuits.storage.hub.hub_revision", lambda name, kind: "abc")
    monkeypatch.setattr("datasets.load_dataset", lambda name, split, revision: splits[split])
    data = open_images("hub:owner/digits")
    wanted = torch.from_numpy(given["x_train"]).flatten(1).float() / 255
    assert torch.equal(data.train.pixels, wanted)
    assert data.test.labels.tolist() == given["y_test"].tolist()
    splits["train"] = hub_data(given["x_train"], given["y_train"], label="digit")
    with pytest.raises(ImageError, match="no column label; it has image, digit"):
        open_images("hub:owner/digits")
    splits["train"] = hub_data([np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint8)], [0, 1])
    with pytest.raises(ImageError, match="images of sizes"):
        open_images("hub:owner/digits")


def test_a_hub_that_does_not_answer_is_reported(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("circuits.storage.hub.HUB_SECONDS", 1.5)
    with pytest.raises(HubError, match="a dataset named 'owner/digits'"):
        open_images("hub:owner/digits")


def test_a_loss_that_diverges_is_reported(digits):
    with pytest.raises(ImageError, match="Lower the learning rate"):
        train_classifier(digits.train, replace(QUICK, learning_rate=1e30, weight_decay=0.0))
