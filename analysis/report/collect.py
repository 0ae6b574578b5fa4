"""What a run folder holds, read once and checked, and what it lacks with the command that makes it.

A model and its dictionaries must be there; everything else a report can be without, and says so.
What a reader would get wrong: a file that is there but is cut short, of a newer version, or of
another model than the one beside it is an error, not a step that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from analysis.behaviour.cases import Behaviour
from analysis.discovery.find import layers_with_dictionaries
from analysis.lowrank.curve import RankCurve
from analysis.runs.images import Study
from analysis.validation.validate import Validation
from circuits.corpus.documents import Corpus, built_in
from circuits.errors import CircuitsError, RunError, first_line, shorten
from circuits.graph.circuit import Circuit
from circuits.model.evaluation import split_corpus
from circuits.model.loading import load_model
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.plotting.display import seen
from circuits.storage.manifest import read_manifest
from sae.dictionary import Dictionary
from sae.loading import load_dictionaries

Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class Found:
    """A circuit, with its cases and what edits showed where it was found for a behaviour."""

    stem: str  # of its file
    circuit: Circuit
    behaviour: Behaviour | None
    validation: Validation | None

    @property
    def layer(self) -> int | None:
        """Whose MLP it is in, where its file says."""
        layer = self.circuit.source.get("layer")
        return layer if isinstance(layer, int) else None


@dataclass(frozen=True)
class Missing:
    """A step that was not made yet."""

    step: str
    command: str  # with RUN for the folder: a page does not tell where it was made


@dataclass(frozen=True, eq=False)
class Run:
    """Everything in a run folder that a report tells."""

    folder: Path
    manifest: list[dict[str, Any]]
    model: Model
    dictionaries: dict[Site, Dictionary]
    circuits: list[Found]
    curves: dict[int, RankCurve]
    interactions: dict[int, pd.DataFrame]
    images: Study | None  # the image case study
    text: Corpus | None  # that examples are taken from
    missing: list[Missing]

    @property
    def layers(self) -> list[int]:
        """Those with dictionaries before and after the MLP."""
        return layers_with_dictionaries(self.model, self.dictionaries)

    @property
    def reader_of_interactions(self) -> str | None:
        """How `circuits interactions` read the outputs, where the manifest says."""
        steps = {entry["step"]: entry.get("made_of", {}) for entry in self.manifest}
        reader = steps.get("interactions", {}).get("reader")
        return reader if isinstance(reader, str) else None


def collect(folder: str | Path, text: Corpus | None = None, device: str | None = None) -> Run:
    """Read a run; without a text, examples are of the built-in stories that training left out,
    where the model knows their words."""
    folder = Path(folder)
    _check_begun(folder)
    model = load_model(folder / "model", device=device)
    dictionaries = load_dictionaries(folder, device=device)
    circuits = [_found(path) for path in sorted((folder / "circuits").glob("*.json"))
                if not path.name.endswith(".validation.json")]  # fmt: skip
    for found in circuits:
        _check_same(folder, found, model, dictionaries)
        _check_together(folder, found)
    curves = {
        _layer(path): _read(path, RankCurve.load, f"circuits rank {folder}")
        for path in sorted((folder / "rank").glob("layer-*.json"))
    }
    interactions = {
        _layer(path): _read(path, pd.read_parquet, f"circuits interactions {folder}")
        for path in sorted((folder / "interactions").glob("layer-*.parquet"))
    }
    manifest = read_manifest(folder)
    known = {"model": model.fingerprint}
    known |= {str(site): dictionary.fingerprint for site, dictionary in dictionaries.items()}
    _check_tables(folder, known, curves, manifest)
    run = Run(
        folder,
        manifest,
        model,
        dictionaries,
        sorted(circuits, key=_order),
        dict(sorted(curves.items())),
        dict(sorted(interactions.items())),
        Study.load(folder),
        _held_out(model) if text is None else text,
        [],
    )
    run.missing.extend(_missing(run))
    return run


def _order(found: Found) -> tuple[bool, bool, float, str]:
    """Behaviours before proposals, what is proven and computed first."""
    proven = found.validation is not None and found.validation.proven
    return (
        found.behaviour is None,
        not proven,
        -found.circuit.shares.get("computed", 0.0),
        found.stem,
    )


def _check_begun(folder: Path) -> None:
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such run. Make one: circuits model train {folder}")
    if not (folder / "model").is_dir():
        raise RunError(f"{folder} has no folder 'model'. Train one: circuits model train {folder}")
    if not (folder / "saes").is_dir():
        raise RunError(f"{folder} has no folder 'saes'. Train some: circuits sae train {folder}")
    for part, command in (("model", "model train"), ("saes", "sae train")):
        if list((folder / part).glob("checkpoint*.safetensors")):
            raise RunError(
                f"{folder / part} holds a checkpoint: its training is not over. Let it end: "
                f"circuits {command} {folder}"
            )


def _found(path: Path) -> Found:
    circuit = Circuit.load(path)
    cases = path.with_name(f"{path.stem}.behaviour.jsonl")
    validation = path.with_name(f"{path.stem}.validation.json")
    metric = circuit.source.get("metric", "logit difference")
    return Found(
        path.stem,
        circuit,
        Behaviour.load(cases, metric, name=circuit.name) if cases.exists() else None,
        Validation.load(validation) if validation.exists() else None,
    )


def _check_same(
    folder: Path, found: Found, model: Model, dictionaries: dict[Site, Dictionary]
) -> None:
    """Refuse a circuit that was found in another model or with other dictionaries."""
    source, faults = found.circuit.source, []
    known = {"model": model.fingerprint}
    if found.layer is not None:
        for name, site in zip(("inputs", "outputs"), mlp_sites(found.layer), strict=True):
            if site not in dictionaries:
                faults.append(f"the run has no dictionary of {site}")
                continue
            known[name] = dictionaries[site].fingerprint
            n = dictionaries[site].n_feature  # which is the constant's number, among inputs
            named = found.circuit.features if name == "inputs" else found.circuit.outputs
            most = n if name == "inputs" else n - 1
            if lost := sorted({f.feature for f in named if not 0 <= f.feature <= most}):
                faults.append(f"{site} has {n} features, and no {shorten(lost)}")
    faults += [
        f"its {name} have the hash {str(source[name])[:12]}…, the run's {hash_[:12]}…"
        for name, hash_ in known.items()
        if source.get(name, hash_) != hash_
    ]
    if faults:
        asked = "" if found.behaviour is None else f" --behaviour {found.circuit.name}"
        raise RunError(
            f"{folder / 'circuits' / found.stem}.json is of another run: {'; '.join(faults)}. "
            f"Find it again: circuits find {folder}{asked}"
        )


def _check_together(folder: Path, found: Found) -> None:
    """Refuse a circuit beside which lie another's cases or another's validation."""
    source, behaviour, proof = found.circuit.source, found.behaviour, found.validation
    faults = []
    if behaviour is not None:
        chosen, held_out = behaviour.halves()
        told = {"factors": behaviour.factors, "affected": behaviour.affected,
                "cases": (len(chosen.cases),)}  # fmt: skip
        for name, values in told.items():
            here = ", ".join(map(str, values))
            there = str(source.get(name, here))
            if set(here.split(", ")) != set(there.split(", ")):
                faults.append(
                    f"it was found with the {name} {seen(there)}, its cases have {seen(here)}"
                )
        if proof is not None and proof.n != len(held_out.cases):
            faults.append(
                f"its validation is of {proof.n} cases, held out are {len(held_out.cases)}"
            )
    if proof is not None and proof.circuit != found.circuit.name:
        faults.append(f"its validation is of the circuit {seen(proof.circuit)!r}")
    if proof is not None:
        own = {(pair.first, pair.second) for pair in found.circuit.interactions}
        removed = set(zip(proof.parts["first"], proof.parts["second"], strict=True))
        if own != removed:
            faults.append(f"its validation is of other pairs ({len(removed)}, it has {len(own)})")
    if faults:
        raise RunError(
            f"{folder / 'circuits' / found.stem}: the files of this name do not belong together: "
            f"{'; '.join(faults)}. Make them again: circuits find {folder} --behaviour "
            f"{found.circuit.name}, then circuits validate {folder}"
        )


def _check_tables(
    folder: Path,
    known: Mapping[str, str],
    curves: Mapping[int, RankCurve],
    manifest: list[dict[str, Any]],
) -> None:
    """Refuse ranks and interactions of another model or of other dictionaries than the run's."""
    told = [
        (f"rank/layer-{layer}", "rank", {"model": curve.about.get("model"),
                                         curve.about["site"]: curve.about.get("dictionary")})
        for layer, curve in curves.items()
    ]  # fmt: skip
    told += [
        ("interactions", "interactions", entry.get("made_of", {}).get("of", {}))
        for entry in manifest
        if entry["step"] == "interactions" and (folder / "interactions").is_dir()
    ]
    for place, command, hashes in told:
        if other := [
            name for name, hash_ in hashes.items() if hash_ not in (None, known.get(name))
        ]:
            raise RunError(
                f"{folder / place} was made with another {', '.join(other)} than the run has now, "
                f"so its numbers are of something else. Remove it and make it again: circuits "
                f"{command} {folder}"
            )


