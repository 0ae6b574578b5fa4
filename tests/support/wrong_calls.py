# ruff: noqa: E501 - a call on each line
"""Right calls of every public function and method, and wrong values for each of their arguments."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import analysis
import circuits
import sae
from circuits import Basis, BilinearLayer, Circuit, Interactions, ModelPlan, Site, Spectrum
from circuits.attention import CrossInteractions, Head, frozen, text_paths, upstream_basis
from circuits.model import ModelShape
from sae import Dictionary, TensorActivations, TrainingPlan
from tests.support import small_runs
from tests.support.small import basis, normal, small_layer

Call = tuple[str, Callable[..., Any], dict[str, Any]]


class Other:
    """An object of another class than any that is asked for."""


NAN, INF, HUGE = float("nan"), float("inf"), 10**18
NOT_ONE = (None, [], (), "", "abc", {}, {1}, Other(), b"bytes")
"""No number, no tensor, no object of ours."""
WRONG: dict[str, tuple[Any, ...]] = {
    "count": (*NOT_ONE, 0, -1, HUGE, 10**400, True, 2.5, NAN, INF, "3", torch.ones(2)),
    "index": (*NOT_ONE, -(10**6), HUGE, True, 0.5, NAN, "0", torch.ones(2)),
    "seed": (*NOT_ONE, -1, -HUGE, True, 1.5, NAN, 2**70),
    "number": (*NOT_ONE, NAN, "0.5", True, torch.ones(2)),
    "flag": (*NOT_ONE, 2, 0.5, NAN),
    "text": (None, [], (), {}, 5, 2.5, True, Other()),
    "choice": (None, [], {}, 5, "", "banana", Other()),
    "path": (None, [], {}, 5, 2.5, True, Other(), "a\0b"),
    "object": (*NOT_ONE, 5, 2.5, True, torch.ones(2), pd.DataFrame()),
    "several": (None, [], (), 2.5, [0.5], [True], [-(10**6)], [HUGE], ["a"], {}, Other(), "abc", [None]),
    "mapping": (None, [], "abc", 5, {1: 2}, {"a": None}, Other(), {1}, pd.DataFrame()),
    "function": (5, "abc", [], Other()),
    "device": (5.5, [], "banana", Other(), "cuda:99"),
    "tensor": (
        *NOT_ONE, 5, 2.5, True, [1.0, 2.0], [[1.0]], torch.ones(()), torch.ones(3, 1, 1, 999),
        torch.ones(999), torch.ones(2, 999), pd.DataFrame(), normal(3, 3).numpy(),
    ),
}  # fmt: skip
SEVERAL = ("outputs", "features", "sites", "cases", "tensors", "others")
INDEX = (
    "output", "feature", "layer", "index", "position", "group", "document", "head", "query", "key", "at", "distance", "form",
)  # fmt: skip
CHOICE = ("reader", "space", "metric", "activation", "point", "of", "format", "kind")
TEXT = ("text", "prompt", "name", "caller", "needed_by", "label", "command")


def kind_of(name: str, value: Any) -> str:
    """Which wrong values an argument is given, by its name and a right value of it."""
    if name in SEVERAL:
        return "several"
    if isinstance(value, bool):
        return "flag"
    if name == "seed":
        return "seed"
    if isinstance(value, int):
        return "index" if name in INDEX else "count"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        if name == "device":
            return name
        return "choice" if name in CHOICE else "text" if name in TEXT else "path"
    kinds = {Tensor: "tensor", Path: "path", Mapping: "mapping"}
    found = [kind for type_, kind in kinds.items() if isinstance(value, type_)]
    is_function = callable(value) and not hasattr(value, "__dataclass_fields__")
    return found[0] if found else "function" if is_function else "object"


def wrong_values(name: str, value: Any) -> Iterator[Any]:
    """Values that cannot be this argument."""
    yield from WRONG[kind_of(name, value)]
    if not isinstance(value, Tensor):
        return
    if value.is_floating_point():
        yield from (value > 0, value.to(torch.complex64), value.to(torch.int64))
        for bad in (NAN, INF):
            filled = value.clone(memory_format=torch.contiguous_format)
            filled.view(-1)[-1] = bad
            yield filled
        yield value[:0] if value.ndim == 1 else value[..., :0]
    elif value.dtype == torch.bool:
        yield from (value.float(), value.long(), value[:0])
    else:
        yield from (value.float(), value - 10**6, value + HUGE, value[:0])


MAY_BE_NONE = {
    "rank", "outputs", "features", "name", "corpus", "others", "device", "labels", "folder", "tokenizer",
    "offset", "bias", "left_bias", "right_bias", "down_bias", "column", "window", "mask", "layer of rank_curve",
    "model of card", "model of built_in_behaviour", "coverage", "n_edges", "text of validate", "original",
    "n_features", "outlier", "site", "shape", "target", "skip", "null", "values of Reading.loss", "layer of OpenedRun.reader_of_interactions",
    "at of TextPaths.carry", "written of TextPaths.pull",
}  # fmt: skip
"""Arguments that None leaves out."""


@dataclass
class World:
    """Small objects of every public class."""

    folder: Path

    def __post_init__(self) -> None:
        self.model, self.corpus = small_runs.begun(self.folder / "run")
        self.dictionaries = sae.load_dictionaries(self.folder / "run", device="cpu")
        self.into, self.out = (self.dictionaries[Site(p, 0)] for p in ("mlp_in", "mlp_out"))
        self.behaviour = small_runs.behaviour()
        self.circuit = small_runs.circuit(self.model, self.dictionaries, "small")
        self.layer, self.basis = small_layer(biases="left down"), basis(20, offset=True)
        self.inter = Interactions(self.layer, self.basis, basis(9, seed=2))
        self.spectrum = self.inter.spectrum(0)
        self.graph = circuits.interaction_graph(self.inter, 0, 20)
        self.found = circuits.clusters(self.graph)
        self.x, self.plan = normal(5, 8, seed=3), ModelPlan()
        self.tokens = self.model.tokens("w20 w21 w22")
        self.read = normal(4, 16, dtype=torch.float32)
        self.head, self.paths = self.model.head(0, 0), text_paths(self.model, self.tokens[0])
        self.changed = normal(2, self.paths.n_position, 16, dtype=torch.float32)
        self.stream = Basis.from_decoder(normal(20, 16, dtype=torch.float32))
        self.whole = analysis.open_run(self.folder / "run", text=self.corpus, device="cpu")
        words = [f"w{n}" for n in range(20, 44)]
        self.of_own_words = {
            "model": self.model,
            "kind": "induction",
            "words": {"words": words, "things": words},
            "n": 32,
            "shown": 0.01,
            "seed": 0,
        }

    def calls(self) -> list[Call]:
        """Every call with right arguments."""
        return [*self._algebra(), *self._graphs(), *self._models(), *self._attention(),
                *self._saes(), *self._analysis()]  # fmt: skip

    def _attention(self) -> list[Call]:
        head, paths, tokens = self.head, self.paths, self.tokens[0]
        factors = {
            n: getattr(head, n)
            for n in ("query", "key", "value", "output", "cosine", "sine", "scaling", "name")
        }
        one = self.stream
        looks = head.looks(one, one, 1)
        sides = {
            n: getattr(looks, n) for n in ("left", "right", "left_labels", "right_labels", "names")
        }
        vectors = {
            "vectors": self.read,
            "written": "resid_pre@0",
            "position": 1,
            "read": "mlp_in@1",
            "at": 2,
        }
        back = {
            "directions": self.read,
            "read": "mlp_in@1",
            "position": 1,
            "written": ["resid_pre@0"],
        }
        return [
            ("Basis.of_tokens", Basis.of_tokens, {"model": self.model}),
            ("Basis.labelled", self.basis.labelled, {"labels": [f"f{i}" for i in range(20)]}),
            ("Model.head", self.model.head, {"layer": 0, "head": 1}),
            ("Head", Head, factors),
            ("Head.looks", head.looks, {"inputs_query": one, "inputs_key": one, "distance": 1, "at": 1, "form": 0}),
            ("Head.terms", head.terms, {"query_parts": self.read, "key_parts": self.read, "distance": 1, "at": 1, "form": 0}),
            ("Head.carries", head.carries, {"inputs": one, "outputs": one}),
            ("Head.scores", head.scores, {"x": self.read}),
            ("Head.moved", head.moved, {"x": self.read}),
            ("CrossInteractions", CrossInteractions, sides),
            ("CrossInteractions.strongest", looks.strongest, {"n": 3}),
            ("CrossInteractions.spectrum", looks.spectrum, {"rank": 2}),
            ("SingularSpectrum.energy", looks.spectrum().energy, {"rank": 2}),
            ("frozen", lambda **given: frozen(**given).__enter__(), {"model": self.model, "tokens": self.tokens, "closed": [(0, 1)]}),
            ("text_paths", text_paths, {"model": self.model, "tokens": tokens}),
            ("TextPaths.pattern", paths.pattern, {"layer": 1}),
            ("TextPaths.through", paths.through, {"heads": [(0, 1)]}),
            ("TextPaths.attended", paths.attended, {"change": self.changed, "layer": 1}),
            ("TextPaths.normed", paths.normed, {"change": self.changed, "layer": 1}),
            ("TextPaths.carry", paths.carry, vectors),
            ("TextPaths.pull", paths.pull, back),
            ("TextPaths.by_head", paths.by_head, {"direction": self.read[0], "read": "mlp_in@1", "position": 1}),
            ("upstream_basis", upstream_basis, {"model": self.model, "bases": {"resid_pre@0": one}, "layer": 1, "paths": 1}),
        ]  # fmt: skip

    def _algebra(self) -> list[Call]:
        layer, one, inter, spectrum = self.layer, self.basis, self.inter, self.spectrum
        weights = {name: getattr(layer, name) for name in ("left", "right", "down", "left_bias", "down_bias")}  # fmt: skip
        rows = {"decoder": one.write, "offset": one.offset}
        turned = torch.linalg.qr(normal(8, 8)).Q
        return [
            ("BilinearLayer", BilinearLayer, weights),
            ("BilinearLayer.__call__", layer, {"x": self.x}),
            ("BilinearLayer.lift", layer.lift, {"x": self.x, "constant": 1.0}),
            ("BilinearLayer.interaction", layer.interaction, {"direction": normal(8)}),
            ("Basis", Basis, {"write": one.write, "read": one.read, "offset": one.offset}),
            ("Basis.from_decoder", Basis.from_decoder, {**rows, "least_squares": True}),
            ("Basis.from_encoder", Basis.from_encoder, {**rows, "encoder": one.read, "bias": normal(20)}),
            ("Basis.orthonormal", Basis.orthonormal, {"directions": turned, "offset": normal(8)}),
            ("Basis.identity", Basis.identity, {"d_model": 4, "device": "cpu"}),
            ("Basis.coordinates", one.coordinates, {"x": self.x}),
            ("Basis.compose", one.compose, {"features": normal(2, 20)}),
            ("Basis.subset", one.subset, {"features": [1, 2]}),
            ("Basis.control", one.control, {"seed": 0}),
            ("Basis.report", one.report, {"seed": 0}),
            ("Interactions", Interactions, {"layer": layer, "inputs": one, "outputs": inter.outputs}),
            *((f"Interactions.{name}", getattr(inter, name), {"output": 1})
              for name in ("bias", "form", "matrix")),
            ("Interactions.weights", inter.weights, {"output": 1, "features": [1, 2]}),
            ("Interactions.spectrum", inter.spectrum, {"output": 1, "rank": 2, "space": "feature"}),
            ("Interactions.ceilings", inter.ceilings, {"outputs": [1, 2]}),
            ("Interactions.strongest", inter.strongest, {"n": 3, "outputs": [1, 2]}),
            ("Interactions.strongest_of_each", inter.strongest_of_each, {"n": 3, "outputs": [1, 2]}),
            ("Interactions.plot", inter.plot, {"output": 1, "n": 4, "labels": {1: "one"}}),
            ("Interactions.labels", inter.labels, {"features": [1, 2], "given": {1: "one"}}),
            ("Spectrum", Spectrum, {"values": spectrum.values, "vectors": spectrum.vectors, "has_constant": True}),
            ("Spectrum.of", Spectrum.of, {"form": inter.matrix(0), "rank": 2, "has_constant": True}),
            ("Spectrum.truncate", spectrum.truncate, {"rank": 1}),
            ("Spectrum.energy", spectrum.energy, {"rank": 1}),
            ("Spectrum.activation", spectrum.activation, {"x": normal(2, 20)}),
            ("Spectrum.plot", spectrum.plot, {"control": spectrum}),
            ("Spectrum.rotated", spectrum.rotated, {"seed": 0}),
            ("hosvd", circuits.hosvd, {"layer": layer}),
        ]  # fmt: skip

    def _graphs(self) -> list[Call]:
        graph, circuit = circuits.interaction_graph, self.circuit
        shared = {"inter": self.inter, "output": 0, "labels": {1: "one"}}
        save = self.folder / "circuit.json"
        circuit.save(save)
        return [
            ("interaction_graph by number", graph, {**shared, "n_edges": 20}),
            ("interaction_graph by coverage", graph, {**shared, "coverage": 0.5}),
            ("interaction_graph by q", graph, {"inter": self.inter, "output": 0, "significant": 0.05}),
            ("clusters", circuits.clusters, {"graph": self.graph, "seed": 0, "n_resample": 2}),
            ("clusters of a matrix", circuits.clusters, {"graph": self.inter.matrix(0) + 0.5}),
            ("Circuit.of", Circuit.of, {"graph": self.graph, "found": self.found, "name": "one"}),
            ("Circuit.load", Circuit.load, {"path": save}),
            ("Circuit.save", circuit.save, {"path": self.folder / "again.json"}),
            ("Circuit.label", circuit.label, {"feature": 3}),
            ("Circuit.group_name", circuit.group_name, {"group": 0}),
        ]  # fmt: skip

    def _models(self) -> list[Call]:
        model, tokens, shape = self.model, self.tokens, vars(ModelShape())
        batch = {"tokens": tokens, "mask": model.mask(tokens)}
        training = {"plan": self.plan, "corpus": self.corpus, "out": self.folder / "trained"}
        return [
            ("ModelShape", ModelShape, shape),
            ("ModelPlan", ModelPlan, vars(self.plan)),
            ("ModelPlan.from_dict", ModelPlan.from_dict, {"given": {"n_steps": 3}}),
            ("TwinPlan", analysis.TwinPlan, vars(analysis.TwinPlan())),
            ("TwinPlan.from_dict", analysis.TwinPlan.from_dict, {"given": {"n_steps": 3}}),
            ("bilinear_twin", analysis.bilinear_twin, {
                "path": self.folder / "gated", "corpus": self.corpus, "self_written": 4, "plan": analysis.TwinPlan(n_steps=1, fit=1),
                "out": self.folder / "twin", "device": "cpu", "checkpoint_every": 5, "precision": "auto",
                "rows_at_once": 2,
            }),
            ("train_model", circuits.train_model, {**training, "device": "cpu", "checkpoint_every": 5}),
            ("Site", Site, {"point": "mlp_in", "layer": 0}),
            ("Site.parse", Site.parse, {"text": "mlp_in@0"}),
            ("load_model", circuits.load_model, {"path": self.folder / "run" / "model", "device": "cpu"}),
            ("Model.check_sites", model.check_sites, {"sites": ["mlp_in@0"]}),
            ("Model.layer", model.layer, {"index": 0, "fold_norm": True}),
            ("Model.scale", model.scale, {"resid_mid": self.read}),
            ("Model.tokens", model.tokens, {"text": "w20"}),
            ("Model.mask", model.mask, {"tokens": tokens}),
            ("Model.logits", model.logits, {"tokens": tokens}),
            ("Model.logits_at", model.logits_at, {"tokens": tokens, "position": torch.tensor([1])}),
            ("Model.logits_of", model.logits_of, {"stream": self.read}),
            ("Model.loss", model.loss, batch),
            ("Model.losses", model.losses, batch),
            ("Model.generate", model.generate, {"prompt": "w20", "n_token": 2, "temperature": 0.5, "seed": 0}),
            ("Model.read", model.read, {"tokens": tokens, "sites": ["mlp_in@0"]}),
            ("Model.replaced", lambda functions: model.replaced(functions).__enter__(), {"functions": {"mlp_in@1": torch.zeros_like}}),
            ("Model.edited_at", lambda place: model.edited_at(place).__enter__(), {"place": "attention"}),
            ("Model.in_dtype", model.in_dtype, {"dtype": torch.float64}),
            ("Model.words", model.words, {"caller": "a test"}),
            ("built_in", circuits.built_in, {"seed": 0, "n_documents": 20}),
            ("open_corpus", circuits.open_corpus, {"where": self.folder / "run" / "text.jsonl", "column": "text"}),
            ("Corpus.part", self.corpus.part, {"start": 1, "stop": 5}),
            ("Corpus.documents", self.corpus.documents, {"start": 1, "stop": 5}),
            ("BuiltInCorpus.documents", circuits.built_in(0, 50).documents, {"start": 1, "stop": 5}),
            ("BuiltInCorpus.part", circuits.built_in(0, 50).part, {"start": 1, "stop": 5}),
        ]  # fmt: skip

    def _saes(self) -> list[Call]:
        out, model, corpus = self.out, self.model, self.corpus
        parts = {n: getattr(out, n) for n in ("encoder", "decoder", "bias", "offset", "k", "relu", "site")}  # fmt: skip
        stream = TensorActivations([self.read])
        plan = TrainingPlan(sites=("mlp_in@0",), k=2, n_tokens=8, n_batch=4, n_buffer=4)
        training = {
            "plan": plan,
            "out": self.folder / "trained",
            "device": "cpu",
            "checkpoint_every": 5,
        }
        folder = self.folder / "run" / "saes" / "blocks.0.hook_mlp_out"
        return [
            ("Dictionary.check_autoencoder", out.check_autoencoder, {"needed_by": "it"}),
            ("Dictionary.read_site", out.read_site, {"needed_by": "it"}),
            ("TrainingPlan.target_of", plan.target_of, {"site": Site("mlp_in", 0)}),
            ("Dictionary", Dictionary, parts),
            *((f"Dictionary.{name}", getattr(out, name), {"x": self.read})
              for name in ("preactivations", "active", "encode", "reconstruct", "error")),
            ("Dictionary.selected", out.selected, {"scores": normal(2, out.n_feature, dtype=torch.float32)}),
            ("Dictionary.decode", out.decode, {"features": normal(2, out.n_feature)}),
            ("Dictionary.decoded", out.decoded, {"code": out.active(self.read)}),
            ("Dictionary.basis", out.basis, {"reader": "pinv", "least_squares": True}),
            ("Dictionary.site_in", out.site_in, {"model": model, "needed_by": "a test"}),
            ("Dictionary.spliced", lambda **k: out.spliced(**k).__enter__(), {"model": model.in_dtype(torch.float64), "error": True}),
            ("Dictionary.measured", out.measured, {"activations": [self.read]}),
            ("Dictionary.save", out.save, {"folder": self.folder / "saved", "format": "sae-lens"}),
            ("load_dictionary", sae.load_dictionary, {"path": folder, "device": "cpu"}),
            ("load_dictionaries", sae.load_dictionaries, {"run": self.folder / "run", "device": "cpu"}),
            ("TrainingPlan", TrainingPlan, vars(TrainingPlan())),
            ("TrainingPlan.from_dict", TrainingPlan.from_dict, {"given": {"k": 3}}),
            ("TrainingPlan.features_of", plan.features_of, {"width": 16}),
            ("TensorActivations", lambda **k: TensorActivations(**k).made_of, {"tensors": [self.read], "site": "mlp_in@0"}),
            ("cache_activations", sae.cache_activations, {"source": stream, "folder": self.folder / "cache", "n_token": 4}),
            ("CachedActivations", lambda folder: sae.CachedActivations(folder).widths, {"folder": self.folder / "none"}),
            ("train_on", sae.train_on, {"source": stream, **training}),
            ("train_saes", sae.train_saes, {"model": model, "corpus": corpus, **training}),
            ("readings", lambda **k: next(sae.readings(**k)), {"model": model, "corpus": corpus, "sites": [Site("mlp_in", 0)], "n_documents": 2, "window": 8}),
            ("card", sae.card, {"dictionary": out, "feature": 1, "model": model, "corpus": corpus, "n": 2, "n_documents": 2}),
            ("logit_effects", sae.logit_effects, {"dictionary": out, "model": model, "features": [1], "n": 2}),
            ("examples", sae.examples, {"dictionary": out, "model": model, "corpus": corpus, "features": [1], "n": 2, "context": 2, "n_documents": 2}),
            ("Statistics.of", out.statistics.of, {"feature": 1}),
        ]  # fmt: skip

    def _analysis(self) -> list[Call]:
        model, out, corpus, behaviour = self.model, self.out, self.corpus, self.behaviour
        known = {"model": model, "dictionaries": self.dictionaries}
        reader = analysis.Reader(self.read[0])
        case = behaviour.cases[0]
        cases = analysis.in_model(behaviour, model)
        return [
            ("Case", type(case), {"text": "w20", "label": "good", "right": ("a",), "wrong": ("b",)}),
            ("Behaviour", analysis.Behaviour, {"name": "one", "cases": behaviour.cases, "metric": "probability"}),
            ("Behaviour.load", analysis.Behaviour.load, {"path": self.folder / "none.jsonl"}),
            ("Behaviour.save", behaviour.save, {"path": self.folder / "saved.jsonl"}),
            ("built_in_behaviour", analysis.built_in_behaviour, {"name": "negation", "n": 4, "seed": 0, "fresh_words": True}),
            ("in_model", analysis.in_model, {"behaviour": behaviour, "model": model}),
            ("behaviour_from_lexicon", analysis.behaviour_from_lexicon, self.of_own_words),
            ("by_layer", analysis.by_layer, {"cases": cases}),
            ("Reader", analysis.Reader, {"direction": self.read[0], "bias": 0.5, "point": "mlp_out", "name": "one"}),
            ("Reader.of", analysis.Reader.of, {"dictionary": out, "feature": 1}),
            ("ledger", analysis.ledger, {"model": model, "layer": 0, "inputs": self.into, "reader": reader, "tokens": self.tokens[0], "position": 1}),
            ("score_ledger", analysis.score_ledger, {"model": model, "layer": 0, "head": 1, "inputs": replace(self.into, site=Site("resid_pre", 0)), "tokens": self.tokens[0], "query": 2, "key": 1, "form": 0}),
            ("attribution_graph", analysis.attribution_graph, {**known, "text": "w20 w21 w22", "n_nodes": 20, "n_gates": 9, "n_followed": 4}),
            ("AttributionGraph.load", analysis.AttributionGraph.load, {"path": self.folder / "none.json"}),
            ("quality", analysis.quality, {"dictionaries": out, "error": 0.5, "model": model, "corpus": corpus, "n_documents": 2, "window": 8, "seed": 0}),
            ("transcoder_table", analysis.transcoder_table, {"transcoder": replace(self.into, target=Site("mlp_out", 0)), "inputs": self.into, "outputs": out, "model": model, "corpus": corpus, "n_documents": 2, "window": 8, "n_explained": 2}),
            ("find_circuit", analysis.find_circuit, {**known, "behaviour": behaviour, "layer": 0, "coverage": 0.5, "n_pairs": 4, "shown": 0.01}),
            ("propose_circuits", analysis.propose_circuits, {**known, "layer": 0, "n": 1, "reader": "encoder", "q": 0.05, "seed": 0}),
            ("rank_curve", analysis.rank_curve, {"model": model, "dictionaries": out, "layer": 0, "corpus": corpus, "reader": "encoder", "n_rank": 2, "n_documents": 4, "min_active": 1, "n_bootstrap": 2, "seed": 0}),
            ("RankCurve", analysis.RankCurve, {"table": pd.DataFrame({"feature": [1], "rank": [1], "n_active": [9]}), "loss": pd.DataFrame(), "about": {"seed": 1, "min_active": 1}}),
            ("circuit_rank", analysis.circuit_rank, {**known, "circuit": self.circuit, "corpus": corpus, "reader": "encoder", "n_documents": 4, "min_active": 1, "n_bootstrap": 2, "seed": 0}),
            ("validate", analysis.validate, {**known, "circuit": self.circuit, "behaviour": behaviour, "text": corpus, "n_documents": 2, "n_draws": 1, "seed": 0}),
            ("Validation.load", analysis.Validation.load, {"path": self.folder / "none.json"}),
            ("open_run", analysis.open_run, {"folder": self.folder / "run", "device": "cpu"}),
            ("write_report", analysis.write_report, {"run": self.folder / "run", "out": self.folder / "page", "single_file": True, "seed": 0}),
        ]  # fmt: skip


ANY = {"name of ModelCases.once", "key of BySite.get", "place of Model.edited_at"}
"""Arguments that are compared with others, and so may be anything."""

RIGHT: dict[str, tuple[Any, ...]] = {
    "closed of frozen": ([], ()), "fit of TwinPlan": (0,),
    "features of Interactions.weights": ([], ()),
    "features of Interactions.labels": ([], ()),
    "outputs of Interactions.ceilings": ([],),
    "given of Interactions.labels": (None, []),
    "labels": ([],),
    "rank of Spectrum.truncate": (0,),
    "rank of Spectrum.energy": (0,), "rank of SingularSpectrum.energy": (0,),
    "heads of TextPaths.through": ([], (), {}), "paths of upstream_basis": (0,),
    "output of interaction_graph by number": (None,),
    "found of Circuit.of": (None,),
    "feature of Circuit.label": (HUGE,),
    "group of Circuit.group_name": (-(10**6), HUGE),
    "n of propose_circuits": (HUGE,),  # all of them, which takes longer
    "warm_up of ModelPlan": (0,),
    "layer of Site": (HUGE,),
    "start": (0, -1),
    "stop": (0, -1, None),
    "outlier": (5, 2.5),
    "right": ((),),  # refused by the behaviour, which names the case
    "wrong": ((),),
    "n_bootstrap": (0,),
    "context": (0,),
    "out of write_report": (None,),
    "pairs of known_pairs": ([], (), {}),
    "found of edge_scores": ([], (), {}), "planted of edge_scores": ([], (), {}), "planted of group_score": ([], ()),
    "strengths of mask_curve": ({1},), "counts of component_truncation": ({1},), "ranks of truncation": ({1},),
    "tokens of Model.token_texts": ([], (), {1}),
    "sites of ModelCases.read_with_answers": ([], ()),  # of the answers alone
    "layer of OpenedRun.reader_of_interactions": (5, -(10**6)),  # no step of it is in the manifest
    "decays": ({1},), "noises": ({1},),
    "first of logits_without": ([], ()), "second of logits_without": ([], ()),
    "paths of logits_without": ([], ()),  # nothing is removed
    "step": (0,), "label of ClassSpectra.pictures": (0,),
}  # fmt: skip
"""Odd values that are right all the same."""


ANY_OF_ITS_KIND = {
    "graph of clusters of a matrix",  # of whole numbers too
    "tokens of Model.mask",  # which looks for padding alone
    "direction of Reader",  # of another width than a model that it is not yet used with
    "loss of RankCurve",
    "answers of KnownRules.top_1",  # a token that there is not is a wrong answer
    "strengths of mask_curve", "decays of regularisation", "noises of regularisation",
    # what is in the tensors of an inner loop is not read
    "features of Code.of_counts", "values of Code.of_counts", "counts of Code.of_counts",
    "features of Code.of_equal_rows", "values of Code.of_equal_rows",
    "rows of Code.products", "vectors of Code.products", "vectors of Code.times",
}  # fmt: skip


def allowed(call: str, name: str, value: Any) -> bool:
    """Whether an odd value is a right one here."""
    if f"{name} of {call}" in ANY:
        return True
    if f"{name} of {call}" in ANY_OF_ITS_KIND and isinstance(value, Tensor | pd.DataFrame):
        return True
    if value is None and (name in MAY_BE_NONE or f"{name} of {call}" in MAY_BE_NONE):
        return True
    right = (*RIGHT.get(name, ()), *RIGHT.get(f"{name} of {call}", ()))
    return any(type(one) is type(value) and one == value for one in right)
