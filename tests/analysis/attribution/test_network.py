"""The attribution graph adds up from the logits to the tokens, and says what an edit changes."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import networkx as nx
import pandas as pd
import pytest
import torch

from analysis import attribution_graph
from analysis.attribution.node_gates import Carried
from analysis.attribution.traced import AttributionGraph
from analysis.attribution.writers import Writers
from analysis.behaviour.answers import single_tokens
from analysis.behaviour.cases import Behaviour, Case
from analysis.behaviour.in_model import in_model
from circuits.errors import (
    CircuitsError,
    DictionaryError,
    FeatureRangeError,
    GraphError,
    ModelError,
)
from circuits.graph import read_graph
from circuits.model import Site, load_model
from sae import load_dictionaries
from tests.support.small_dictionaries import small_transcoder
from tests.support.small_networks import KINDS, exact_norms, small_model
from tests.support.small_traces import ALL, TEXT, dictionary, parts, traced


def pieces(kind: str = "llama", n_layer: int = 2, dtype=torch.float64) -> Writers:
    model, dictionaries = parts(kind, n_layer, dtype)
    return Writers.of(model, dict(enumerate(dictionaries)), model.tokens(TEXT)[0])


def nodes_of(writers: Writers, layer: int):
    """The position, feature and activation of each active feature of a layer."""
    table = writers.table
    rows = table[(table["kind"] == "feature") & (table["layer"] == layer) & ~table["empty"]]
    for row in rows.itertuples():
        yield row.position, torch.tensor([row.feature]), row.value


def sums(table, of: str = "node"):
    return table.groupby(of)["value"].sum()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("n_layer", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_all_pieces_add_to_a_feature_is_its_activation(kind, n_layer, dtype, near):
    writers = pieces(kind, n_layer, dtype)
    for layer in range(n_layer):
        for position, feature, value in nodes_of(writers, layer):
            added = writers.contributions(writers.features(layer, position, feature))[0]
            assert abs(float(added.sum()) - value) < near * float(added.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gates_of_a_feature_give_each_piece_half_of_its_pairs(kind):
    writers = pieces(kind)
    carried = Carried(writers, torch.arange(0, len(writers), 3).numpy())
    for position, feature, _ in list(nodes_of(writers, 1))[::5]:
        form = carried.pairs(1, position, writers.gates(1, feature)[0])
        added = writers.contributions(writers.features(1, position, feature))[0]
        inside = carried.numbers < writers.constant(0)
        made = form.sum(1)[: len(inside)][torch.tensor(inside)]
        torch.testing.assert_close(made, added[carried.numbers[inside]], rtol=1e-8, atol=1e-8)
        constant = form.sum(1)[-2] + writers.level(1, feature)[0]
        torch.testing.assert_close(constant, added[writers.constant(1)], rtol=1e-8, atol=1e-8)


def test_heads_and_the_stream_share_what_a_piece_adds():
    writers = pieces(n_layer=3)
    carried = Carried(writers, torch.arange(writers.constant(0)).numpy())
    position, feature, _ = list(nodes_of(writers, 2))[-1]
    readings = writers.features(2, position, feature)
    names, moved = carried.ways(readings)
    added = writers.contributions(readings)[:, : writers.constant(0)]
    torch.testing.assert_close(moved.sum(2), added, rtol=1e-8, atol=1e-8)
    # of what MLP 1 wrote, by each head of layer 2 alone
    block = writers.blocks[Site("mlp_out", 1)]

    def read(paths):
        pulled = paths.pull(readings.directions, "mlp_in@2", position, [block.site])
        return torch.einsum("rpm,psm->rps", pulled[block.site], block.vectors).flatten(1)

    for head in range(writers.model.n_head):
        alone = read(writers.paths.through([(2, head)])) - read(writers.paths.through([]))
        made = moved[:, block.numbers, names.index(f"head 2.{head}")]
        torch.testing.assert_close(made, alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("budget", [ALL, {"n_nodes": 30, "n_gates": 60, "n_followed": 5}])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("n_layer", [2, 3])
def test_every_nodes_gates_and_edges_add_up_to_its_value(n_layer, dtype, near, budget):
    graph = traced("llama with biases", n_layer, dtype, targets=["w8", "w9"], **budget)
    nodes = graph.nodes.set_index("node")
    made = nodes[nodes["kind"].isin(("logit", "feature"))]
    assert len(made) > 4
    for table in (graph.gates, graph.edges):
        largest = table["value"].abs().groupby(table["node"]).max()
        assert ((sums(table) - made["value"]).abs() / largest < near).all()
        assert set(table["node"]) == set(made.index)
    assert (made["off_by"] < near).all()
    assert nodes.drop(made.index)["off_by"].isna().all()


@pytest.mark.parametrize("against", [(), ("w8", "w12")])
def test_the_value_of_a_target_is_the_models_logit(against):
    model, dictionaries = parts()
    tokens = model.tokens(TEXT)
    logits = model.logits(tokens)[0, -1]
    graph = attribution_graph(model, dictionaries, TEXT, ["w8", "w9"], against=against)
    less = (logits[8] + logits[12]) / 2 if against else 0
    wanted = [float(logits[n] - less) for n in (8, 9)]
    made = graph.nodes.set_index("node")["value"]
    ending = " less w8, w12" if against else ""
    assert [made[f"logit w{n}{ending}"] for n in (8, 9)] == pytest.approx(wanted, rel=1e-5)
    likeliest = attribution_graph(model, dictionaries, TEXT).nodes
    assert likeliest["value"][0] == pytest.approx(float(logits.max()), rel=1e-5)


@pytest.mark.parametrize("n_followed", [1, 10**6])
def test_no_influence_is_lost_on_its_way_to_where_it_ends(n_followed):
    graph = traced("llama with biases", 3, n_followed=n_followed)
    assert sum(graph.shares.values()) == pytest.approx(1, abs=1e-12)
    assert (graph.shares["not followed"] > 0) == (n_followed == 1)
    by_layer = graph.layers[["error", "bias", "whole MLP", "not followed"]].sum()
    assert by_layer.sum() + graph.shares["token"] == pytest.approx(1, abs=1e-12)


def test_a_graph_of_all_nodes_keeps_all_influence_and_less_nodes_keep_less():
    kept = [traced(n_nodes=n, n_gates=100).kept["through nodes alone"] for n in (10, 20, 40, 10**6)]
    assert all(less < more for less, more in pairwise(kept))
    assert kept[-1] == pytest.approx(1, abs=1e-12)
    assert len(traced(n_nodes=20).nodes) == 20


def test_gates_that_are_left_out_are_in_the_rest():
    whole, part = traced(**ALL), traced(**{**ALL, "n_gates": 25})
    assert (part.gates["kind"] != "rest").sum() == 25
    assert part.kept["influence of gates"] < whole.kept["influence of gates"] <= 1
    ends = ["node", "kind", "first", "second"]
    known = whole.gates.set_index(ends)["value"]
    named = part.gates[part.gates["kind"] != "rest"].set_index(ends)["value"]
    assert (known[named.index] - named).abs().max() < 1e-9


def fixed_norms(model):
    """The same model, whose patterns and scales no edit changes."""
    for name, weight in model.network.named_parameters():
        if "q_proj" in name:
            weight.zero_()
    decoder = model.network.model
    pairs = [(block.input_layernorm, block.post_attention_layernorm) for block in decoder.layers]
    for norm in (*(norm for pair in pairs for norm in pair), decoder.norm):
        norm.forward = lambda x, norm=norm: norm.weight * x / 1e15
    return model


def frozen_model(n_layer: int = 2):
    model = exact_norms(small_model("llama with biases", n_layer=n_layer, rms_norm_eps=1e30))
    for name, weight in model.network.named_parameters():
        if "layernorm" in name or name.endswith("model.norm.weight"):
            weight.mul_(1e15)
        if "down_proj.weight" in name:
            weight.mul_(0.1)  # nothing else keeps the stream from growing
    return fixed_norms(model)


def without(model, layer: int, position: int, written, point: str = "mlp_out"):
    """In a block: a piece of what an MLP, or another part, wrote is taken away."""

    def edited(y):
        y = y.clone()
        y[0, position] -= written
        return y

    return model.replaced({f"{point}@{layer}": edited})


def test_taking_a_piece_away_changes_a_feature_by_its_gates():
    model = frozen_model()
    dictionaries = [dictionary(layer) for layer in range(2)]
    graph = attribution_graph(model, dictionaries, TEXT, **ALL)
    tokens, site = model.tokens(TEXT), Site("mlp_out", 1)
    before = dictionaries[1].preactivations(model.read(tokens, site)[site][0])
    nodes = graph.nodes[graph.nodes["kind"] == "feature"]
    for cause in nodes[nodes["layer"] == 0].iloc[::7].itertuples():
        written = cause.value * dictionaries[0].decoder[cause.feature]
        with without(model, 0, cause.position, written):
            after = dictionaries[1].preactivations(model.read(tokens, site)[site][0])
        touched = (graph.gates[["first", "second"]] == cause.node).any(axis=1)
        lost = sums(graph.gates[touched])
        moved = 0
        for effect in nodes[nodes["layer"] == 1].itertuples():
            change = float((after - before)[effect.position, effect.feature])
            assert change == pytest.approx(-lost.get(effect.node, 0.0), rel=1e-6, abs=1e-7)
            moved += abs(change) > 1e-3
        assert moved or cause.position == 8


def test_taking_a_piece_of_the_last_layer_away_changes_the_logit_by_its_edge():
    model, dictionaries = parts()
    graph = attribution_graph(model, dictionaries, TEXT, ["w8"], **ALL)
    tokens, end = model.tokens(TEXT), Site("resid_post", 1)
    stream = model.read(tokens, end)[end][0, -1]
    read = model.unembedding[8] / model.scale(stream)  # the scale is the run's
    edges = graph.edges.set_index(["source", "node"])["value"]
    nodes = graph.nodes[(graph.nodes["kind"] == "feature") & (graph.nodes["layer"] == 1)]
    at_end = nodes[nodes["position"] == tokens.shape[1] - 1]
    assert len(at_end) == 4
    for node in at_end.itertuples():
        written = node.value * dictionaries[1].decoder[node.feature]
        with without(model, 1, node.position, written):
            edited = model.read(tokens, end)[end][0, -1]
        change = float((edited - stream) @ read)
        assert change == pytest.approx(-edges[node.node, "logit w8"], rel=1e-6)


def test_the_effect_of_a_node_is_what_the_targets_lose_without_it():
    model = frozen_model(3)
    dictionaries = [dictionary(layer) for layer in range(3)]
    graph = attribution_graph(model, dictionaries, TEXT, ["w8", "w9"], against=["w12"], **ALL)
    tokens, known = model.tokens(TEXT), dict(enumerate(dictionaries))
    writers = Writers.of(model, known, tokens[0])
    numbers = {writers.name(n): n for n in range(len(writers))}

    def target():
        logits = model.logits(tokens)[0, -1]
        return float(logits[[8, 9]].mean() - logits[12])

    before, kinds = target(), set()
    nodes = graph.nodes[graph.nodes["kind"] != "logit"]
    for node in (
        nodes.groupby(["kind", "layer"]).sample(3, replace=True, random_state=0).itertuples()
    ):
        if node.node.startswith("constant"):
            assert node.effect != node.effect  # written by nothing
            continue
        ((site, _, written, _),) = writers.vectors(torch.tensor([numbers[node.node]]).numpy())
        with without(model, site.layer, node.position, written[0], site.point):
            lost = before - target()
        assert node.effect == pytest.approx(lost, rel=1e-6, abs=1e-9 * abs(before))
        kinds.add((node.kind, site.point))
    assert kinds == {("token", "resid_pre"), ("feature", "mlp_out"), ("error", "mlp_out"),
                     ("bias", "mlp_out"), ("bias", "attn_out")}  # fmt: skip
    assert graph.nodes["effect"][:2].isna().all()


def test_a_layer_without_a_dictionary_of_its_output_is_shown_whole():
    model, (first, second) = parts()
    elsewhere = replace(first, site=Site("mlp_in", 0))
    for given in ([second], [elsewhere, second]):
        graph = attribution_graph(model, given, TEXT, **ALL)
        (note,) = graph.notes
        assert note.startswith("no dictionary of mlp_out in layer 0: ")
        assert "circuits sae train RUN --sites mlp_out@0 (" in note
        shown = graph.nodes[graph.nodes["layer"] == 0]
        assert set(shown["kind"]) == {"token", "whole MLP"}
        assert graph.shares["whole MLP"] > 0
        assert graph.nodes["off_by"].max() < 1e-8
    assert not attribution_graph(model, [first, second], TEXT).notes


def test_an_error_is_named_with_its_share_of_each_layer():
    model, dictionaries = parts()
    exact = replace(
        dictionaries[1], k=40, relu=False,
        decoder=torch.linalg.pinv(dictionaries[1].encoder).mT, bias=torch.zeros(40).double(),
    )  # fmt: skip
    layers = attribution_graph(model, [dictionaries[0], exact], TEXT).layers
    assert layers["error share"][1] < 1e-9 < 1e-3 < layers["error share"][0]


def test_what_is_wrong_is_refused_in_one_line():
    model, both = parts()
    for given, error, said in [
        ({"text": " ".join(["w4"] * 40)}, ModelError, "41 tokens, and .* at most 32"),
        ({"text": "w4 zebra"}, ModelError, "does not know 'zebra'"),
        ({"targets": ["zebra"]}, ModelError, "'zebra' has no known .*: it is unknown to"),
        ({"targets": ["w8"], "against": ["w8"]}, ModelError, "'w8' against itself"),
        ({"dictionaries": [*both, both[0]]}, DictionaryError, "two dictionaries of mlp_out@0"),
        ({"dictionaries": []}, DictionaryError, "no dictionary of mlp_out was given"),
        ({"dictionaries": [small_transcoder()]}, DictionaryError, "activations of 16"),
        ({"n_nodes": 1}, ModelError, "1 node does not lead from 'logit"),
        ({"n_gates": 0}, FeatureRangeError, "n_gates"),
    ]:
        with pytest.raises(error, match=said) as caught:
            attribution_graph(**{"model": model, "dictionaries": both, "text": TEXT, **given})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["", " ", "\t", "\u2581", "\u0120", "\u2581 "])
def test_a_space_alone_is_no_word(word):
    """Some tokenizers have a token for it."""
    model = load_model("stories260K-bilinear", device="cpu")
    dictionaries = load_dictionaries("stories260K-bilinear", device="cpu")
    assert single_tokens(model.tokenizer, "Once upon a time", ["the", word]).keys() == {"the"}
    for how in ({"targets": [word]}, {"targets": ["the"], "against": [word]}):
        with pytest.raises(ModelError, match=r"has no known .* the text: it (is empty|begins)"):
            attribution_graph(model, dictionaries, "Once upon a time", **how)
    answers = {"good": ("the", word), "bad": (word, "the")}
    behaviour = Behaviour("blank", tuple(
        Case(f"Once upon {one} {noun}", label, (right,), (wrong,))
        for noun in ("time", "day")
        for one, (label, (right, wrong)) in zip(("a", "the"), answers.items(), strict=True)
    ))  # fmt: skip
    with pytest.raises(CircuitsError, match=r"no token of .* can be an answer") as found:
        in_model(behaviour, model)
    assert "\n" not in str(found.value)
    assert "(it has )" not in str(found.value)


def test_words_are_taken_with_the_mark_of_their_space_and_without():
    model = load_model("stories260K-bilinear", device="cpu")
    text, words = "Once upon a time there was a girl named", ("Lily", "\u2581Lily", "\u0120Lily")
    dictionaries = load_dictionaries("stories260K-bilinear", device="cpu")
    token = model.tokenizer.convert_tokens_to_ids("\u2581Lily")
    assert single_tokens(model.tokenizer, text, words) == dict.fromkeys(words, token)
    graph = attribution_graph(model, dictionaries, text, words, n_nodes=20, n_followed=9)
    assert (graph.nodes["kind"] == "logit").sum() == 1
    with pytest.raises(
        ModelError, match="'Lily' against '\u2581Lily', of the same token, is always"
    ):
        attribution_graph(model, dictionaries, text, ["Lily"], against=["\u2581Lily"])


def test_a_word_of_several_tokens_is_followed_by_its_first():
    model = load_model("stories260K-bilinear", device="cpu")
    dictionaries = load_dictionaries("stories260K-bilinear", device="cpu")
    text, budget = "Once upon a time there was a", {"n_nodes": 20, "n_followed": 9}
    first = model.tokenizer(f"{text} elephant")["input_ids"][
        len(model.tokenizer(text)["input_ids"])
    ]
    piece = model.token_texts([first])[0].strip("\u2581 ")
    for word in ("elephant", "\u2581elephant"):
        graph = attribution_graph(model, dictionaries, text, [word], **budget)
        value = graph.nodes.set_index("node")["value"][f"logit {word}"]
        assert value == pytest.approx(
            float(model.logits(model.tokens(text))[0, -1, first]), rel=1e-4
        )
        said = f"words of several tokens are followed by their first: {word} by {piece}"
        assert said in graph.notes
    with pytest.raises(ModelError, match="'elephant' against 'elephants', of the same token"):
        attribution_graph(model, dictionaries, text, ["elephant"], against=["elephants"])


def test_a_dictionary_under_another_site_and_a_text_of_no_word_are_refused():
    model, dictionaries = parts("llama with biases")
    first, second = (d.site_in(model, "here") for d in dictionaries[:2])
    crossed = {first: dictionaries[1], second: dictionaries[0]}
    for keyed in (crossed, {str(site): each for site, each in crossed.items()}):
        with pytest.raises(DictionaryError, match=f"the dictionary under {first} reads {second}"):
            attribution_graph(model, keyed, TEXT, ["w8"])
    named = {str(first): dictionaries[0], str(second): dictionaries[1]}
    by_name, by_site = (
        attribution_graph(model, keyed, TEXT, ["w8"])
        for keyed in (named, {first: dictionaries[0], second: dictionaries[1]})
    )
    pd.testing.assert_frame_equal(by_name.nodes, by_site.nodes)
    for nothing in ("", "  \n"):
        with pytest.raises(ModelError, match="has no word, so there is nothing to trace back to"):
            attribution_graph(model, dictionaries, nothing, ["w8"])


def test_the_graph_has_gates_as_nodes_and_is_kept_in_two_files(tmp_path):
    graph = traced(targets=["w8"], n_nodes=30)
    made = graph.graph()
    assert nx.is_directed_acyclic_graph(made)
    gates = [name for name, about in made.nodes(data=True) if about["kind"].startswith("gate")]
    assert len(gates) == len(graph.gates)
    into = made.in_edges("logit w8", data="weight")
    total = graph.nodes.set_index("node")["value"]["logit w8"]
    assert sum(weight for *_, weight in into) == pytest.approx(total)
    path = graph.save(tmp_path / "one.json")
    content = json.loads(path.read_text())
    assert content["shares"] == pytest.approx(dict(graph.shares))
    assert len(content["nodes"]) == 30
    kept = read_graph(path.with_suffix(".graphml"))
    assert set(kept) == set(made)
    assert set(kept.edges) == set(made.edges)


def test_a_graph_is_read_as_it_was_saved(tmp_path):
    model, dictionaries = parts("llama with biases")
    for known in (dictionaries, dictionaries[1:]):
        graph = attribution_graph(model, known, TEXT, ["w8"], against=["w9"], n_nodes=30)
        assert "constant" in set(graph.gates["kind"])
        read = AttributionGraph.load(graph.save(tmp_path / "one.json"))
        for table in ("nodes", "gates", "edges", "layers"):
            pd.testing.assert_frame_equal(getattr(read, table), getattr(graph, table))
        for field in ("text", "tokens", "shares", "kept", "notes", "about"):
            assert getattr(read, field) == getattr(graph, field)
        assert read.attribution() == graph.attribution()


WRONG = {
    "another format": (("version",), 1, "not an attribution graph of this version"),
    "an unknown field": (("more",), 1, "unknown more"),
    "text that is a list": (("text",), ["w8"], "text is not text"),
    "half a character": (("nodes", 2, "token"), "\ud800", r"nodes holds '\\ud800', half of a"),
    "no nodes": (("nodes",), [], "it has no node, no token or no layer"),
    "no tokens": (("tokens",), [], "it has no node, no token or no layer"),
    "no layers": (("layers",), [], "it has no node, no token or no layer"),
    "a node above the network": (("nodes", 2, "layer"), 9, "a layer is none of the"),
    "influence below 0": (("nodes", 2, "influence"), -1, "influence is below 0"),
    "a share that is text": (("shares", "token"), "much", "'token' does not hold numbers"),
    "a share that is null": (("shares", "token"), None, "shares lacks a number"),
    "another share": (("kept", "more"), 1, "in kept, .*unknown more"),
    "a token that is a number": (("tokens", 0), 1, "tokens is not a list of text"),
    "a kind of node": (("nodes", 2, "kind"), "idea", "a kind is none of"),
    "a node twice": (("nodes", 2, "node"), "token @0", "a name of its own"),
    "a node after the text": (("nodes", 2, "position"), 99, "position does not hold"),
    "a part of a position": (("nodes", 2, "position"), 0.5, "position does not hold"),
    "a node without influence": (("nodes", 2, "influence"), None, "lacks a number of influence"),
    "a row that lacks a column": (("gates", 1), {"node": "token @0"}, "row 1 of gates, missing"),
    "a gate of no node": (("gates", 1, "first"), "f99 L0 @1", "name f99 L0 @1, which is no node"),
    "a gate into nothing": (("gates", 1, "node"), "", "gates or edges name , which is no node"),
    "an edge to nowhere": (("edges", 0, "node"), "rest", "name rest, which is no node"),
    "a budget that is text": (("about", "n_gates"), "9", "n_gates cannot be '9'"),
    "a target without a probability": (("about", "probabilities"), {}, "probabilities, missing"),
    "a probability beyond 1": (("about", "probabilities", "logit w8"), 7.0, "not from 0 to 1"),
    "a probability below 0": (("about", "probabilities", "logit w8"), -3, "not from 0 to 1"),
    "a table that is an object": (("layers",), {}, "layers is not a list of rows"),
}  # fmt: skip


@pytest.mark.parametrize(("where", "value", "said"), WRONG.values(), ids=WRONG)
def test_a_changed_file_is_refused_in_one_line(tmp_path, where, value, said):
    path = _saved(tmp_path)
    content = json.loads(path.read_text())
    *above, last = where
    holder = content
    for step in above:
        holder = holder[step]
    holder[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=said) as caught:
        AttributionGraph.load(path)
    assert str(caught.value).startswith(str(path))
    assert "circuits trace RUN TEXT" in str(caught.value)
    assert "\n" not in str(caught.value)


@cache
def _one_graph():
    return traced(targets=["w8"], n_nodes=12, n_gates=20)


def _saved(folder):
    return _one_graph().save(folder / "one.json")


def test_other_tools_get_the_graph_with_gates_as_nodes(tmp_path):
    graph = traced("llama with biases", targets=["w8"], n_nodes=30)
    document = json.loads(graph.write_attribution(tmp_path).read_text())
    nodes = {node["node_id"]: node for node in document["nodes"]}
    assert len(nodes) == 30 + len(graph.gates)
    assert document["metadata"]["prompt_tokens"] == list(graph.tokens)
    (logit,) = (node for node in nodes.values() if node["feature_type"] == "logit")
    model = parts("llama with biases")[0]
    answer = model.tokenizer.convert_tokens_to_ids("w8")
    chance = float(model.logits(model.tokens(TEXT))[0, -1].softmax(-1)[answer])
    assert logit["token_prob"] == pytest.approx(chance, rel=1e-4)
    assert logit["clerp"] == f'Output "w8" (p={chance:.3f})'
    into = [link for link in document["links"] if link["target"] == logit["node_id"]]
    total = graph.nodes["value"][0]
    assert sum(link["weight"] for link in into) == pytest.approx(total)
    for link in document["links"]:  # a cause lies below its gate, and that below what it makes
        below, above = nodes[link["source"]], nodes[link["target"]]
        assert int(below["layer"]) < int(above["layer"])
        assert below["ctx_idx"] <= above["ctx_idx"]
    kinds = {node["feature_type"] for node in nodes.values()}
    assert kinds == {"logit", "embedding", "mlp reconstruction error", "cross layer transcoder"}
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in listed] == [document["metadata"]["slug"]]