def _missing(run: Run) -> list[Missing]:
    wanted = []
    layers, behaved = set(run.layers), [f for f in run.circuits if f.behaviour is not None]
    if not layers:
        wanted.append(("dictionaries before and after an MLP", "circuits sae train RUN"))
    if layers - set(run.interactions):
        wanted.append(("interactions of every output", "circuits interactions RUN"))
    if not behaved:
        wanted.append(("circuits of a behaviour",
                       "circuits find RUN --behaviour negation"))  # fmt: skip
    if unproven := [f.stem for f in behaved if f.validation is None]:
        wanted.append((f"validation of {', '.join(unproven)}", "circuits validate RUN"))
    if not run.curves:
        wanted.append(("low rank", "circuits rank RUN"))
    if run.text is None:
        wanted.append(("examples in text", "circuits report RUN --text PATH"))
    return [Missing(step, command) for step, command in wanted]


def _held_out(model: Model) -> Corpus | None:
    """The part of the built-in stories that no training sees, where the model knows the words."""
    stories = built_in(0)
    if model.tokenizer is None or stories.word_numbers(model.tokenizer) is None:
        return None
    return split_corpus(stories)[1]


def _layer(path: Path) -> int:
    number = path.stem.removeprefix("layer-")
    if not number.isdecimal():
        raise RunError(f"{path}: names no layer. A run's are called layer-0, layer-1 and so on.")
    return int(number)


def _read(path: Path, read: Callable[[Path], Read], command: str) -> Read:
    try:
        return read(path)
    except CircuitsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({first_line(error)}). It was cut short or is another file: "
            f"make it again: {command}"
        ) from error
