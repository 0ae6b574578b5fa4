"""The first page: what was run, what was found and how far to believe it, how to read it.

What a reader would get wrong: a step that was not made is named with the command that makes it, so
that a report never looks complete when it is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.dictionary_quality import quality
from analysis.discovery.find import verdict
from analysis.lowrank.controls import Control
from analysis.lowrank.curve import RankCurve
from analysis.report.circuit.mechanism import Mechanism
from analysis.report.page import Page, Table
from analysis.runs.belonging import Found
from analysis.runs.run import Run
from analysis.validation.edits import DrawKind, EditKind
from circuits.plotting.display import number, seen, shown, two
from circuits.storage.files import content_hash

_HASH = 12  # characters that are shown
_N_DOCUMENTS = 100  # that dictionaries are held against


def overview(
    run: Run, names: Mapping[str, str], stories: Mapping[str, Mechanism], seed: int
) -> Page:
    """What was run, and what was found."""
    described = run.model.describe()
    model = [
        (key.replace("_", " "), number(value))
        for key, value in described.items()
        if isinstance(value, str | int | float) and key not in ("path", "folder")
    ]
    dictionaries = _dictionaries(run, seed)
    told: dict[str, Any] = {
        "headlines": [
            _headline(found, names) | _in_short(stories.get(found.stem))
            for found in run.found
            if found.behaviour
        ],
        "proposals": [_proposal(found, names) for found in run.found if not found.behaviour],
        "model": [(key, shown(value)) for key, value in model],
        "dictionaries": dictionaries,
        "curves": [_curve_line(layer, curve) for layer, curve in run.curves.items()],
        "manifest": [_step(run.folder.path, entry) for entry in run.manifest],
        "missing": run.missing,
        "counted": _counted(run),
    }
    return Page("index", "Overview", "overview.html.j2", told, tables=[dictionaries])


def _headline(found: Found, names: Mapping[str, str]) -> dict[str, Any]:
    circuit, validation = found.circuit, found.validation
    shares = None if circuit.evidence is None else circuit.evidence.shares
    row: dict[str, Any] = {
        "page": names[found.stem],
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "pairs": len(circuit.interactions),
        "carried": two(shares.carried if shares else None),
        "computed": two(shares.computed if shares else None),
        "inherited": two(shares.inherited if shares else None),
        "proven": None if validation is None else validation.proven,
        "proof": None if validation is None else validation.verdict,
    }
    if validation is not None:
        removed, kept = (validation.edit(kind) for kind in (EditKind.REMOVE, EditKind.KEEP))
        random = validation.random
        control = random.loc[random["kind"] == DrawKind.SAME_NUMBER.value, "removed"]
        row |= {
            "removed": two(float(removed["removed"])),
            "kept": two(float(kept["faithfulness"])),
            "random": two(float(control.abs().median())),
            "n": validation.n,
            "seed": validation.seed,
        }
    return row


def _in_short(story: Mechanism | None) -> dict[str, Any]:
    """Of each class that a circuit must be seen in the pair that tells it best, and what that adds;
    what all pairs carry, as its page says it."""
    if story is None:
        return {"classes": []}
    told = [
        {key: each[key] for key in ("label", "right", "wrong")} | each["pairs"][0]
        for each in story.classes()
        if each["pairs"]
    ]
    return {"classes": told, "carried": story.of_mlp["carried"]}


def _proposal(found: Found, names: Mapping[str, str]) -> dict[str, Any]:
    circuit, proposal = found.circuit, found.circuit.proposal
    return {
        "page": names[found.stem],
        "name": shown(circuit.name),
        "pairs": len(circuit.interactions),
        "gates": ", ".join(dict.fromkeys(gate.gate for gate in circuit.gates)) or "none",
        "in_gates": number(proposal.in_gates if proposal else None),
        "explained": number(circuit.explained),
        "energy": number(proposal.energy_of_four if proposal else None),
    }


def _dictionaries(run: Run, seed: int) -> Table:
    """How well each stands in for its site, on text that training left out; else only its size."""
    rows = []
    for site, dictionary in run.dictionaries.items():
        row: dict[str, Any] = {"site": str(site), "features": dictionary.n_feature}
        if run.text is not None:
            found = quality(
                dictionary, run.model, run.text, n_documents=_N_DOCUMENTS, seed=seed
            ).iloc[0]
            row |= {name: found[column] for name, column in _QUALITY.items()}
        elif dictionary.statistics is not None:
            frequency = dictionary.statistics.frequency
            row |= {
                "active on a token": float(frequency.sum()),
                "never active": float((frequency == 0).float().mean()),
                "n tokens": int(dictionary.statistics.n_token),
            }
        rows.append(row)
    caption = (
        f"How well each dictionary stands in for its site. Unexplained: share of the variance. "
        f"Loss recovered: with the reconstruction in its place, between the site at zero (0) and "
        f"the model as it is (1). Control: as many random directions, seed {seed}."
        if run.text is not None
        else "Dictionaries, as training left them."
    )
    return Table.of("dictionaries", caption, pd.DataFrame(rows))


_QUALITY = {
    "active on a token": "l0", "never active": "dead", "unexplained": "fvu",
    "unexplained, random": "fvu_random", "loss recovered": "recovered",
    "recovered, random": "recovered_random", "n tokens": "n_token",
}  # fmt: skip
"""What is told of `quality`, and what it is called there."""


def _counted(run: Run) -> list[str]:
    """What there is, in a line."""
    behaved = [found for found in run.found if found.behaviour]
    proven = sum(found.validation is not None and found.validation.proven for found in behaved)
    n_weights = run.model.describe().get("parameters")
    told = [
        f"a model of {run.model.n_layer} layer{'s' * (run.model.n_layer > 1)} and "
        f"{number(n_weights)} weights",
        f"{len(run.dictionaries)} dictionaries",
        f"{len(behaved)} circuits of behaviours, {proven} of them proven",
    ]
    if n_proposed := len(run.found) - len(behaved):
        told.append(f"{n_proposed} proposals")
    return told + ["an image classifier"] * (run.images is not None)


def _curve_line(layer: int, curve: RankCurve) -> dict[str, Any]:
    told = curve.summary(2)
    return {
        "layer": layer,
        "share": number(told["share_above"]),
        "n": told["n_compared"],
        "controls": [(name.value, number(told[f"share_above_{name}"])) for name in Control],
    }


def _step(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A step, and of each file that it made whether it is as it was."""
    versions = entry.get("versions", {})
    made_of = json.dumps(entry.get("made_of", {}), indent=1, sort_keys=True)
    return {
        "step": seen(str(entry["step"])),
        "made_of": made_of,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "made": [
            (shown(name), str(value)[:_HASH], _since(folder / name, value))
            for name, value in entry.get("made", {}).items()
        ],
    }


def _since(file: Path, then: str) -> str:
    if not file.is_file():
        return "not there any more"
    return "" if content_hash(file) == then else "changed since"
