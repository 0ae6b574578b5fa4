"""A circuit survives every format, with any label; files that are not whole are refused."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.studies.planted import Planted, plant
from circuits.errors import CircuitsError, GraphError
from circuits.graph import clusters, interaction_graph
from circuits.graph.circuit import Circuit
from circuits.graph.export import (
    attribution,
    attribution_query,
    escape,
    read_graph,
    unescape,
    write_attribution,
    write_graph,
)
from circuits.graph.records import (
    Choice,
    Feature,
    Interaction,
    Output,
    Selection,
    Source,
    Thresholds,
)
from tests.support.small_graphs import small

OF_0_1 = Path(__file__).parents[2] / "support" / "files_of_0_1"
HOSTILE = ['"', "<b>&amp;</b>", "a\nb\tc\r\nd", "", " two  spaces ", "\x00\x1f\x85￾", "\\x{41}",
           "\ud800", "日本語 🙂", "]]>", "Output \"x\" (p=0.5)", "\u2028\u200b"]  # fmt: skip


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    inter, _ = plant(Planted(n_gates=2, n_feature=256))
    graph = interaction_graph(inter, 0, significant=0.05)
    return Circuit.of(graph, clusters(graph))


def labelled(*labels: str) -> Circuit:
    features = tuple(Feature(i, label, group=0) for i, label in enumerate(labels))
    pairs = tuple(Interaction(0, i, 1.5 - i) for i in range(len(labels)))
    return Circuit("by hand", (Output(3, labels[0]),), features, pairs, energy=0.5)


def test_a_circuit_is_read_as_it_was_saved(circuit, tmp_path):
    path = circuit.save(tmp_path / "a" / "circuit.json")
    assert Circuit.load(path) == circuit
    assert path.read_bytes() == Circuit.load(path).save(tmp_path / "again.json").read_bytes()


def test_the_file_has_the_documented_schema(circuit, tmp_path):
    content = json.loads(circuit.save(tmp_path / "circuit.json").read_text())
    assert (content["schema"], content["version"]) == ("bilinear-circuits/circuit", 3)
    assert set(content) == {
        "schema", "version", "name", "outputs", "features", "interactions", "gates", "groups",
        "source", "selection", "evidence", "proposal", "energy", "explained",
    }  # fmt: skip
    rows = {
        "outputs": {"feature", "label", "effect", "share"},
        "features": {"feature", "label", "group", "loading", "stability", "frequency", "mean",
                     "first_effect", "second_effect", "joint_effect"},
        "interactions": {"first", "second", "weight", "own", "z", "q", "q_form", "coactivation",
                         "together", "data_weight", "contrast", "elsewhere", "computed",
                         "inherited"},
        "gates": {"first", "second", "gate", "weight", "share", "coherence", "contrast"},
        "groups": {"number", "name", "effect", "stability"},
    }  # fmt: skip
    for name, keys in rows.items():
        assert content[name]
        assert all(set(row) == keys for row in content[name])
    assert {gate["gate"] for gate in content["gates"]} == {"AND", "XOR", "OR"}


def test_a_circuit_does_not_change(circuit):
    with pytest.raises(FrozenInstanceError):
        circuit.name = "other"
    with pytest.raises(TypeError):
        circuit.features[0] = circuit.features[1]


def test_its_tables_and_graph_are_the_graph_it_was_made_of():
    inter, _ = plant(Planted(n_gates=1, n_feature=256))
    graph = interaction_graph(inter, 0, significant=0.05)
    circuit = Circuit.of(graph, clusters(graph), name="and")
    tables = circuit.tables()
    assert len(tables["interactions"]) == graph.number_of_edges()
    assert set(tables["features"]["feature"]) == set(graph)
    again = circuit.graph()
    for i, j, about in graph.edges(data=True):
        assert again.edges[i, j] == about
    assert circuit.energy == graph.graph["energy"]


def test_groups_found_from_weights_have_their_stability(circuit):
    assert [group.name for group in circuit.groups] == [
        f"group {n}" for n in range(len(circuit.groups))
    ]
    for group in circuit.groups:
        of_members = [f.stability for f in circuit.features if f.group == group.number]
        assert group.stability == pytest.approx(sum(of_members) / len(of_members))
        assert group.effect is None


def test_a_circuit_of_0_1_is_read():
    circuit = Circuit.load(OF_0_1 / "negation.json")
    old = json.loads((OF_0_1 / "negation.json").read_text())
    evidence = circuit.evidence
    assert (evidence.behaviour, evidence.metric) == ("negation", "logit difference")
    assert evidence.factors == ("negated", "positive")
    assert evidence.affected == ("not good", "not bad")
    assert evidence.n_cases == 256
    assert evidence.thresholds == Thresholds(coverage=0.9, n_pairs=16, right=0.75)
    assert evidence.shares.through_outputs == old["shares"]["through outputs"]
    assert evidence.shares.computed == old["shares"]["computed"]
    assert [d.features for d in evidence.detectors] == [(30,), (254, 236, 49, 183)]
    assert circuit.source.layer == 0
    assert circuit.source.inputs == old["source"]["inputs"]
    assert [group.name for group in circuit.groups] == ["negated", "positive", "not positive"]
    pairs = [{**pair, "q_form": None} for pair in old["interactions"]]  # which 0.1 did not have
    assert [asdict(pair) for pair in circuit.interactions] == pairs
    assert circuit.proposal is None


def test_classes_with_commas_in_a_circuit_of_0_1_are_read():
    evidence = Circuit.load(OF_0_1 / "but.json").evidence
    assert evidence.affected == ("good, but", "bad, but")
    assert evidence.factors == ("positive",)


def test_a_proposal_of_0_1_is_read(tmp_path):
    circuit = Circuit.load(OF_0_1 / "proposal.json")
    assert circuit.evidence is None
    assert asdict(circuit.proposal) == {
        "in_gates": pytest.approx(1), "energy_of_four": pytest.approx(1), "opposite": 5,
    }  # fmt: skip
    assert circuit.selection == Selection(
        Choice.SIGNIFICANT, 0.05, circuit.selection.groups, seed=0
    )
    assert circuit.source.reader == "encoder"
    assert len(circuit.source.interactions) == 64
    assert Circuit.load(circuit.save(tmp_path / "new.json")) == circuit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": True}, "of schema version True"),
        ({"name": 3}, "name = 3 in the circuit is not text"),
        ({"name": "a \ud800"}, r"name = 'a \\ud800' in the circuit is not text"),
        ({"energy": "0.5"}, "energy = .0.5. in the circuit is not a number or null"),
        ({"energy": float("nan")}, "energy = nan in the circuit is not a number"),
        ({"explained": "all"}, "explained = 'all' in the circuit is not a number or null"),
        ({"selection": {"pairs": "luck", "level": 1, "groups": None, "seed": 0}},
         "pairs = 'luck' in selection is not one of by_hand, n_edges, coverage, significant"),
        ({"selection": ["ab"]}, r"selection is \['ab'\], not an object"),
        ({"source": None}, "source is None, not an object"),
        ({"version": 4}, "of schema version 4; this version of the toolkit reads 2 and 3"),
        ({"version": 1}, "of schema version 1; this version of the toolkit reads 2 and 3"),
        ({"version": 2}, "of version 2, missing"),
        ({"schema": "other"}, "'schema' is not"),
        ({"features": []}, "interactions name features .* which it does not have"),
        ({"surprise": 1}, r"unknown \['surprise'\]"),
        ({"outputs": [{"feature": "three", "label": "x", "effect": None, "share": None}]},
         "feature = 'three' in outputs is not a whole number"),
        ({"outputs": []}, "it has no output"),
        ({"groups": [{"number": 0, "name": "a", "effect": None, "stability": True}]},
         "stability = True in groups is not a number or null"),
        ({"groups": 2 * [{"number": 0, "name": "a", "effect": None, "stability": None}]},
         "a group is listed twice"),
        ({"evidence": {"behaviour": "negation"}}, "in evidence, missing"),
        ({"interactions": [{"first": 1}]}, "in interactions, missing"),
        ({"interactions": 3}, "interactions = 3 in the circuit is not a list of Interaction"),
        ({"gates": [{"first": 99, "second": 99, "gate": "AND", "weight": 1.0, "share": 1.0,
                     "coherence": 1.0, "contrast": None}]},
         "gates name groups 99, which no feature is in"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(circuit, tmp_path, change, said):
    path = circuit.save(tmp_path / "circuit.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CircuitsError, match=said):
        Circuit.load(path)


def test_a_file_that_is_cut_short_is_refused_and_nothing_half_written_is_left(circuit, tmp_path):
    path = circuit.save(tmp_path / "circuit.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(CircuitsError, match="not readable JSON"):
        Circuit.load(path)
    lost = replace(circuit.interactions[0], weight=float("nan"))
    broken = replace(circuit, interactions=(lost, *circuit.interactions[1:]))
    with pytest.raises(CircuitsError, match="must be finite"):
        broken.save(tmp_path / "broken.json")
    with pytest.raises(CircuitsError, match="energy is nan, not a finite number"):
        replace(circuit, energy=float("nan"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["circuit.json"]


def test_a_feature_or_a_pair_listed_twice_is_refused():
    with pytest.raises(CircuitsError, match="a feature is listed twice"):
        Circuit("x", (Output(0, "x"),), (Feature(1, "a"), Feature(1, "b")), ())
    pairs = (Interaction(1, 2, 0.5), Interaction(2, 1, 0.5))
    with pytest.raises(CircuitsError, match="a pair is listed twice"):
        Circuit("x", (Output(0, "x"),), (Feature(1, "a"), Feature(2, "b")), pairs)


@pytest.mark.parametrize("weight", [None, float("nan"), True, "1", 10**400])
def test_a_weight_that_is_not_a_number_is_refused(circuit, tmp_path, weight):
    path = circuit.save(tmp_path / "circuit.json")
    content = json.loads(path.read_text())
    content["interactions"][0]["weight"] = weight
    path.write_text(json.dumps(content))
    with pytest.raises(CircuitsError, match=r"weight = .* in interactions is not a number"):
        Circuit.load(path)


@pytest.mark.parametrize(
    ("rows", "name", "said"),
    [
        ("interactions", "weight", "the weight of a pair is 1e+308"),
        ("interactions", "data_weight", "the data_weight of a pair is 1e+308"),
        ("interactions", "contrast", "the contrast of a pair is 1e+308"),
        ("gates", "weight", "the weight of a gate is 1e+308"),
        ("features", "loading", "the loading of a feature is 1e+308"),
        ("outputs", "effect", "the effect of an output is 1e+308"),
    ],
)
def test_a_number_whose_sums_leave_float64_is_refused_as_it_is_read(
    circuit, tmp_path, rows, name, said
):
    path = circuit.save(tmp_path / "circuit.json")
    content = json.loads(path.read_text())
    content[rows][0][name] = 1e308
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError) as refused:
        Circuit.load(path)
    assert str(refused.value) == (
        f"{path}: circuit 'output 0': {said}: numbers above 1e+150 cannot be squared or added up. "
        f"Look at where it was computed, or make the circuit again."
    )


def test_a_graph_of_such_weights_makes_no_circuit():
    graph = interaction_graph(small(), 3, n_edges=3)
    nx.set_edge_attributes(graph, 1e308, "weight")
    with pytest.raises(CircuitsError, match=r"inf|1e\+308"):
        Circuit.of(graph)


def test_part_of_a_graph_is_part_of_a_circuit():
    inter = small()
    graph = interaction_graph(inter, 3, n_edges=30)
    part = graph.subgraph(list(graph)[:6]).copy()
    nx.set_edge_attributes(part, "red", "colour")  # what is not of a circuit is left out
    first, second = sorted(next(iter(part.edges)))
    circuit = Circuit.of(part)
    matrix = inter.matrix(3)
    squares = [
        float(matrix[p.first, p.second]) ** 2 * (1 if p.first == p.second else 2)
        for p in circuit.interactions
    ]
    assert circuit.energy == pytest.approx(sum(squares) / float(inter.energies[3]))
    assert circuit.energy < Circuit.of(graph).energy
    del part.edges[first, second]["weight"]
    with pytest.raises(CircuitsError, match="is an edge without 'weight'"):
        Circuit.of(part)


def test_what_a_part_explains_is_not_known():
    inter, _ = plant(Planted(n_gates=2, n_feature=256))
    graph = interaction_graph(inter, 0, significant=0.05)
    assert Circuit.of(graph).explained == graph.graph["explained"]
    assert Circuit.of(graph.subgraph(list(graph)[:3])).explained is None


# --- formats of others ---


@pytest.mark.parametrize("ending", ["graphml", "gexf"])
def test_graph_files_keep_every_attribute(circuit, tmp_path, ending):
    graph = circuit.graph()
    again = read_graph(write_graph(circuit, tmp_path / f"x.{ending}"))
    assert {node: dict(about) for node, about in again.nodes(data=True)} == {
        str(node): about for node, about in graph.nodes(data=True)
    }
    assert again.number_of_edges() == graph.number_of_edges()
    for i, j, about in graph.edges(data=True):
        assert again.edges[str(i), str(j)] == about


@pytest.mark.parametrize("ending", ["graphml", "gexf"])
def test_plain_networkx_reads_them_too(circuit, tmp_path, ending):
    path = write_graph(circuit, tmp_path / f"x.{ending}")
    plain = {"graphml": nx.read_graphml, "gexf": nx.read_gexf}[ending](path)
    assert plain.number_of_nodes() == len(circuit.features)


@pytest.mark.parametrize("ending", ["graphml", "gexf", "json"])
def test_hostile_labels_survive(tmp_path, ending):
    """But for half a character, which no table, page or terminal can show: no file of a circuit
    has one."""
    circuit = labelled(*HOSTILE)
    if ending == "json":
        with pytest.raises(GraphError, match=r"holds '\\ud800', half of a character"):
            circuit.save(tmp_path / "x.json")
        circuit = labelled(*(label for label in HOSTILE if label != "\ud800"))
        assert Circuit.load(circuit.save(tmp_path / "x.json")) == circuit
        return
    again = read_graph(write_graph(circuit, tmp_path / f"x.{ending}"))
    assert [again.nodes[str(i)]["label"] for i in range(len(HOSTILE))] == HOSTILE


@given(st.text(st.characters()))
def test_escaping_is_undone_and_leaves_only_what_xml_keeps(text):
    assert unescape(escape(text)) == text
    assert escape(text) == escape(text).strip()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in escape(text))


@pytest.mark.parametrize("name", ["x.graphml", "x.gexf"])
def test_a_graph_file_that_is_none_and_a_graph_that_no_file_holds_are_refused(tmp_path, name):
    for text in ("<graphml><", "hello", "<a/>"):
        (tmp_path / name).write_text(text)
        with pytest.raises(CircuitsError, match="no graph can be read from it"):
            read_graph(tmp_path / name)
    (tmp_path / name).unlink()
    graph = nx.Graph()
    graph.add_node(1, tags=[1, 2])
    with pytest.raises(CircuitsError, match="cannot hold this graph"):
        write_graph(graph, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(circuit, tmp_path):
    with pytest.raises(CircuitsError, match=r"no graph format ends in '\.png'"):
        write_graph(circuit, tmp_path / "x.png")


NODE = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str,
    "token_prob": float, "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int,
    "jsNodeId": str, "clerp": str, "influence": (float, type(None)),
    "activation": (float, type(None)),
}  # fmt: skip
METADATA = {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list,
            "prompt": str, "node_threshold": (float, type(None)),
            "schema_version": int}  # fmt: skip


def validate(document: dict) -> None:
    """What circuit-tracer's frontend and Neuronpedia rely on."""
    assert set(document) == {"metadata", "qParams", "nodes", "links"}
    metadata, params = document["metadata"], document["qParams"]
    assert set(metadata) == set(METADATA)
    assert all(isinstance(metadata[key], kind) for key, kind in METADATA.items())
    assert metadata["schema_version"] == 1
    assert len(metadata["prompt_tokens"]) >= 2  # with one, the frontend drops every node
    ids = [node["node_id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids)
    for node in document["nodes"]:
        assert set(node) == set(NODE)
        assert all(isinstance(node[key], kind) for key, kind in NODE.items()), node
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
        assert node["feature_type"] in {
            "cross layer transcoder",
            "mlp reconstruction error",
            "logit",
        }
        assert node["influence"] is None or 0 <= node["influence"] <= 1
    for link in document["links"]:
        assert set(link) == {"source", "target", "weight"}
        assert {link["source"], link["target"]} <= set(ids)
        assert isinstance(link["weight"], float)
    assert set(params) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    assert set(params["pinnedIds"]) <= set(ids)
    assert len(params["pinnedIds"]) <= 200
    for label, *members in params["supernodes"]:
        assert isinstance(label, str)
        assert set(members) <= set(ids)
    # a feature at more than two thirds of the positions is deleted
    where = {}
    for node in document["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            where.setdefault(node["feature"], set()).add(node["ctx_idx"])
    assert max(map(len, where.values())) / len(metadata["prompt_tokens"]) <= 2 / 3
    logits = [node for node in document["nodes"] if node["is_target_logit"]]
    assert len(logits) == 1
    assert logits[0]["clerp"].count('"') == 2
    assert logits[0]["clerp"].count("(p=") == 1


def test_the_attribution_graph_has_every_field(circuit, tmp_path):
    path = write_attribution(circuit, tmp_path, layer=3, scan="my-model")
    validate(json.loads(path.read_text()))
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert index == {"graphs": [json.loads(path.read_text())["metadata"]]}
    write_attribution(circuit, tmp_path)
    write_attribution(replace(circuit, name="../Other one!"), tmp_path)
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    first, other = (one["slug"] for one in index["graphs"])
    assert first == "output-0"
    assert re.fullmatch("other-one-[0-9a-f]{8}", other)
    assert (tmp_path / f"{other}.json").exists()


def test_no_two_names_share_an_attribution_graph(circuit, tmp_path):
    names = ["否定", "代名詞", "a b", "a-b", "A b", "a  b", "circuit", "graph metadata", "x" * 300,
             "x" * 301, "\ud800"]  # fmt: skip
    paths = [write_attribution(replace(circuit, name=name), tmp_path) for name in names]
    assert len({path.name.lower() for path in paths}) == len(names)
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert [f"{one['slug']}.json" for one in index["graphs"]] == [path.name for path in paths]
    assert paths[2].name == "a-b.json"


def test_files_of_other_kinds_are_not_written_over(circuit, tmp_path):
    """Nor a graph that another program saved, with its layout."""
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(GraphError, match="is not a circuit, so it would be lost"):
        circuit.save(thesis)
    write_attribution(circuit, tmp_path)
    (tmp_path / "output-0.json").write_text("{}")
    with pytest.raises(GraphError, match="is not an attribution graph of this circuit"):
        write_attribution(circuit, tmp_path)
    others = '{"metadata": {"slug": "output-0", "scan": "gemma", "transcoder_list": ["a/b"]}}'
    (tmp_path / "output-0.json").write_text(others)
    with pytest.raises(GraphError, match="is not an attribution graph of this circuit"):
        write_attribution(circuit, tmp_path)
    assert write_attribution(circuit, tmp_path, force=True) == tmp_path / "output-0.json"
    write_attribution(circuit, tmp_path)
    for ending in ("graphml", "gexf"):
        path = tmp_path / f"a.{ending}"
        write_graph(circuit, path)
        was = path.read_bytes()
        write_graph(circuit, path)
        assert path.read_bytes() == was
        path.write_bytes(was.replace(b"<!-- bilinear-circuits -->", b""))
        with pytest.raises(GraphError, match=r"is not a graph that .*force=True"):
            write_graph(circuit, path)
        write_graph(circuit, path, force=True)
        assert path.read_bytes() == was
    assert thesis.read_text() == "years of work"
    circuit.save(thesis, force=True)
    assert Circuit.load(circuit.save(thesis)) == circuit


def test_links_into_an_interaction_add_up_to_the_link_out_of_it(circuit):
    document = attribution(circuit)
    into, out = {}, {}
    for link in document["links"]:
        into[link["target"]] = into.get(link["target"], 0) + link["weight"]
        out[link["source"]] = out.get(link["source"], 0) + link["weight"]
    pairs = [node["node_id"] for node in document["nodes"] if node["layer"] == "1"]
    assert len(pairs) == len(circuit.interactions)
    for pair in pairs:
        assert into[pair] == pytest.approx(out[pair])
    validate(document)


def test_a_circuit_is_drawn_in_its_own_layer(circuit):
    of_layer = replace(circuit, source=Source(layer=2))
    assert {node["layer"] for node in attribution(of_layer)["nodes"]} == {"2", "3", "4"}
    assert {node["layer"] for node in attribution(of_layer, 5)["nodes"]} == {"5", "6", "7"}
    assert {node["layer"] for node in attribution(circuit)["nodes"]} == {"0", "1", "2"}


def test_the_most_influential_nodes_are_pinned_where_there_are_too_many():
    features = tuple(Feature(i, f"feature {i}") for i in range(150))
    pairs = tuple(Interaction(i, i + 1, 1.0 + i) for i in range(149))
    document = attribution(Circuit("many", (Output(3, "out"),), features, pairs, energy=0.5))
    validate(document)
    by_id = {node["node_id"]: node for node in document["nodes"]}
    pinned = document["qParams"]["pinnedIds"]
    assert len(pinned) == 200
    assert any(by_id[name]["is_target_logit"] for name in pinned)
    most = max(by_id[name]["influence"] for name in pinned)
    assert all(node["influence"] >= most for name, node in by_id.items() if name not in pinned)


def test_no_graph_is_written_of_a_layer_or_a_weight_that_is_none(circuit, tmp_path):
    with pytest.raises(CircuitsError, match="there is no layer -1"):
        write_attribution(circuit, tmp_path, layer=-1)
    nan = float("nan")
    for name, fields in (("weight", {"weight": nan}), ("data_weight", {"data_weight": nan})):
        pairs = (Interaction(0, 0, **{"weight": 1.0, **fields}),)
        with pytest.raises(CircuitsError, match=f"the {name} of pair 0, 0 is nan"):
            write_attribution(Circuit("x", (Output(0, "x"),), (Feature(0, "a"),), pairs), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_groups_are_in_the_address_too(circuit):
    document = attribution(circuit)
    assert document["qParams"]["supernodes"]
    query = attribution_query(document)
    assert query.startswith("?slug=output-0&pinnedIds=")
    assert "supernodes=%5B%5B%22group" in query


def test_hostile_labels_keep_the_attribution_graph_valid(tmp_path):
    for label in HOSTILE:
        circuit = labelled(label, "other")
        validate(json.loads(write_attribution(circuit, tmp_path).read_text()))


def test_an_index_of_another_program_keeps_what_it_holds(circuit, tmp_path):
    index = tmp_path / "graph-metadata.json"
    theirs = {"slug": "theirs", "scan": "gemma", "more": {"a": 1}}
    index.write_text(json.dumps({"title": "mine", "graphs": [theirs, {"id": 3}], "n": [1]}))
    for _ in range(2):
        path = write_attribution(circuit, tmp_path)
    ours = json.loads(path.read_text())["metadata"]
    assert json.loads(index.read_text()) == {
        "title": "mine", "graphs": [theirs, {"id": 3}, ours], "n": [1],
    }  # fmt: skip


def test_a_broken_index_is_refused(circuit, tmp_path):
    """Also one that lists graphs twice, of which the first list would be lost."""
    index = tmp_path / "graph-metadata.json"
    for text in ("[]", '{"graphs": [{"slug": "theirs"}], "graphs": []}'):
        index.write_text(text)
        with pytest.raises(CircuitsError, match="lists no graphs"):
            write_attribution(circuit, tmp_path)
        assert index.read_text() == text


def test_a_circuit_made_by_hand_is_saved_with_what_is_known_of_it(tmp_path):
    features = (Feature(0, "a", group=0), Feature(1, "b", group=0))
    made = Circuit("by hand", (Output(0, "o"),), features, (Interaction(0, 1, 1.0),))
    assert Circuit.load(made.save(tmp_path / "made.json")) == made
    assert made.energy is None


def test_a_graph_that_says_too_little_is_refused():
    with pytest.raises(CircuitsError, match="does not say its chosen, energy, level, total_energy"):
        Circuit.of(nx.Graph(output=0))


def test_an_empty_circuit_is_one(tmp_path):
    empty = Circuit("nothing", (Output(0, "x"),), (), (), energy=0.0)
    assert Circuit.load(empty.save(tmp_path / "x.json")) == empty
    assert len(read_graph(write_graph(empty, tmp_path / "x.gexf"))) == 0
    assert [node["feature_type"] for node in attribution(empty)["nodes"]] == ["logit"]
    assert {name: len(table) for name, table in empty.tables().items()} == {
        "features": 0, "interactions": 0, "gates": 0, "outputs": 1, "detectors": 0,
    }  # fmt: skip
