"""A head's scores and what it moves, feature by feature, are those of the running model."""

import numpy as np
import pandas as pd
import pytest
import torch

from circuits import Basis, interaction_graph
from circuits.algebra.cross import CrossInteractions
from circuits.errors import BasisError, FeatureRangeError, ModelError, TensorError
from circuits.model.formats.heads import scores_of_run, watched_patterns
from circuits.model.site import Site
from tests.support.small import basis, normal, relative_error
from tests.support.small_models import some_tokens
from tests.support.small_networks import KINDS, exact_norms, small_model


def scores_of_the_run(model, tokens, layer):
    return scores_of_run(model.network, tokens, layer)[0]


def stream(model, tokens, layer):
    """The stream before attention, divided by its scale."""
    x = model.read(tokens, Site("resid_pre", layer))[Site("resid_pre", layer)][0]
    return x / model.scale(x)[:, None]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_running_model_at_every_distance(kind):
    model, tokens = exact_norms(small_model(kind)), some_tokens(1)
    for layer in range(model.n_layer):
        wanted, x = scores_of_the_run(model, tokens, layer), stream(model, tokens, layer)
        for head in range(model.n_head):
            made = model.head(layer, head).scores(x)
            assert relative_error(made, wanted[head]) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_scores_in_float32_are_those_of_the_running_model(kind):
    model, tokens = small_model(kind, torch.float32), some_tokens(1)
    wanted, x = scores_of_the_run(model, tokens, 1), stream(model, tokens, 1)
    for head in range(model.n_head):
        assert relative_error(model.head(1, head).scores(x), wanted[head]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_sum_of_pairs_of_features_and_of_what_they_miss(kind):
    """Query and key features of two dictionaries that do not span the stream."""
    model, tokens = exact_norms(small_model(kind)), some_tokens(1)
    layer, width = 1, model.d_model
    wanted = scores_of_the_run(model, tokens, layer)
    stream_at = model.read(tokens, "resid_pre@1")[Site("resid_pre", 1)][0]
    scale = model.scale(stream_at)
    queries, keys = (basis(20, width, seed=seed, offset=True) for seed in (1, 2))
    strengths = [b.coordinates(stream_at) for b in (queries, keys)]
    missed = [stream_at - b.compose(z) for b, z in zip((queries, keys), strengths, strict=True)]
    for query, key in ((5, 5), (5, 4), (9, 2), (10, 0)):
        at = (query, key)
        for number in range(model.n_head):
            head = model.head(layer, number)
            looks = head.looks(queries, keys, query - key, at=key)
            # features and the offset over the token's scale, and the bias as it is
            given = [
                torch.cat([z[i], torch.ones(1, dtype=z.dtype)]) / scale[i]
                for z, i in zip(strengths, at, strict=True)
            ]
            if head.query_bias is not None:
                given = [torch.cat([z, torch.ones(1, dtype=z.dtype)]) for z in given]
            terms = given[0][:, None] * looks.matrix() * given[1]
            whole, error = zip(
                *(
                    (stream_at[i] / scale[i], e[i] / scale[i])
                    for e, i in zip(missed, at, strict=True)
                ),
                strict=True,
            )
            # what the query's error sees of the whole key, and the query's features of the key's
            left = head.terms(error[0][None], whole[1][None], query - key, at=key)[0].sum()
            made = torch.stack([whole[0] - error[0]])
            right = head.terms(made, error[1][None], query - key, at=key)[:, 0].sum()
            total = terms.sum() + left + right
            assert (total - wanted[number, query, key]).abs() / terms.abs().max() < 1e-9
            # a distance alone, as far as angles in float32 go
            anywhere = head.looks(queries, keys, query - key).matrix()
            assert relative_error(anywhere, looks.matrix()) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_what_heads_move_adds_up_to_what_attention_writes(kind):
    model, tokens = exact_norms(small_model(kind)), some_tokens(1)
    with watched_patterns(model.network) as patterns:
        found = model.read(tokens, ["resid_pre@1", "attn_out@1"])
        x, wanted = (found[Site(point, 1)][0] for point in ("resid_pre", "attn_out"))
    x = x / model.scale(x)[:, None]
    made = sum(patterns[1][0, h] @ model.head(1, h).moved(x) for h in range(model.n_head))
    bias = model.network.model.layers[1].self_attn.o_proj.bias
    made = made if bias is None else made + bias
    assert relative_error(made, wanted) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_head_carries_is_read_of_what_it_moves(kind):
    model = small_model(kind)
    head = model.head(0, 3)
    inputs = basis(40, model.d_model, seed=3, offset=True)
    outputs = basis(40, model.d_model, seed=4)
    carried = head.carries(inputs, outputs)
    z = normal(40, seed=5)
    given = torch.cat([z, torch.ones(carried.shape[0] - 40, dtype=torch.float64)])
    wanted = outputs.coordinates(head.moved(inputs.compose(z)))
    assert relative_error(given @ carried.matrix(), wanted) < 1e-9
    labels = ["offset", "bias"][: carried.shape[0] - 40]
    assert list(carried.left_labels[40:]) == labels


def test_tokens_look_at_tokens_and_promote_tokens_by_name():
    model = small_model()
    tokens = Basis.of_tokens(model)
    assert tokens.reader == "unembedding"
    assert tokens.labels[:5] == ("<pad>", "<bos>", "<eos>", "<unk>", "w4")
    head = model.head(0, 1)
    looks = head.looks(tokens, tokens, distance=1).strongest(3)
    assert list(looks) == ["query", "key", "weight", "query_label", "key_label"]
    assert list(looks["key_label"]) == [tokens.labels[key] for key in looks["key"]]
    carries = head.carries(tokens, tokens)
    moved = head.moved(model.embedding.double()) @ model.unembedding.double().mT
    assert relative_error(carries.matrix(), moved) < 1e-12
    assert list(carries.strongest(2)["output_label"])


def test_labels_of_a_basis_reach_its_parts_and_graphs(small_inter):
    inter = small_inter
    graph = interaction_graph(inter, 0, 10)
    for feature, node in graph.nodes.items():
        assert node["label"] == ("constant" if feature == 20 else f"word {feature}")
    named = interaction_graph(inter, 0, 10, labels={feature: "mine" for feature in graph})
    assert {node["label"] for node in named.nodes.values()} == {"mine"}
    layer = interaction_graph(inter, n_edges=10)
    outputs = {node["label"] for node in layer.nodes.values() if node["kind"] == "output"}
    assert outputs <= {f"out {i}" for i in range(9)}
    assert inter.inputs.subset([3, 5]).labels == ("word 3", "word 5")
    assert inter.inputs.to(torch.float32).without_offset().labels == inter.inputs.labels
    assert inter.inputs.subset([3]).to(torch.float32).labels == ("word 3",)
    assert inter.inputs.subset([3]).labelled(["one"]).labels == ("one",)
    assert inter.inputs.control().labels is None


@pytest.fixture
def small_inter():
    from circuits import Interactions
    from tests.support.small import small_layer

    inputs = basis(20, offset=True).labelled([f"word {i}" for i in range(20)])
    return Interactions(small_layer(), inputs, basis(9).labelled([f"out {i}" for i in range(9)]))


def test_labels_are_one_for_each_feature():
    with pytest.raises(BasisError, match="2 labels for 20 features"):
        basis(20).labelled(["a", "b"])


# --- the matrix between two sets ---


def crossed(n=700, m=5000, rank=4, dtype=torch.float64):
    left, right = normal(n, rank, seed=1, dtype=dtype), normal(m, rank, seed=2, dtype=dtype)
    names = (tuple(f"r{i}" for i in range(n)), tuple(f"c{i}" for i in range(m)))
    return CrossInteractions(left, right, *names)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 50, 3000])
