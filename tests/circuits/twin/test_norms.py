"""Norms fade into fixed scales, and the Llama that is left computes them in plain transformers."""

import copy
import signal
from dataclasses import replace

import pytest
import torch

from circuits.corpus import built_in
from circuits.errors import ModelError
from circuits.model import load_model
from circuits.twin.norms import FadingNorm, fading_norms, fit_constants, made_fixed
from circuits.twin.plan import TwinPlan
from circuits.twin.training import TwinTraining, bilinear_twin
from tests.support.signals import interrupt
from tests.support.small_models import small_network, small_original, some_tokens

PLAN = TwinPlan(n_steps=20, n_rows=4, window=16, learning_rate=5e-3, remove_norms=True)


@pytest.fixture(scope="module")
def corpus():
    return built_in(seed=1, n_documents=400)


@pytest.fixture(scope="module")
def gated(corpus, tmp_path_factory):
    return small_original(corpus, tmp_path_factory.mktemp("gated") / "llama")


@pytest.fixture(scope="module")
def twin(gated, corpus, tmp_path_factory):
    return bilinear_twin(gated, corpus, PLAN, tmp_path_factory.mktemp("twin") / "out", device="cpu")


def test_whole_norms_change_nothing_and_faded_ones_only_scale():
    network, tokens = small_network(), some_tokens()
    plain = copy.deepcopy(network)
    norms = fading_norms(network)
    assert len(norms) == 5
    torch.testing.assert_close(network(tokens).logits, plain(tokens).logits)
    norm, x = norms[0], torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    norm.strength, norm.constant = 0.0, 0.3
    torch.testing.assert_close(norm(x), 0.3 * x * norm.weight)
    norm.strength = 0.5
    whole = FadingNorm(plain.model.layers[0].input_layernorm)(x)
    torch.testing.assert_close(norm(x), 0.5 * whole + 0.15 * x * norm.weight)


def test_a_norm_s_constant_is_the_mean_of_what_it_multiplies_by():
    network, seen = small_network(), []
    norms = fading_norms(network)
    handle = norms[2].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    batches = [some_tokens(3, 9, seed=1), some_tokens(2, 5, seed=2)]
    fit_constants(network, norms, batches)
    handle.remove()
    each = torch.cat([(x.square().mean(-1) + norms[2].epsilon).rsqrt().flatten() for x in seen])
    assert norms[2].constant == pytest.approx(float(each.mean()), rel=1e-6)


def test_fixed_scales_are_plain_norms_of_a_large_epsilon():
    network, tokens = small_network(), some_tokens()
    norms = fading_norms(network)
    fit_constants(network, norms, [tokens])
    for norm in norms:
        norm.strength = 0.0
    wanted = network(tokens).logits
    made_fixed(network, norms)
    plain = small_network(rms_norm_eps=network.config.rms_norm_eps)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(plain(tokens).logits, wanted, rtol=1e-5, atol=1e-5)


def test_a_twin_without_norms_loads_everywhere_and_scales_by_one_number(twin):
    from transformers import AutoModelForCausalLM

    assert twin.label.norms_removed
    tokens = twin.tokens("the cake was not good so mia felt")
    theirs = AutoModelForCausalLM.from_pretrained(twin.path)
    torch.testing.assert_close(theirs(tokens).logits, twin.logits(tokens), rtol=1e-5, atol=1e-5)
    found = twin.read(tokens, ["resid_mid@0", "mlp_in@0", "mlp_out@1", "mlp_in@1"])
    before, into, out, later = found.values()
    assert float(twin.scale(before).std()) == pytest.approx(0.0, abs=1e-3)
    ratio = into / before
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin.layer(1)(later), out, rtol=1e-5, atol=1e-5)


def test_a_twin_without_norms_resumes_in_the_same_bits(twin, gated, corpus, tmp_path):
    def train():
        return bilinear_twin(gated, corpus, PLAN, tmp_path / "out", device="cpu")

    interrupt(TwinTraining, signal.SIGINT, 13, train)
    weights = (train().path / "model.safetensors").read_bytes()
    assert weights == (twin.path / "model.safetensors").read_bytes()
    assert load_model(tmp_path / "out").label == twin.label


def test_norms_that_cannot_be_written_as_fixed_scales_are_refused():
    with pytest.raises(ModelError, match=r"remove_norms: Qwen3.* such as .*\.q_norm"):
        fading_norms(small_network("qwen3", hidden_act="silu"))


def test_float16_which_cannot_hold_a_fixed_scale_s_weights_is_refused(twin):
    with pytest.raises(ModelError, match=r"beyond what torch.float16 can hold"):
        load_model(twin.path, dtype=torch.float16, device="cpu")
    load_model(twin.path, dtype=torch.bfloat16, device="cpu")


def test_norms_fade_one_after_another_once_the_gates_are_gone():
    plan = TwinPlan(n_steps=100, fit=0, fade=0.5, remove_norms=True)
    assert plan.strengths(25, 2) == [0.5, 0.5]
    assert plan.norm_strengths(50, 4) == [1, 1, 1, 1]
    assert plan.strengths(50, 2) == [0, 0]
    assert plan.norm_strengths(65, 4) == pytest.approx([0, 0, 1, 1])
    assert plan.norm_strengths(80, 4) == [0, 0, 0, 0]
    fitted = replace(plan, fade=0.0)
    assert fitted.norm_strengths(0, 2) == [1, 1]
    assert fitted.norm_strengths(15, 2) == pytest.approx([0.5, 1])
    assert fitted.norm_strengths(60, 2) == [0, 0]
    assert TwinPlan().norm_strengths(99, 2) == [1, 1]
