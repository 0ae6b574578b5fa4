"""Transcoders: the step's gradients, what they recover, scales, resume, and refusals."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from circuits.corpus import built_in
from circuits.errors import DictionaryError, PlanError
from circuits.model import ModelPlan, ModelShape, Site, load_model, train_model
from sae import TensorActivations, TrainingPlan, load_dictionaries, train_on, train_saes
from sae.training.run import DictionaryTraining
from sae.training.step import Coder
from tests.support.small import generator, normal
from tests.support.small_training import clipped, files

INTO, OUT = Site("mlp_in", 0), Site("mlp_out", 0)
PLAN = TrainingPlan(
    ("mlp_in@0", "mlp_in@1"),
    target="mlp_out", n_features=40, k=4, n_tokens=6000, n_batch=256, n_buffer=1000, seed=3,
)  # fmt: skip


def small_coder(kind: str = "topk", dtype=torch.float64, **fields) -> tuple[Coder, Tensor, Tensor]:
    x, y = (normal(50, 12, seed=seed, dtype=dtype) + 0.5 for seed in (0, 8))
    coder = Coder.start(
        12, 40, generator(1), y.mean(0), centre=x.mean(0), k=5, activation=kind, **fields
    )
    coder.bias += 0.1 * normal(40, seed=2, dtype=dtype)
    coder.encoder += 0.1 * normal(40, 12, seed=3, dtype=dtype)
    return coder, x, y


def by_differentiation(coder: Coder, x: Tensor, y: Tensor, dead: Tensor) -> list[Tensor]:
    """Torch's gradients of the loss at the target, with AuxK where features are dead."""
    weights = [weight.clone().requires_grad_() for weight in coder.weights.values()]
    encoder, bias, decoder, offset = weights
    norms = decoder.norm(dim=1)
    scores = ((x - coder.centre) @ encoder.mT + bias) * norms
    decoder = decoder / norms[:, None]
    if coder.activation == "batchtopk":
        least = scores.flatten().topk(coder.k * len(x)).values.min()
        features = torch.where((scores >= least) & (scores > 0), scores, 0)
    else:
        places = scores.topk(coder.k).indices
        features = torch.zeros_like(scores).scatter(1, places, scores.gather(1, places))
        features = features if coder.activation == "signed_topk" else features.relu()
    error = features @ decoder + offset - y
    total = error.square().sum(1).mean()
    if len(dead):
        left = scores[:, dead] @ decoder[dead] + error.detach()
        total = total + coder.auxiliary * len(dead) / 6 * left.square().sum(1).mean()
    total.backward()
    return [weight.grad for weight in weights]


@pytest.mark.parametrize("kind", ["topk", "signed_topk", "batchtopk"])
@pytest.mark.parametrize("n_dead", [0, 4])
def test_gradients_are_those_of_the_loss_at_the_target(kind, n_dead):
    coder, x, y = small_coder(kind, auxiliary=0.5, dead_after=10)
    coder.tokens_since[20 : 20 + n_dead] = 11
    wanted = by_differentiation(coder, x, y, coder.dead)
    coder.step(x, 0.0, y)
    for gradient, want in zip(coder.gradients, clipped(wanted), strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-12, rtol=1e-10)


def test_steps_are_those_of_sae_lens_transcoder_under_torchs_adam():
    """sae-lens trains no transcoder, so its inference class is trained here by plain torch."""
    from sae_lens.saes.transcoder import Transcoder, TranscoderConfig

    coder, x, y = small_coder(auxiliary=0.0)
    coder.k = 40  # without a selection it is sae-lens' transcoder, which has ReLU alone
    theirs = Transcoder(
        TranscoderConfig(d_in=12, d_sae=40, d_out=12, apply_b_dec_to_input=False, dtype="float64")
    )
    with torch.no_grad():
        theirs.W_enc.copy_(coder.encoder.mT)
        theirs.b_enc.copy_(coder.bias)
        theirs.W_dec.copy_(coder.decoder)
        theirs.b_dec.copy_(coder.offset)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-2)
    for i in range(6):
        wanted = y + 0.3 * normal(50, 12, seed=20 + i)
        centred = x - coder.centre
        # its rows' lengths scale what is read, as in sae-lens' trainers of autoencoders
        norms = theirs.W_dec.norm(dim=1)
        features = theirs.activation_fn((centred @ theirs.W_enc + theirs.b_enc) * norms)
        made = features @ (theirs.W_dec / norms[:, None]) + theirs.b_dec
        loss = (made - wanted).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        ours = coder.step(x, 1e-2, wanted)
        torch.testing.assert_close(ours["loss"], loss.detach())
    pairs = {
        "encoder": theirs.W_enc.mT, "bias": theirs.b_enc, "decoder": theirs.W_dec,
        "offset": theirs.b_dec,
    }  # fmt: skip
    for name, weight in pairs.items():
        torch.testing.assert_close(coder.weights[name], weight.detach(), atol=1e-9, rtol=1e-7)


def sparse_map(scale_in: float = 1.0, scale_out: float = 1.0, n_token: int = 6000):
    """Sums of two of 12 true directions, and a linear map of them to other directions."""
    draw = generator(0)
    read = torch.linalg.qr(normal(12, 12, seed=1, dtype=torch.float64)).Q
    write = functional.normalize(normal(12, 12, seed=2, dtype=torch.float64), dim=1)
    strength = 0.5 + torch.rand(n_token, 12, generator=draw, dtype=torch.float64)
    chosen = torch.rand(n_token, 12, generator=draw).topk(2).indices
    features = torch.zeros_like(strength).scatter(1, chosen, strength.gather(1, chosen))
    x = (features @ read * scale_in + 3 * scale_in).float()
    y = (features @ write * scale_out - 2 * scale_out).float()
    return x, y, features.float(), write.float()