def test_the_strongest_pairs_are_those_of_the_dense_matrix(dtype, n):
    cross = crossed(dtype=dtype)
    dense = cross.left.double() @ cross.right.double().mT
    order = dense.abs().flatten().argsort(descending=True, stable=True)[:n]
    found = cross.strongest(n)
    wanted = dense.flatten()[order].numpy()
    assert found["weight"].to_numpy() == pytest.approx(wanted, rel=1e-12)
    places = found["first"].to_numpy() * cross.shape[1] + found["second"].to_numpy()
    assert sorted(places) == sorted(order.tolist())
    assert found["first_label"][0] == f"r{found['first'][0]}"


@pytest.mark.parametrize("n", [1, 40, 400])
@pytest.mark.parametrize("rank", [1, 2])
def test_equal_pairs_of_many_tiles_are_found_in_order_of_their_numbers(n, rank, monkeypatch):
    monkeypatch.setattr("circuits.algebra.cross.ROWS", 16)
    monkeypatch.setattr("circuits.algebra.cross.COLUMNS", 32)
    whole = crossed(120, 300, rank)
    left, right = (side.round() for side in (whole.left, whole.right))  # many are equal
    cross = CrossInteractions(left, right, whole.left_labels, whole.right_labels)
    dense = (left @ right.mT).numpy()
    order = np.argsort(-np.abs(dense).ravel(), kind="stable")[:n]
    first, second = np.unravel_index(order, dense.shape)
    found = cross.strongest(n)
    assert list(found["first"]) == list(first)
    assert list(found["second"]) == list(second)
    assert list(found["weight"]) == list(dense[first, second])


