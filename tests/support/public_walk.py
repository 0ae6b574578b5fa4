# ruff: noqa: E501 - a table of right arguments
"""Every public name, and every public method and property of the classes that they return."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

import analysis
import circuits
import sae
from analysis.runs.folder import RunFolder
from analysis.studies import images, logic_gates, planted, rules
from analysis.validation.edits import DrawKind
from circuits import attention, corpus, graph, model
from tests.support import small_runs
from tests.support.small import normal
from tests.support.small_images import few, random_model
from tests.support.wrong_calls import Call, World

PACKAGES: tuple[ModuleType, ...] = (
    circuits, graph, model, corpus, attention, sae, analysis, analysis.studies, images, logic_gates, planted, rules,
)  # fmt: skip
OURS = ("circuits", "sae", "analysis")


def public_names(module: ModuleType) -> list[str]:
    """Those that it lists, or else those that it defines."""
    own = [name for name, thing in vars(module).items()
           if getattr(thing, "__module__", "") == module.__name__]  # fmt: skip
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def public_callables() -> dict[str, Any]:
    """Functions and classes by name, as they are called."""
    found = {name: getattr(module, name) for module in PACKAGES for name in public_names(module)}
    return {name: thing for name, thing in found.items()
            if inspect.isfunction(thing) or inspect.isclass(thing)}  # fmt: skip


def is_property(thing: Any) -> bool:
    """Whether it is read, and not called."""
    return isinstance(thing, property) or type(thing).__name__ in (
        "cached_property",
        "while_unchanged",
    )


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class has from us."""
    for name in dir(kind):
        home = next(base for base in kind.__mro__ if name in vars(base))
        thing = vars(home)[name]
        called = callable(getattr(thing, "__func__", thing)) or is_property(thing)
        if not name.startswith("_") and home.__module__.split(".")[0] in OURS and called:
            yield name, thing


def _at_once(method: Any) -> Any:
    """The same, of which an iterator begins."""
    if not inspect.isgeneratorfunction(inspect.unwrap(method)):
        return method

    @wraps(method)
    def call(**given: Any) -> Any:
        return next(method(**given), None)

    return call


