"""What is written anywhere in a text reaches a later MLP as the running model computes it."""

import re

import pytest
import torch

from circuits import Basis, Interactions, interaction_graph
from circuits.attention import text_paths, upstream_basis
from circuits.attention.paths import stage
from circuits.errors import ArgumentError, ModelError
from circuits.model import load_model
from circuits.model.formats.heads import attending, scores_of_run
from circuits.model.site import Site
from tests.support import ROOT
from tests.support.small import basis, normal, relative_error
from tests.support.small_models import some_tokens
from tests.support.small_networks import KINDS, exact_norms, small_model

DEPTHS = (2, 5)
TOKENS = some_tokens(1, 12)[0]


def read(model, site):
    """What the running model computes at a site, by attention that makes its pattern."""
    with attending(model.network):
        return model.read(TOKENS[None], site)[Site.parse(site)][0]


def places(paths, last):
    """The sites where a run wrote before another site."""
    return {site: x for site, x in paths.written.items() if site.order < Site.parse(last).order}


def terms_of(paths, directions, site, position):
    """What each place of writing adds to what some directions read, by the sweep back."""
    pulled = paths.pull(directions, site, position)
    assert set(pulled) == set(places(paths, site))
    return {one: (paths.written[one] * x).sum(-1) for one, x in pulled.items()}


