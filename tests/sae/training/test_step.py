"""A training step's gradients are those of automatic differentiation, to the last digits."""

import pytest
import torch
from torch import Tensor

from sae.sparse import Code, strongest
from sae.training import step
from sae.training.step import Coder
from tests.support.small import generator, normal
from tests.support.small_training import clipped

KINDS = ("topk", "signed_topk", "batchtopk")


def small_coder(kind: str, dtype=torch.float64, **fields) -> tuple[Coder, Tensor]:
    x = normal(50, 12, seed=0, dtype=dtype) + 0.5
    coder = Coder.start(12, 40, generator(1), x.mean(0), k=5, activation=kind, **fields)
    coder.bias += 0.1 * normal(40, seed=2, dtype=dtype)
    coder.encoder += 0.1 * normal(40, 12, seed=3, dtype=dtype)
    return coder, x


def by_differentiation(coder: Coder, x: Tensor, dead: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss as it is written, and torch's gradients of it."""
    weights = [weight.clone().requires_grad_() for weight in coder.weights.values()]
    encoder, bias, decoder, offset = weights
    norms = decoder.norm(dim=1)
    scores = ((x - offset) @ encoder.mT + bias) * norms
    decoder = decoder / norms[:, None]
    if coder.activation == "batchtopk":
        least = scores.flatten().topk(coder.k * len(x)).values.min()
        features = torch.where((scores >= least) & (scores > 0), scores, 0)
    else:
        places = scores.topk(coder.k).indices
        features = torch.zeros_like(scores).scatter(1, places, scores.gather(1, places))
        features = features if coder.activation == "signed_topk" else features.relu()
    error = features @ decoder + offset - x
    loss = error.square().sum(1).mean()
    total = loss
    if len(dead):
        most = x.shape[1] // 2
        chosen = scores[:, dead]
        places = chosen.topk(min(most, len(dead))).indices
        chosen = torch.zeros_like(chosen).scatter(1, places, chosen.gather(1, places))
        left = chosen @ decoder[dead] + error.detach()
        weight = coder.auxiliary * min(len(dead) / most, 1)
        total = loss + weight * left.square().sum(1).mean()
    total.backward()
    return loss.detach(), [weight.grad for weight in weights]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_dead", [0, 4, 15])  # none; fewer, and more, than AuxK wants
@pytest.mark.parametrize("tile", [None, 40 * 7])  # all rows at once; seven at a time
def test_gradients_are_those_of_the_loss(kind, n_dead, tile):
    coder, x = small_coder(kind, auxiliary=0.5, dead_after=10, tile=tile)
    coder.tokens_since[20 : 20 + n_dead] = 11
    wanted_loss, wanted = by_differentiation(coder, x, coder.dead)
    measured = coder.step(x, 0.0)
    assert measured["n_dead"] == n_dead
    torch.testing.assert_close(measured["loss"], wanted_loss)
    for gradient, want in zip(coder.gradients, clipped(wanted), strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-12, rtol=1e-10)


def test_a_step_in_float32_is_exact_however_the_largest_are_found():
    """The screen may be in bfloat16; the values and gradients are not."""
    coder, x = small_coder("topk", torch.float32)
    _, wanted = by_differentiation(coder, x, coder.dead)
    coder.step(x, 0.0)
    for gradient, want in zip(coder.gradients, clipped(wanted), strict=True):
        torch.testing.assert_close(gradient, want, atol=2e-6, rtol=1e-4)


def test_a_screen_in_bfloat16_finds_what_float32_finds(monkeypatch):
    x = normal(512, 64, seed=0, dtype=torch.float32)
    coder = Coder.start(64, 2048, generator(1), x.mean(0), k=16)
    codes = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(step, "screen_dtype", lambda _, dtype=dtype: dtype)
        codes.append(coder.encode(x - coder.offset, coder.unit).dense())
    plain, screened = codes
    same = ((plain != 0) == (screened != 0)).all(1).float().mean()
    assert float(same) > 0.99
    both = (plain != 0) & (screened != 0)
    torch.testing.assert_close(plain[both], screened[both], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_steps_are_those_of_sae_lens(kind, monkeypatch):
    """Loss for loss and weight for weight, dead features, clipping and thresholds included."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    coder, x = small_coder(kind, auxiliary=0.7, dead_after=3 * 50)
    coder.bias[:6] = -9.0  # these are silent, and soon dead
    batches = [x + 0.3 * normal(50, 12, seed=9 + i) for i in range(12)]
    sae_class, config_class = get_sae_training_class(kind)
    sae = sae_class(config_class(d_in=12, d_sae=40, k=5, aux_loss_coefficient=0.7, dtype="float64"))
    with torch.no_grad():
        sae.W_enc.copy_(coder.encoder.mT)
        sae.W_dec.copy_(coder.decoder)
        sae.b_enc.copy_(coder.bias)
        sae.b_dec.copy_(coder.offset)
    how = {
        "n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False,
        "total_training_samples": 10**6, "device": "cpu", "autocast": False, "lr": 1e-2,
        "lr_end": 1e-2, "lr_scheduler_name": "constant", "lr_warm_up_steps": 0,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "lr_decay_steps": 0, "n_restart_cycles": 1,
        "train_batch_size_samples": 50, "dead_feature_window": 3,
        "feature_sampling_window": 2000, "logger": LoggingConfig(log_to_wandb=False),
    }  # fmt: skip
    trainer = SAETrainer(SAETrainerConfig(**how), sae, iter(batches))
    n_dead = 0
    for batch in batches:
        theirs = trainer.step(batch)
        ours = coder.step(batch, 1e-2)
        n_dead = max(n_dead, ours["n_dead"])
        torch.testing.assert_close(ours["loss"], theirs.losses["mse_loss"].detach())
    assert n_dead > 3
    pairs = {
        "encoder": sae.W_enc.mT, "bias": sae.b_enc, "decoder": sae.W_dec, "offset": sae.b_dec,
    }  # fmt: skip
    for name, weight in pairs.items():
        torch.testing.assert_close(coder.weights[name], weight.detach(), atol=1e-8, rtol=1e-6)
    if kind == "batchtopk":
        torch.testing.assert_close(coder.threshold, sae.topk_threshold.detach())


def test_the_saved_form_has_decoder_rows_of_length_one_and_reconstructs_the_same():
    coder, x = small_coder("topk")
    for _ in range(20):
        coder.step(x, 1e-2)
    unit = coder.unit
    torch.testing.assert_close(unit.decoder.norm(dim=1), torch.ones_like(unit.norms))
    assert float((unit.norms - 1).abs().max()) > 0.01
    centred = x - coder.offset
    scores = (centred @ coder.encoder.mT + coder.bias) * unit.norms
    code = coder.encode(centred, unit)
    torch.testing.assert_close(scores[code.rows, code.features].relu(), code.values)


def test_the_encoder_starts_at_the_length_that_reconstructs_best():
    coder, x = small_coder("signed_topk")
    coder.bias.zero_()

    def loss(length: float) -> float:
        centred = x - coder.offset
        scaled = length * coder.encode(centred, coder.unit).dense() @ coder.decoder
        return float((scaled - centred).square().sum())

    coder.fit_length(x)
    assert loss(1.0) < min(loss(0.98), loss(1.02))


def test_features_inactive_for_long_are_dead_until_they_fire_again():
    coder, x = small_coder("topk", dead_after=100, auxiliary=0.0)
    coder.bias[:3] = -1e3
    for _ in range(2):
        coder.step(x, 0.0)
    assert coder.dead.tolist() == []  # 100 tokens are not more than 100
    coder.step(x, 0.0)
    silent = coder.dead.tolist()
    assert silent[:3] == [0, 1, 2]
    coder.bias[0] = 1e3
    coder.step(x, 0.0)
    assert 0 not in coder.dead.tolist()


def test_dead_features_are_counted_without_an_auxiliary_loss_too():
    coder, x = small_coder("topk", auxiliary=0.0, dead_after=10)
    coder.tokens_since[20:24] = 11
    assert coder.step(x, 0.0)["n_dead"] == 4


def test_auxk_brings_dead_features_back():
    """Features that read unused directions learn what the others miss."""
    truth = torch.zeros(64, 16)
    truth[:, :8] = normal(64, 8, seed=0, dtype=torch.float32)
    places = torch.randint(0, 64, (4000, 3), generator=generator(1))
    x = truth[places].sum(1)
    dead = {}
    for auxiliary in (0.0, 1.0):
        coder = Coder.start(
            16, 64, generator(1), x.mean(0), k=3, auxiliary=auxiliary, dead_after=2000
        )
        coder.encoder[6:, :8] = coder.decoder[6:, :8] = 0
        coder.bias[6:] = -0.5
        for i in range(300):
            coder.step(x[i % 8 * 500 : (i % 8 + 1) * 500], 5e-3)
        dead[auxiliary] = len(coder.dead)
    assert dead[0.0] == 58
    assert dead[1.0] < 30


def test_batchtopk_keeps_k_a_token_on_average_and_its_threshold_follows():
    coder, x = small_coder("batchtopk")
    least = float(coder.encode(x - coder.offset, coder.unit).values.min())
    assert float(coder.threshold) == 0  # encoding does not change it
    for n_steps in (1, 10, 400):
        for _ in range(n_steps):
            assert float(coder.step(x, 0.0)["l0"]) == 5
    assert float(coder.settled_threshold(411)) == pytest.approx(least)
    assert float(coder.threshold) == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize("shape", [(7, 600, 5), (64, 513, 1), (33, 2048, 32), (5, 1000, 999)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ties", [False, True])
def test_the_strongest_are_those_of_torch(shape, dtype, ties):
    n_row, n, k = shape
    scores = normal(n_row, n, seed=n, dtype=torch.float32)
    scores = (scores.relu() * 2).round() if ties else scores
    scores = scores.to(dtype)
    values, places = strongest(scores, k)
    assert torch.equal(values.sort(1).values, scores.topk(k).values.sort(1).values)
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == k for row in places.tolist())


def test_values_equal_in_float32_are_selected_in_float64():
    scores = 1 + 1e-12 * normal(512, 600, seed=0)  # all of them are 1 in float32
    values, _ = strongest(scores, 20)
    assert torch.equal(values.sort(1).values, scores.topk(20).values.sort(1).values)


def test_a_code_adds_up_as_its_dense_matrix_does():
    dense = normal(20, 30, seed=0) * (normal(20, 30, seed=1) > 0.5)
    rows, features = dense.nonzero(as_tuple=True)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (dense != 0).sum(1).cumsum(0)])
    code = Code(starts, features, dense[rows, features], 30)
    vectors, given = normal(30, 6, seed=2), normal(20, 6, seed=3)
    assert torch.equal(code.dense(), dense)
    assert torch.equal(code.rows, rows)
    torch.testing.assert_close(code.times(vectors), dense @ vectors)
    torch.testing.assert_close(code.products(given, vectors), (given @ vectors.mT)[rows, features])
    torch.testing.assert_close(code.by_feature.times(code.values, given), dense.mT @ given)
    assert torch.equal(code.counts, (dense != 0).sum(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_is_the_same_step(kind):
    coder, x = small_coder(kind, torch.float32, auxiliary=0.5, dead_after=10)
    coder.tokens_since[20:24] = 11
    _, wanted = by_differentiation(coder, x, coder.dead)
    on_gpu = Coder(
        *(weight.cuda() for weight in coder.weights.values()),
        k=5, activation=kind, auxiliary=0.5, dead_after=10,
    )  # fmt: skip
    on_gpu.tokens_since.copy_(coder.tokens_since)
    on_gpu.step(x.cuda(), 0.0)
    for gradient, want in zip(on_gpu.gradients, clipped(wanted), strict=True):
        torch.testing.assert_close(gradient.cpu(), want, atol=1e-5, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_recorded_steps_on_a_gpu_are_the_steps_they_were_recorded_from():
    x = normal(6 * 512, 64, seed=0, dtype=torch.float32).cuda()
    ends = []
    for n_plain in (100, 3):
        coder = Coder.start(64, 1024, generator(1), x.mean(0), k=16, record_after=n_plain)
        losses = [
            float(coder.step(batch, 1e-3 * (i + 1))["loss"]) for i, batch in enumerate(x.split(512))
        ]
        ends.append((losses, coder))
    (plain, one), (recorded, other) = ends
    assert recorded == pytest.approx(plain, rel=1e-4)
    assert recorded[0] > recorded[-1]
    for name, weight in one.weights.items():
        torch.testing.assert_close(weight, other.weights[name], atol=1e-4, rtol=1e-3)