def test_all_pairs_are_found_where_more_are_asked_for():
    cross = crossed(3, 4)
    assert len(cross.strongest(100)) == 12
    zero = CrossInteractions(torch.zeros(2, 3), torch.zeros(2, 3), ("a", "b"), ("c", "d"))
    assert isinstance(zero.strongest(3), pd.DataFrame)
    assert len(zero.spectrum()) == 0


def test_singular_values_are_those_of_the_dense_matrix():
    cross = crossed(30, 20)
    spectrum = cross.spectrum()
    wanted = torch.linalg.svdvals(cross.matrix())[:4]
    assert relative_error(spectrum.values, wanted) < 1e-12
    assert relative_error(spectrum.matrix(), cross.matrix()) < 1e-12
    assert spectrum.energy(len(spectrum)) == pytest.approx(1)
    first = cross.spectrum(1)
    assert len(first) == 1
    assert first.energy(1) == pytest.approx(float(wanted[0] ** 2 / wanted.square().sum()))


# --- what is refused ---


def test_norms_of_queries_and_keys_are_refused_by_name():
    model = small_model("qwen3")
    with pytest.raises(ModelError, match="attention of layer 0 has k_norm, q_norm"):
        model.head(0, 0)


def test_attention_that_computes_something_else_is_refused():
    model = small_model()
    model.network.model.layers[1].self_attn.scaling *= 1.1
    before = model.network.model.layers[1].self_attn.forward

    def forward(hidden_states, **given):
        return before(hidden_states.flip(-1), **given)

    model.network.model.layers[0].self_attn.forward = forward
    with pytest.raises(ModelError, match="attention of layer 0 is not what its heads compute"):
        model.head(0, 0)
    assert model.head(1, 0).scaling == pytest.approx(1.1 * 8**-0.5)


def test_angles_that_depend_on_the_length_of_the_text_are_refused():
    model = small_model()
    model.network.model.rotary_emb.rope_type = "longrope"
    with pytest.raises(ModelError, match="rope_type is longrope"):
        model.head(0, 0)


def test_other_rotary_angles_are_the_networks_own():
    rope = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0,
            "original_max_position_embeddings": 16}  # fmt: skip
    model, tokens = exact_norms(small_model(rope_parameters=rope)), some_tokens(1)
    assert float(model.head(0, 0).cosine[0, 0]) != 1  # it scales angles too
    wanted, x = scores_of_the_run(model, tokens, 0), stream(model, tokens, 0)
    assert relative_error(model.head(0, 2).scores(x), wanted[2]) < 1e-12


@pytest.mark.parametrize(("distance", "at"), [(-1, 0), (32, 0), (30, 5), (True, 0)])
def test_a_head_looks_back_within_the_context(distance, at):
    tokens = Basis.of_tokens(model := small_model())
    with pytest.raises(FeatureRangeError, match="distance"):
        model.head(0, 0).looks(tokens, tokens, distance, at=at)


def test_features_of_another_width_are_refused():
    with pytest.raises(TensorError, match="must have size 32"):
        small_model().head(0, 0).looks(basis(20), basis(20), 1)