@pytest.mark.parametrize("n_layer", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_mlps_input_is_the_sum_of_what_was_written_before(kind, n_layer):
    model = exact_norms(small_model(kind, n_layer=n_layer))
    paths, directions = text_paths(model, TOKENS), normal(3, model.d_model)
    for layer in range(n_layer):
        wanted = read(model, f"mlp_in@{layer}")
        for position in (0, 5, 11):
            terms = torch.stack(
                [*terms_of(paths, directions, f"mlp_in@{layer}", position).values()], dim=1
            )
            error = terms.sum((1, 2)) - directions @ wanted[position]
            assert error.abs().max() / terms.abs().max() < 1e-9


@pytest.mark.parametrize("n_layer", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_mlps_input_in_float32_is_the_sum_of_what_was_written_before(kind, n_layer):
    model = small_model(kind, torch.float32, n_layer)
    paths, directions = text_paths(model, TOKENS), normal(3, model.d_model, dtype=torch.float32)
    wanted = read(model, f"mlp_in@{n_layer - 1}")
    terms = terms_of(paths, directions, f"mlp_in@{n_layer - 1}", 7)
    terms = torch.stack([*terms.values()], dim=1)
    error = terms.sum((1, 2)) - directions @ wanted[7]
    assert error.abs().max() / terms.abs().max() < 1e-4


OTHERS = {
    "a sliding window": {"kind": "mistral", "sliding_window": 4},
    "scaled angles": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "a gated model": {"hidden_act": "silu"},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
def test_an_mlps_input_is_a_sum_with(fields):
    model = exact_norms(small_model(**fields))
    paths, directions = text_paths(model, TOKENS), normal(3, model.d_model)
    terms = torch.stack([*terms_of(paths, directions, "mlp_in@1", 9).values()], dim=1)
    error = terms.sum((1, 2)) - directions @ read(model, "mlp_in@1")[9]
    assert error.abs().max() / terms.abs().max() < 1e-9
    if "sliding_window" in fields:
        assert not paths.pattern(0)[:, 9, :6].any()


@pytest.mark.parametrize("n_layer", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_scores_are_the_sum_of_pairs_of_upstream_writers(kind, n_layer):
    model = exact_norms(small_model(kind, n_layer=n_layer))
    paths, layer = text_paths(model, TOKENS), n_layer - 1
    x = read(model, f"resid_pre@{layer}")
    scale, (query, key) = model.scale(x), (9, 4)
    sides, eye = [], torch.eye(model.d_model, dtype=torch.float64)
    for position in (query, key):
        pulled = paths.pull(eye, f"resid_pre@{layer}", position)
        parts = [
            torch.einsum("rum,um->ur", x, paths.written[site])[: position + 1]
            for site, x in pulled.items()
        ]
        writers = torch.cat(parts) / scale[position]  # what each adds to the head's input
        sides.append(writers[writers.any(1)])
    for number in range(model.n_head):
        head = model.head(layer, number)
        labels = [Basis(side, side) for side in sides]
        looks = head.looks(*labels, query - key, at=key).matrix()
        wanted = head.scores(x / scale[:, None])[query, key]
        assert (looks.sum() - wanted).abs() / looks.abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_carrying_and_pulling_back_are_transposes(kind):
    model = small_model(kind, n_layer=5)
    paths = text_paths(model, TOKENS)
    vectors, directions = normal(4, model.d_model, seed=1), normal(3, model.d_model, seed=2)
    where = torch.tensor([0, 2, 6, 9])
    for written, target in [
        ("resid_pre@0", "mlp_in@4"), ("mlp_out@1", "mlp_in@2"), ("attn_out@0", "resid_post@3"),
        ("resid_mid@2", "mlp_in@2"), ("mlp_out@0", "resid_pre@1"),
    ]:  # fmt: skip
        carried = paths.carry(vectors, written, where, target)
        assert carried.shape == (4, 12, model.d_model)
        for position in (1, 7):
            pulled = paths.pull(directions, target, position, [written])[Site.parse(written)]
            wanted = directions @ carried[:, position].mT
            made = torch.stack([pulled[:, u] @ vectors[i] for i, u in enumerate(where)], dim=1)
            torch.testing.assert_close(made, wanted, rtol=1e-11, atol=1e-11)
            at = paths.carry(vectors, written, where, target, at=position)
            torch.testing.assert_close(at, carried[:, position], rtol=1e-12, atol=1e-12)


def test_vectors_of_one_position_are_carried_from_it_forward_alone():
    paths = text_paths(small_model(), TOKENS)
    vectors = normal(2, 32)
    carried = paths.carry(vectors, "resid_pre@0", 6, "mlp_in@1")
    assert not carried[:, :6].any()
    assert carried[:, 6:].any(-1).all()
    again = paths.carry(vectors, "resid_pre@0", torch.tensor([6, 6]), "mlp_in@1")
    torch.testing.assert_close(carried, again)
    assert not paths.carry(vectors, "resid_pre@0", 6, "mlp_in@1", at=3).any()


def test_few_vectors_at_a_time_give_the_same(monkeypatch):
    paths = text_paths(small_model(n_layer=3), TOKENS)
    vectors = normal(7, 32)
    carried = paths.carry(vectors, "resid_pre@0", 2, "mlp_in@2")
    pulled = paths.pull(vectors, "mlp_in@2", 8)
    monkeypatch.setattr("circuits.attention.paths.NUMBERS", 1)
    torch.testing.assert_close(paths.carry(vectors, "resid_pre@0", 2, "mlp_in@2"), carried)
    for site, again in paths.pull(vectors, "mlp_in@2", 8).items():
        torch.testing.assert_close(again, pulled[site])


@pytest.mark.parametrize("n_layer", DEPTHS)
def test_paths_are_the_sum_over_chains_of_heads(n_layer):
    """By the formula: the stream itself, and chains of pattern · output value / scale."""
    model = small_model(n_layer=n_layer)
    paths, vector = text_paths(model, TOKENS), normal(1, model.d_model)
    u, t = 3, 8
    chained = {u: vector[0]}  # what reaches each position, by layers
    for layer in range(n_layer):
        scale = model.scale(paths.streams[Site("resid_pre", layer)])
        added = {}
        for at in range(len(TOKENS)):
            for source, x in chained.items():
                for number in range(model.n_head):
                    head = model.head(layer, number)
                    share = paths.pattern(layer)[number, at, source] / scale[source]
                    made = share * (head.output @ (head.value @ x))
                    added[at] = added.get(at, 0) + made
        chained = {at: chained.get(at, 0) + added.get(at, 0) for at in {*chained, *added}}
    block = model.network.model.layers[-1]
    mid = read(model, f"resid_mid@{n_layer - 1}")
    wanted = chained[t] * block.post_attention_layernorm.weight / model.scale(mid)[t]
    made = paths.carry(vector, "resid_pre@0", u, f"mlp_in@{n_layer - 1}", at=t)
    assert relative_error(made[0], wanted) < 1e-9


def test_paths_through_single_heads_add_up_where_one_layer_lies_between():
    model = small_model()
    paths, vectors = text_paths(model, TOKENS), normal(3, 32)

    def carried(some):
        return some.carry(vectors, "mlp_out@0", 4, "mlp_in@1")

    stream = carried(paths.through([]))
    assert not stream[:, 5:].any()
    heads = [carried(paths.through([(1, head)])) - stream for head in range(model.n_head)]
    torch.testing.assert_close(stream + sum(heads), carried(paths), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_by_head_adds_up_to_what_is_read(kind):
    model = exact_norms(small_model(kind))
    paths, direction = text_paths(model, TOKENS), normal(model.d_model)
    table = paths.by_head(direction, "mlp_in@1", 6)
    wanted = float(direction @ read(model, "mlp_in@1")[6])
    assert abs(table["value"].sum() - wanted) < 1e-9 * table["value"].abs().max()
    assert set(table["head"]) == {-1, *range(8)}
    assert set(table[table["kind"] == "head"]["position"]) == set(range(7))


def test_an_edit_of_a_writer_moves_later_inputs_as_its_paths_say():
    """Where no pattern and no scale depends on the data, by any amount; later MLPs are held."""
    model = exact_norms(small_model(n_layer=3, rms_norm_eps=1e30))
    for name, weight in model.network.named_parameters():
        if "norm" in name:
            weight.mul_(1e15)
        elif "q_proj" in name:
            weight.zero_()
    for block in model.network.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.forward = lambda x, norm=norm: norm.weight * x / 1e15
    vector, held = normal(1, 32), read(model, "mlp_out@1")[None]

    def edited(x):
        x = x.clone()
        x[0, 5] += 3 * vector[0]
        return x

    paths = text_paths(model, TOKENS)
    before = read(model, "mlp_in@2")
    with model.replaced({"mlp_out@0": edited, "mlp_out@1": lambda _: held}):
        moved = read(model, "mlp_in@2") - before
    wanted = 3 * paths.carry(vector, "mlp_out@0", 5, "mlp_in@2")[0]
    assert wanted[6:].any(-1).all()
    assert relative_error(moved, wanted) < 1e-9


def test_a_run_in_which_attention_is_replaced_has_no_paths():
    model = small_model()
    with (
        model.replaced({"attn_out@0": torch.zeros_like}),
        pytest.raises(ModelError, match="not the sum"),
    ):
        text_paths(model, TOKENS)
    with model.replaced({"mlp_out@0": torch.zeros_like}):
        assert not text_paths(model, TOKENS).written[Site("mlp_out", 0)].any()


def test_places_between_which_nothing_leads_are_refused():
    paths = text_paths(small_model(), TOKENS)
    vectors = normal(1, 32)
    for written, target, said in [
        ("mlp_out@1", "mlp_in@1", "nothing leads from mlp_out@1 to mlp_in@1"),
        ("mlp_in@0", "mlp_in@1", "behind a norm"),
        ("resid_pre@0", "mlp_out@1", "not linear"),
        ("resid_pre@0", "mlp_in@7", "2 layers"),
    ]:
        with pytest.raises(ModelError, match=said):
            paths.carry(vectors, written, 0, target)
        with pytest.raises(ModelError, match=said):
            paths.pull(vectors, target, 0, [written])
    with pytest.raises(ModelError, match="2 positions for 1 vectors"):
        paths.carry(vectors, "resid_pre@0", torch.tensor([1, 2]), "mlp_in@1")
    with pytest.raises(ModelError, match="not behind a layer's attention"):
        paths.by_head(vectors[0], "resid_pre@1", 0)


def test_the_guides_chapter_runs():
    chapter = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    chapter = chapter.split("## Where attention looks")[1].split("\n## ")[0]
    code = "".join(re.findall(r"^```python\n(.*?)^```", chapter, re.MULTILINE | re.DOTALL))
    code = code.replace('load_model("runs/stories/model")', "small")
    known = {"small": small_model(), "vectors": normal(2, 32), "directions": normal(3, 32),
             "features_out": basis(40, 32)}  # fmt: skip
    exec(code, known)
    paths, pulled = known["paths"], known["pulled"]
    sums = sum((paths.written[site] * pulled[site]).sum((1, 2)) for site in pulled)
    x = known["small"].read(known["text"][None], "mlp_in@1")[Site("mlp_in", 1)][0, 7]
    torch.testing.assert_close(sums, known["directions"] @ x, rtol=1e-4, atol=1e-4)


# --- without a text ---


def test_an_upstream_basis_holds_each_feature_along_each_path():
    model = small_model()
    features = basis(30, 32, seed=7, offset=True)
    upstream = upstream_basis(
        model, {"resid_pre@0": Basis.of_tokens(model), "mlp_out@0": features}, 1
    )
    # tokens: the stream, 8 heads of each layer; features: the stream, 8 heads, and the offset
    assert upstream.n_feature == 40 * 17 + 31 * 9
    labels = dict(zip(upstream.labels, upstream.write, strict=True))
    assert len(labels) == upstream.n_feature
    head = model.head(1, 3)
    torch.testing.assert_close(labels["w5"], model.embedding[5])
    carried = head.output @ head.value @ features.write[4]
    torch.testing.assert_close(labels["feature 4 of mlp_out@0 via 1.3"], carried)
    carried = head.output @ head.value @ features.offset
    torch.testing.assert_close(labels["offset of mlp_out@0 via 1.3"], carried)


def test_chains_of_heads_are_counted_or_named():
    model = small_model()
    bases = {Site("resid_pre", 0): basis(40, 32)}
    assert upstream_basis(model, bases, 1, paths=0).n_feature == 40
    assert upstream_basis(model, bases, 1, paths=2).n_feature == 40 * (1 + 16 + 64)
    named = upstream_basis(model, bases, 1, paths=[(), [(0, 2), (1, 3)], ()])
    assert named.n_feature == 80
    one, two = model.head(0, 2), model.head(1, 3)
    carried = two.output @ two.value @ one.output @ one.value @ bases[Site("resid_pre", 0)].write[1]
    torch.testing.assert_close(named.write[41], carried)
    assert named.labels[41] == "feature 1 of resid_pre@0 via 0.2, 1.3"


def test_upstream_features_by_path_are_what_a_text_carries():
    """An MLP's input in a run: each path's features, times patterns and inverse scales."""
    model = small_model()
    paths, vectors = text_paths(model, TOKENS), basis(40, 32, seed=2)
    upstream = upstream_basis(model, {"mlp_out@0": vectors}, 1)
    u, t, feature = 2, 9, 11
    scale = model.scale(paths.streams[Site("resid_pre", 1)])[u]
    made = sum(
        paths.pattern(1)[head, t, u] / scale * upstream.write[40 * (1 + head) + feature]
        for head in range(8)
    )
    wanted = paths.carry(vectors.write[[feature]], "mlp_out@0", u, "resid_mid@1", at=t)[0]
    assert relative_error(made, wanted) < 1e-9


def test_interactions_and_graphs_work_on_an_upstream_basis():
    model = small_model()
    tokens = Basis.of_tokens(model)
    chosen = [[], [(0, 1)], [(1, 2)]]
    upstream = upstream_basis(model, {"resid_pre@0": tokens}, 1, paths=chosen)
    inter = Interactions(model.layer(1, fold_norm=True), upstream, basis(40, 32))
    graph = interaction_graph(inter, 3, 20)
    labels = {node["label"] for node in graph.nodes.values()}
    assert labels <= set(upstream.labels)
    assert interaction_graph(inter, 3, significant=0.05) is not None


@pytest.mark.parametrize(
    ("sites", "paths", "said"),
    [
        ("mlp_out@1", 1, "mlp_out@1 is not a point of the stream before the MLP of layer 1"),
        ("mlp_in@1", 1, "not a point of the stream"),
        ("mlp_out@0", [[(0, 1)]], "none of these paths leads from mlp_out@0 to layer 1"),
        ("resid_pre@0", [[(1, 1), (0, 1)]], "none of these paths"),
        (
            "resid_pre@0",
            [[(1, 0), (1, 1)], [(1, 0)]],
            r"heads \[1\.0, 1\.1\] lead from none of resi",
        ),
    ],
)
def test_paths_that_do_not_lead_to_the_layer_are_refused(sites, paths, said):
    with pytest.raises(ModelError, match=said):
        upstream_basis(small_model(), {sites: basis(40, 32)}, 1, paths=paths)


def test_a_head_that_is_no_pair_of_layer_and_head_is_refused_in_our_words():
    model = small_model()
    paths, bases = text_paths(model, TOKENS), {"resid_pre@0": Basis.of_tokens(model)}
    for wrong in [(0,)], [(0, 0, 0)]:
        with pytest.raises(ArgumentError, match="heads is a list"):
            paths.through(wrong)
        with pytest.raises(ArgumentError, match="paths is a list"):
            upstream_basis(model, bases, 1, paths=[wrong])
    with pytest.raises(ModelError, match="Give how many heads a path passes"):
        upstream_basis(model, bases, 1, paths=-1)


def test_scores_of_a_real_model_in_float32_are_the_sum_of_pairs_of_writers():
    model = load_model("stories260K-bilinear", device="cpu")
    tokens = model.tokens("Once upon a time, there was a little girl named Lily.")[0]
    paths, every = text_paths(model, tokens), torch.arange(len(tokens))
    for layer in (1, 4):
        here = Site("resid_pre", layer)
        scale = model.scale(paths.streams[here])
        scores = scores_of_run(model.network, tokens[None], layer)[0]
        before = [site for site in paths.written if (stage(site) or 0) <= 2 * layer]
        for query, key in ((12, 12), (12, 3), (7, 0)):
            parts = [
                torch.cat([paths.carry(paths.written[site], site, every, here, at=at)
                           for site in before]) / scale[at]
                for at in (query, key)
            ]  # fmt: skip
            for number in range(model.n_head):
                terms = model.head(layer, number).terms(*parts, query - key, at=key).double()
                error = (terms.sum() - scores[number, query, key]).abs()
                assert error / terms.abs().max() < 1e-4
