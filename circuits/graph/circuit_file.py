"""A circuit's JSON file: the fields of ``Circuit``, of schema version 3. Version 2 (toolkit 0.1)
held ``thresholds``, ``source`` and ``shares`` as dictionaries of texts, lists joined by ", "."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuits.errors import GraphError
from circuits.graph.records import Choice
from circuits.storage.files import read_json, written_whole
from circuits.storage.records import HALF, RecordError, record_of
from circuits.storage.replacing import begins_as, check_file

_SCHEMA, _VERSION = "bilinear-circuits/circuit", 3


def write_circuit(path: Path, name: str, fields: Mapping[str, Any], force: bool = False) -> None:
    """Write a circuit's fields; over another file only with ``force``."""
    check_file(path, "a circuit", begins_as(_SCHEMA), GraphError, force)
    write_finite(path, name, circuit_content(fields))


def circuit_content(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a circuit with these fields holds."""
    content = {"schema": _SCHEMA, "version": _VERSION, **fields}
    if evidence := content.get("evidence"):
        shares = {name: share for name, share in evidence["shares"].items() if share is not None}
        content["evidence"] = {**evidence, "shares": shares}
    return content


def write_finite(path: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write what the file of a circuit holds, refused where a number is not finite or a name is no
    text: what could not be read again."""
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except ValueError as error:
        raise GraphError(
            f"circuit {name!r} cannot be written as JSON ({error}). Its numbers must be finite."
        ) from error
    if half := HALF.search(json.dumps(content, ensure_ascii=False)):
        raise GraphError(
            f"circuit {name!r}: a name or label holds {half[0]!a}, half of a character, so it is "
            f"not text. Remove it."
        )
    with written_whole(path) as file:
        file.write_text(text + "\n", encoding="utf-8")


def read_circuit(path: Path, kind: type) -> Any:
    """The circuit of a file; refused if it is not whole, or newer than this version."""
    return circuit_of(read_json(path, GraphError), kind, str(path))


def circuit_of(content: Mapping[str, Any], kind: type, path: str) -> Any:
    """The circuit that a file, or a part of one, holds; ``path`` says which."""
    content = dict(content)
    if content.pop("schema", None) != _SCHEMA:
        raise GraphError(
            f"{path} is not a circuit: its 'schema' is not '{_SCHEMA}'. Pass a file that "
            f"Circuit.save wrote."
        )
    version = content.pop("version", None)
    if type(version) is not int or version not in (2, _VERSION):
        raise GraphError(
            f"{path} is of schema version {version!r}; this version of the toolkit reads 2 and "
            f"{_VERSION}. Update bilinear-circuits, or save the circuit again."
        )
    try:
        return record_of(kind, content if version == _VERSION else _of_2(content), "the circuit")
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    except RecordError as error:
        raise GraphError(
            f"{path} is not whole: {error}. It was changed by hand or by another version: save it "
            f"again."
        ) from error


_OF_2 = {"name", "outputs", "features", "interactions", "gates", "groups", "detectors",
         "thresholds", "source", "shares", "energy", "explained", "activation"}  # fmt: skip


def _of_2(old: dict[str, Any]) -> dict[str, Any]:
    if set(old) != _OF_2:
        raise RecordError(
            f"of version 2, missing {sorted(_OF_2 - set(old)) or 'nothing'}, unknown "
            f"{sorted(set(old) - _OF_2) or 'nothing'}"
        )
    try:
        source, names = dict(old["source"]), dict(old["groups"])
        evidence = _evidence_of_2(old) if "behaviour" in source else None
        hashes = ("model", "layer", "inputs", "outputs", "reader", "interactions")
        groups = [
            {"number": int(number), "name": name, "stability": None,
             "effect": None if evidence is None else name}
            for number, name in names.items()
        ]  # fmt: skip
        rows = ("name", "outputs", "features", "gates", "energy", "explained")
        return {name: old[name] for name in rows} | {
            "interactions": [{**pair, "q_form": None} for pair in old["interactions"]],
            "groups": groups,
            "source": {name: source.get(name) for name in hashes},
            "selection": _selection_of_2(old["thresholds"]),
            "evidence": evidence,
            "proposal": _proposal_of_2(old["shares"], source),
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordError(f"of version 2 ({error})") from error


def _evidence_of_2(old: dict[str, Any]) -> dict[str, Any]:
    source, asked_for = old["source"], old["thresholds"]
    # of two factors each feature has a second effect; names may hold a comma themselves
    two = any(feature["second_effect"] is not None for feature in old["features"])
    factors = source["factors"].split(", ", 1) if two else [source["factors"]]
    labels = [detector["label"] for detector in old["detectors"]]
    in_order = sorted(labels, key=lambda label: source["affected"].find(label))
    whole = source["affected"] in (", ".join(labels), ", ".join(in_order))
    names = {"through outputs": "through_outputs"}
    return {
        "behaviour": source["behaviour"],
        "metric": source["metric"],
        "factors": factors,
        "affected": in_order if whole else source["affected"].split(", "),
        "n_cases": source["cases"],
        "shares": {names.get(name, name): value for name, value in old["shares"].items()},
        "thresholds": {
            "coverage": asked_for["coverage"],
            "n_pairs": asked_for["pairs at most"],
            "right": asked_for["right in every class"],
        },
        "detectors": old["detectors"],
    }


def _selection_of_2(thresholds: dict[str, Any]) -> dict[str, Any]:
    way, _, level = str(thresholds.get("chosen", "")).partition("=")
    if "coverage" in thresholds:
        way, level = Choice.CONTRAST.value, thresholds["coverage"]
    return {
        "pairs": way or Choice.BY_HAND.value,
        "level": float(level) if level else None,
        "groups": thresholds.get("groups"),
        "seed": thresholds.get("seed"),
    }


def _proposal_of_2(shares: dict[str, Any], source: dict[str, Any]) -> dict[str, Any] | None:
    if "gate" not in shares:
        return None
    return {
        "in_gates": shares["gate"],
        "energy_of_four": shares["energy of 4 eigenvectors"],
        "opposite": source.get("opposite end"),
    }
