import pytest
import torch

from circuits.attention import frozen, text_paths
from circuits.attention.frozen_run import FrozenRun
from circuits.errors import CircuitsError, ModelError
from circuits.model import Site
from tests.support.small_models import some_tokens
from tests.support.small_networks import KINDS, small_model

MLP_1 = Site("mlp_in", 1)


TOKENS = some_tokens(2, 9)


@pytest.fixture(params=KINDS)
def model(request):
    return small_model(request.param, n_layer=2)


def pushed(model, at):
    """A vector that is added to the first MLP's output at one token."""
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))

    def push(y):
        return y + vector * (torch.arange(y.shape[1]) == at)[:, None]

    return vector, {"mlp_out@0": push}


def test_an_unedited_run_is_the_same(model):
    with frozen(model, TOKENS):
        held = model.logits(TOKENS)
    torch.testing.assert_close(held, model.logits(TOKENS), rtol=1e-4, atol=1e-5)


def test_what_an_edit_adds_later_is_what_the_paths_carry(model):
    vector, edit = pushed(model, 3)
    before = model.read(TOKENS[:1], [MLP_1])[MLP_1][0]
    with frozen(model, TOKENS[:1]), model.replaced(edit):
        after = model.read(TOKENS[:1], [MLP_1])[MLP_1][0]
    carried = text_paths(model, TOKENS[0]).carry(vector[None], "mlp_out@0", 3, MLP_1)[0]
    torch.testing.assert_close(after - before, carried, rtol=1e-3, atol=1e-5)
    run, change = FrozenRun.of(model, TOKENS), torch.zeros(*TOKENS.shape, model.d_model)
    change[:, 3] = vector
    torch.testing.assert_close(run.carried(TOKENS, change, 0, 1)[0], carried, rtol=1e-3, atol=1e-5)
    for layer, later in ((1, 1), (1, 0), (0, 2), (-1, 1)):
        with pytest.raises(CircuitsError, match=r"FrozenRun\.carried"):
            run.carried(TOKENS, change, layer, later)
    with model.replaced(edit):
        free = model.read(TOKENS[:1], [MLP_1])[MLP_1][0]
    assert (free - after).abs().max() > 1e-2  # attention looks elsewhere, norms divide by more


def test_each_batch_has_its_own_patterns(model):
    one, other = TOKENS[:1], TOKENS[1:, :6]
    with frozen(model, [one, other]):
        held = model.logits(other)
    torch.testing.assert_close(held, model.logits(other), rtol=1e-4, atol=1e-5)


def test_other_tokens_are_refused(model):
    with frozen(model, TOKENS), pytest.raises(ModelError, match="that were not given"):
        model.logits(TOKENS[:1])


def test_no_gradient_goes_through_closed_heads(model):
    added = torch.zeros(*TOKENS.shape, model.d_model, requires_grad=True)
    heads = [(layer, head) for layer in range(model.n_layer) for head in range(model.n_head)]
    with frozen(model, TOKENS, closed=heads), model.replaced({"mlp_out@0": added.add}):
        closed = model.logits(TOKENS)
    torch.testing.assert_close(closed, model.logits(TOKENS), rtol=1e-4, atol=1e-5)
    closed[:, -1].sum().backward()
    assert added.grad is not None
    assert added.grad[:, -1].any()
    assert not added.grad[:, :-1].any()
