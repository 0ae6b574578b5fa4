"""Gates fade from the activation to its straight part, and the weights take up what is left."""

import copy

import pytest
import torch

from circuits.errors import ModelError
from circuits.twin.gates import GATES, FadingGate, check_offset, fading_gates, made_linear
from tests.support.small import normal
from tests.support.small_models import small_network, some_tokens

X = 3 * normal(400, seed=1)


@pytest.mark.parametrize("name", GATES)
def test_a_gate_begins_as_the_activation_of_transformers(name):
    from transformers.activations import ACT2FN

    torch.testing.assert_close(FadingGate(GATES[name])(X), ACT2FN[name](X), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", GATES)
def test_a_gate_ends_as_its_tangent_at_zero(name):
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = GATES[name].function(x)
    if name != "relu":  # which has a corner there: half of the identity, as the others
        (slope,) = torch.autograd.grad(value.sum(), x)
        assert float(slope) == pytest.approx(GATES[name].slope)
    assert float(value.detach()) == GATES[name].offset
    fading = FadingGate(GATES[name])
    fading.strength = 0.0
    torch.testing.assert_close(fading(X), GATES[name].slope * X + GATES[name].offset)


@pytest.mark.parametrize("name", GATES)
def test_a_gate_fades_without_a_jump(name):
    fading = FadingGate(GATES[name])
    last = fading(X)
    for strength in torch.linspace(1, 0, 201).tolist():
        fading.strength = strength
        now = fading(X)
        assert float((now - last).abs().max()) < 0.6
        last = now


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("mlp_bias", [False, True])
def test_a_network_without_gates_computes_what_faded_gates_did(name, mlp_bias):
    network = small_network(hidden_act=name, mlp_bias=mlp_bias)
    straight = copy.deepcopy(network)
    for gate in fading_gates(network):
        gate.strength = 0.0
    made_linear(straight)
    assert straight.config.hidden_act == "linear"
    tokens = some_tokens()
    torch.testing.assert_close(straight(tokens).logits, network(tokens).logits)


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_a_constant_that_the_format_cannot_hold_is_refused(kind):
    with pytest.raises(ModelError, match="the gate sigmoid leaves a constant"):
        check_offset(small_network(kind, hidden_act="sigmoid"))
    check_offset(small_network(kind, hidden_act="silu"))