def train_map(folder, **scales):
    x, y, *truth = sparse_map(**scales)
    plan = TrainingPlan(
        target="mlp_out", sites=("mlp_in@0",), n_features=24, k=2, n_tokens=400_000, n_batch=512,
        n_buffer=4096, learning_rate=1e-2,
    )  # fmt: skip
    stream = TensorActivations([{INTO: x, OUT: y}])
    (transcoder,) = train_on(stream, plan, folder, device="cpu").values()
    return transcoder, x, y, *truth


def test_a_transcoder_of_a_linear_map_of_sparse_features_recovers_it(tmp_path):
    transcoder, x, y, features, write = train_map(tmp_path)
    fvu = (transcoder.reconstruct(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert float(fvu) < 0.02
    cosines = functional.normalize(transcoder.decoder, dim=1) @ write.mT
    assert bool((cosines.max(0).values > 0.97).all())  # each true direction is written by some
    code = transcoder.encode(x) @ (cosines > 0.9).float()  # that are active where it is
    correlations = torch.corrcoef(torch.cat([code, features], dim=1).mT)[:12, 12:].diagonal()
    assert bool((correlations > 0.85).all()), correlations


def test_scales_of_what_is_read_and_written_are_each_undone(tmp_path):
    # powers of two: nothing is rounded differently
    plain, x, *_ = train_map(tmp_path / "plain")
    scaled, *_ = train_map(tmp_path / "scaled", scale_in=2.0**12, scale_out=2.0**-9)
    torch.testing.assert_close(scaled.decoder, plain.decoder)
    torch.testing.assert_close(2.0**21 * scaled.encoder, plain.encoder)
    code, other = plain.encode(x), scaled.encode(2.0**12 * x)
    torch.testing.assert_close(2.0**9 * other, code, atol=1e-4, rtol=1e-4)
    made = scaled.reconstruct(2.0**12 * x)
    torch.testing.assert_close(2.0**9 * made, plain.reconstruct(x), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def corpus():
    return built_in(seed=1, n_documents=400)


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    shape = ModelShape(d_model=16, d_hidden=24, n_layer=2, n_head=2)
    out = tmp_path_factory.mktemp("model") / "out"
    plan = ModelPlan(shape, n_steps=20, n_rows=8)
    return load_model(train_model(plan, corpus, out, device="cpu").folder, device="cpu")


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_run_that_broke_off_ends_in_the_same_bits(
    activation, model, corpus, tmp_path, monkeypatch
):
    whole = DictionaryTraining.learn

    def breaks(run, *given):
        if run.step == 9:
            raise RuntimeError("power cut")
        return whole(run, *given)

    plan = replace(PLAN, activation=activation)
    train_saes(model, corpus, plan, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as broken:
        broken.setattr(DictionaryTraining, "learn", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            train_saes(model, corpus, plan, tmp_path / "out", device="cpu", checkpoint_every=4)
    train_saes(model, corpus, plan, tmp_path / "out", device="cpu", checkpoint_every=4)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_transcoder_is_named_after_what_it_reads_and_comes_back(model, corpus, tmp_path):
    trained = train_saes(model, corpus, PLAN, tmp_path, device="cpu")
    found = load_dictionaries(tmp_path, device="cpu")
    assert list(found) == list(trained) == [INTO, Site("mlp_in", 1)]
    assert found[INTO].target == OUT
    rows = (tmp_path / INTO.hook_name / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["fvu"] < json.loads(rows[0])["fvu"]
    tokens = model.tokens("the cake was not good so mia felt sad")
    read = model.read(tokens, [INTO, OUT])
    x, y = (read[site][0, 1:] for site in (INTO, OUT))
    error = (found[INTO].reconstruct(x) - y).square().sum() / y.square().sum()
    assert float(error) < 1


def test_the_model_reads_each_site_once_for_all_transcoders(model, corpus, tmp_path, monkeypatch):
    asked = []
    read = type(model).read

    def noted(self, tokens, sites):
        asked.append([*map(str, sites)])
        return read(self, tokens, sites)

    monkeypatch.setattr(type(model), "read", noted)
    train_saes(model, corpus, PLAN, tmp_path, device="cpu")
    assert set(map(tuple, asked)) == {("mlp_in@0", "mlp_in@1", "mlp_out@0", "mlp_out@1")}


def test_a_plan_without_a_target_is_written_as_before():
    assert "target" not in TrainingPlan().as_dict()
    assert TrainingPlan.from_dict(json.loads(json.dumps(PLAN.as_dict()))) == PLAN


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": "mlp"}, "target is 'mlp', not a point of a layer such as 'mlp_out'"),
        ({"target": "mlp_out"}, "target mlp_out is not computed after mlp_out@0, so what is read"),
        ({"sites": ("mlp_out@0",), "target": "mlp_in"}, "mlp_in is not computed after mlp_out@0"),
    ],
)
def test_a_target_that_cannot_be_is_refused(fields, said):
    with pytest.raises(PlanError, match=said):
        TrainingPlan(**fields)


def test_activations_without_the_target_or_of_another_width_are_refused(tmp_path):
    x = normal(1200, 8, seed=0, dtype=torch.float32)
    given = {
        "mlp_in@0 has 8 dimensions, mlp_out@0 is missing": {INTO: x},
        "mlp_in@0 has 8 dimensions, mlp_out@0 6": {INTO: x, OUT: x[:, :6]},
        "there is no other site than mlp_out": {OUT: x},
    }
    for said, item in given.items():
        with pytest.raises(DictionaryError, match=said):
            train_on(TensorActivations([item]), PLAN, tmp_path / "out", device="cpu")