class Walk:
    """Calls with right arguments, found by their names, and the properties."""

    def __init__(self, world: World) -> None:
        self.world, self.number = world, count()
        self.unknown: list[str] = []
        self.objects = {type(thing).__name__: thing for thing in self._objects()}
        self.given = self._given()
        self.of_one = {
            "BilinearLayer.to": {"args": torch.float64}, "Head.to": {"args": torch.float64}, "Basis.to": {"args": torch.float64},
            "figure": {"pictures": normal(2, 3, 3), "titles": ["a", "b"]},
            "png": {"picture": np.zeros((3, 3), np.uint8)},
            "explanation": {"pixels": self.data.pixels[0].float()},
            "explanation_figure": {"pixels": self.data.pixels[0].float(), "n_class": 2, "n": 2},
            "rank_needed": {"curve": pd.DataFrame({"rank": [1, 2], "lost": [0.5, 0.0]})},
            "accuracy": {"logits": normal(24, 4)},
            "mask_curve": {"strengths": [0.5]}, "edge_scores": {"found": [(1, 2)], "planted": [(1, 2)]},
            "group_score": {"planted": [[1, 2]]},
            "count_coactivation": {"pairs": pd.DataFrame({"first": [0], "second": [1]})},
            "Coactivation.of": {"pairs": pd.DataFrame({"first": [0], "second": [1], "weight": [1.0]})},
            "form_similarity": {"second": random_model(seed=3)},
            "read_graph": {"path": self.written}, "load_image_model": {"path": self.image_file},
            "RankCurve.load": {"path": self.rank_file}, "Circuit.load": {"path": self.circuit_file},
            "agreement": {"dictionary": self.features}, "read_through": {"dictionary": self.features},
            "plant": {"features": None}, "calibrate": {"snrs": [3.0], "n_seeds": 1},
            "gate_report": {"gates": self.gates}, "TruthTable.of": {"gates": self.gates},
            "train_gates": {"d_hidden": 4}, "random_layer": {"d_hidden": 4},
            "read_polynomials": {"layer": self.gate_layer},
            "TruthTable": {"names": ("a",), "bits": self.truth_table.bits, "answers": self.truth_table.answers},
            "shared_neurons": {"rank": 2, "n_step": 2}, "open_images": {},
            "regularisation": {"data": self.single, "plan": images.ImagePlan(n_step=1, n_batch=4, d_hidden=4)},
            "train_classifier": {"images": self.single.train, "plan": images.ImagePlan(n_step=1, n_batch=4, d_hidden=4)},
            "train_dictionary": {"plan": sae.TrainingPlan(("mlp_out@0",), n_features=8, k=2, n_tokens=8, n_batch=4, n_buffer=4)},
            "train_on_pairs": {"plan": sae.TrainingPlan(("mlp_out@0",), n_features=8, k=2, n_tokens=8, n_batch=4, n_buffer=4)},
            "Reading.loss": {"model": self.world.model, "site": circuits.Site("mlp_in", 0), "values": None},
            "known_pairs": {"null": None}, "RankCurve.needed": {"r2": 0.5},
            "ImageModel.before": {"layer": 1},
            "ImageModel.read_out": {"hidden": normal(3, 6)},
            "ImageModel": {"layers": self.image_model.layers, "head": self.image_model.head, "height": 2, "width": 3},
            "Model.token_texts": {"tokens": [1, 2]}, "Dictionary.known_site": {"needed_by": "a test"},
            "Code.of_counts": {"counts": torch.tensor([1, 1]), "features": torch.tensor([0, 1]), "values": torch.ones(2)},
            "Code.of_equal_rows": {"features": torch.tensor([[0, 1]]), "values": torch.ones(1, 2)},
            "ModelCases.by_answers": {"reads": normal(len(self.cases), 16)},
            "ModelCases.difference": {"logits": self.cases.logits()}, "ModelCases.read": {"sites": ["mlp_in@0"]},
            "ModelCases.read_with_answers": {"sites": ["mlp_in@0"]}, "ModelCases.shown": {"margins": self.margins},
            "ModelCases.class_means": {"values": self.margins}, "ModelCases.effects": {"values": self.margins},
            "ModelCases.resampled": {"values": self.margins}, "ModelCases.weights": {"classes": normal(4)},
            "ModelCases.listed": {"values": normal(4)},
            "ModelCases.once": {"name": "one", "compute": dict},
            "ByName.files": {"name": "one"}, "write_graph": {"path": self.world.folder / "again.graphml", "force": True},
            "matches": {"models": [self.image_model, random_model(seed=3)]},
            "LayeredCircuit.stage": {"layer": 0}, "LayeredValidation.edit": {"kind": "none"},
            "LayeredCircuit.load": {"path": self.layered_file}, "LayeredValidation.load": {"path": self.proof_file},
            "Validation.drawn": {"kind": next(iter(DrawKind))}, "Validation.edit": {"kind": "none"},
            **{f"OpenedRun.{name}": {"layer": 0} for name in ("interactions", "rank", "strongest", "reader_of_interactions")},
            "OpenedRun.check_recorded": {"place": world.whole.folder.model, "command": "model train"},
            "Statistics.read": {"path": self.world.folder / "none", "weights": self.circuit_file},
            "Statistics.write": {"weights": self.circuit_file},
            "pair_effects": {**self.of_rules, "first": [11, 12], "second": [15], "distances": [2]},
            "single_effects": {"model": self.polynomial, "tokens": [1, 2]},
            "explaining_paths": {**self.of_rules, "rules": self.rules.skip, "answers": self.rules.kinds["connective"], "enough": 0.5},
            "path_neurons": {**self.of_rules, "gate": self.effects_path, "rules": self.rules.skip, "answers": self.rules.kinds["connective"], "distance": 2},
            "find_induction": {**self.of_rules, "n": 20}, "load_known_rules": {"folder": self.rule_folder, "n_token": self.polynomial.n_token},
            "logits_without": {**self.of_rules, "tokens": self.rules.tokens[:2], "first": [11, 12], "second": [15], "paths": [self.effects_path]},
            "skip_removal": {**self.of_rules, "known": self.rules, "paths": [self.effects_path], "n_draws": 1},
            "induction_removal": {**self.of_rules, "known": self.rules, "found": self.rule_study.induction, "n_draws": 1},
            "study_rules": {**self.of_rules, "known": self.rules, "n_draws": 1}, "write_page": {"study": self.rule_study},
            "write_example": {"noise": 0.0}, "KnownRules.top_1": {"answers": self.rules.tokens},
            "KnownRules.is_skip_rule": {"table": self.rules.skip}, "KnownRules.skip_scores": {"table": self.rules.skip},
            "Effects.shares": {"rules": self.rules.skip}, "Effects.sum_of": {"rules": self.rules.skip},
            "ClassSpectra.inputs": {"pixels": self.data.pixels.double()},
        }  # fmt: skip

    def _objects(self) -> list[Any]:
        w = self.world
        out = w.out
        self.data, self.image_model = few(24, n_class=4), random_model()
        single = replace(self.data, pixels=self.data.pixels.float())
        self.single = images.ImageData("few", single, single)
        self.sets = images.ImageData("few", self.data, self.data)
        self.spectra = images.ClassSpectra.of(self.image_model)
        self.gates = {"a": lambda a, b, *_: a and b}
        self.truth_table = logic_gates.TruthTable.of(self.gates, 2)
        self.gate_layer = logic_gates.random_layer(self.truth_table, 4)
        self.sizes = planted.Planted(d_model=8, n_feature=12, n_gates=1)
        _, self.truths = planted.plant(self.sizes)
        known = {"model": w.model, "dictionaries": w.dictionaries}
        self.active = out.active(w.read)
        self.curve = analysis.rank_curve(
            w.model, out, 0, w.corpus, n_rank=3, n_documents=20, min_active=1, n_bootstrap=3
        )
        self.validation = analysis.validate(
            **known,
            circuit=w.circuit,
            behaviour=w.behaviour,
            text=w.corpus,
            n_documents=2,
            n_draws=2,
        )
        self.layered = small_runs.layered(w.circuit)
        self.layered_proof = analysis.validate(
            **known, circuit=self.layered, behaviour=w.behaviour, n_draws=2
        )
        self.layered_file = self.layered.save(w.folder / "walk-layered.json")
        self.proof_file = self.layered_proof.save(w.folder / "walk-proof.json")
        self.written = graph.write_graph(w.graph, w.folder / "walk.graphml")
        self.image_file = w.folder / "walk.safetensors"
        self.image_model.save(self.image_file)
        self.rank_file = self.curve.save(w.folder / "walk-rank")
        self.circuit_file = w.circuit.save(w.folder / "walk.json")
        self.features = images.train_dictionary(
            self.image_model,
            self.data,
            sae.TrainingPlan(("mlp_out@0",), n_features=8, k=2, n_tokens=64, n_batch=8, n_buffer=8),
        )
        self.rule_folder = rules.write_example(w.folder / "walk-rules")
        self.polynomial = circuits.load_model(self.rule_folder, device="cpu")
        self.rules = rules.load_known_rules(self.rule_folder, self.polynomial.n_token)
        self.rule_study = rules.study_rules(self.polynomial, self.rules, n_draws=1)
        self.effects_path = self.rule_study.paths["path"][0]
        self.of_rules = {"model": self.polynomial}
        stream = sae.TensorActivations([w.read], "mlp_in@0")
        self.cases = analysis.in_model(w.behaviour, w.model)
        self.margins = self.cases.margins()
        self.reader = analysis.Reader.of(out, 1)
        batch = [(torch.tensor([[0, 1]]), torch.ones(1, 2))]
        self.counted = graph.count_coactivation(
            batch, pd.DataFrame({"first": [0], "second": [1]}), 20
        )
        shared = images.shared_neurons(w.layer, 2, 2)
        return [
            w.layer, w.basis, w.inter, w.spectrum, w.head, w.paths, w.head.looks(w.stream, w.stream, 1),
            w.head.looks(w.stream, w.stream, 1).spectrum(), w.found, w.circuit, w.model, w.corpus,
            circuits.built_in(0, 50), w.corpus.part(0, 5), w.plan, w.plan.shape, out, out.statistics,
            out.statistics.of(1), self.active, stream, sae.cache_activations(stream, w.folder / "walk-cache", 4),
            sae.TrainingPlan(), analysis.TwinPlan(), w.behaviour, w.behaviour.cases[0], self.cases, self.reader,
            analysis.ledger(w.model, 0, w.into, analysis.Reader(w.read[0]), w.tokens[0], 1),
            analysis.attribution_graph(w.model, w.dictionaries, "w20 w21 w22"),
            self.curve, self.validation, self.layered, self.layered_proof, self.layered.evidence, w.whole, w.whole.circuits, self.data, self.sets, self.image_model,
            self.spectra, images.ImagePlan(), self.truth_table, self.sizes, self.truths[0], self.counted,
            circuits.hosvd(w.layer), images.tree.tree(self.image_model, 1, [2]), shared, circuits.Site("mlp_in", 0),
            next(sae.readings(w.model, w.corpus, [circuits.Site("mlp_in", 0)], n_documents=2, window=8)),
            sae.examples(out, w.model, w.corpus, [1], n=2, context=2, n_documents=2), next(stream.chunks()),
            circuits.built_in(0, 50).stories(0, 3), self.curve.figures()[0],
            self.rules, self.rule_study, self.rule_study.pairs, self.rule_study.induction,
            w.model.read(w.tokens, ["mlp_in@0"]), analysis.behaviour_from_lexicon(**w.of_own_words),
            model.Trained(w.folder / "run" / "model", 1, 10, 5, 0.5, None),
        ]  # fmt: skip

    def _given(self) -> dict[str, Any]:
        w = self.world
        return {
            "activations": [(torch.tensor([[0, 1]]), torch.ones(1, 2))], "basis": w.basis, "bits": self.truth_table.bits,
            "behaviour": w.behaviour, "case": w.behaviour.cases[0], "cases": self.cases, "circuit": w.circuit,
            "codes": [self.active], "corpus": w.corpus, "counts": [1, 2], "cuts": [[1], [2]], "data": self.sets,
            "decays": [0.0], "dictionary": w.out, "direction": w.read[0], "document": graph.attribution(w.circuit),
            "factor": w.behaviour.factors[0], "feature": 1, "first": self.image_model, "found": w.found,
            "graph": w.graph, "images": self.data, "index": 0, "inter": w.inter, "kept": [2], "key": "mlp_in@0", "label": 1,
            "layer": w.layer, "model": self.image_model, "models": [self.spectra, self.spectra], "n": 2, "n_bit": 2,
            "n_feature": 20, "names": ("a",), "noises": [0.0], "other": w.behaviour, "output": 0, "pairs": [(1, 2)],
            "rank": 2, "ranks": [1, 2], "reader": self.reader, "seed": 0, "sizes": self.sizes, "spectra": self.spectra,
            "start": 0, "stop": 2, "table": self.truth_table, "tokenizer": w.model.tokenizer, "truth": self.truths[0],
            "vectors": w.out.decoder, "rows": w.read, "classes": [1, 2], "dtype": torch.float64, "plan": images.ImagePlan(),
            "step": 1, "n_norm": 3, "n_layer": 2, "pixels": self.data.pixels, "kind": "whole", "control": None, "values": normal(4), "x": w.read,
        }  # fmt: skip

    def _fresh(self, name: str) -> Any:
        folder = RunFolder(self.world.folder).path / f"walk-{next(self.number)}"
        return folder if name == "folder" else folder.with_suffix(".json")

    def right_for(self, call: str, thing: Any) -> dict[str, Any]:
        """Right arguments of every parameter that has no default, or that a name is known of."""
        own, right = self.of_one.get(call, {}), {}
        for name, parameter in inspect.signature(thing).parameters.items():
            if name in ("self", "cls") or parameter.kind in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                continue
            needed = parameter.default is parameter.empty
            if name in own:
                right[name] = own[name]
            elif name in ("path", "folder") and needed:
                right[name] = self._fresh(name)
            elif name in self.given and needed:
                right[name] = self.given[name]
            elif name == "seed":
                right[name] = 0
            elif needed:
                self.unknown.append(f"{call} needs {name}")
        return right

    def calls(self) -> list[Call]:
        """Those of ``World``, and every other one."""
        listed = self.world.calls()
        known = {call.split(" ")[0] for call, *_ in listed}
        for name, thing in public_callables().items():
            if name not in known and not (
                inspect.isclass(thing) and name in self.objects and name not in self.of_one
            ):
                listed.append((name, thing, self.right_for(name, thing)))
        for kind, owner in self.objects.items():
            for name, thing in members(type(owner)):
                call = f"{kind}.{name}"
                if not is_property(thing) and call not in known:
                    bound = _at_once(getattr(owner, name))
                    listed.append((call, bound, self.right_for(call, bound)))
        return listed

    def names(self) -> set[str]:
        """Of everything that is walked."""
        return {call.split(" ")[0] for call, *_ in self.calls()} | {
            n for n, *_ in self.properties()
        }

    def properties(self) -> Iterator[tuple[str, Any, str]]:
        """The objects' properties, by name."""
        for kind, owner in self.objects.items():
            for name, thing in members(type(owner)):
                if is_property(thing):
                    yield f"{kind}.{name}", owner, name
