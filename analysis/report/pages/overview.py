"""The first page: what was run, what was found and how well it is supported, how to read it.

A missing step is listed with its command, so that a report never looks complete when it is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.behaviour.bounds import LEAST
from analysis.dictionary_quality import quality
from analysis.discovery.find import verdict
from analysis.html.page import Page, Table
from analysis.lowrank.curve import RankCurve
from analysis.report.circuit.mechanism import Mechanism
from analysis.report.pages.layered import headline
from analysis.runs.belonging import Found
from analysis.runs.missing import TRACE, command_for, not_found
from analysis.runs.run import Run
from analysis.validation.criteria import Claim
from analysis.validation.edits import DrawKind, EditKind
from circuits.model.identity import TwinLabel
from circuits.plotting.display import number, percent, seen, shown, two
from circuits.storage.manifest import State, states

_HASH = 12  # characters that are shown
_ELSEWHERE = ("original", "versions")  # of a twin's label: in words above it, below each step
_N_DOCUMENTS = 100  # that the quality of dictionaries is measured on


def overview(
    run: Run,
    names: Mapping[str, str],
    layered: Mapping[str, str],
    traces: Sequence[Page],
    mechanisms: Mapping[str, Mechanism],
    seed: int,
) -> Page:
    """What was run, and what was found; ``names`` and ``layered`` are of the circuits' pages,
    ``traces`` those of single texts."""
    described = run.model.describe()
    model = [
        (key.replace("_", " "), number(value))
        for key, value in described.items()
        if isinstance(value, str | int | float) and key not in ("path", "folder")
    ]
    dictionaries = _dictionaries(run, seed)
    context: dict[str, Any] = {
        "headlines": [
            _headline(found, names) | _classes(mechanisms.get(found.stem))
            for found in run.found
            if found.behaviour
        ],
        "layered": [headline(found, layered[found.stem]) for found in run.layered_found],
        "not_found": [
            {"name": shown(one.name), "across": one.across, "why": seen(one.why)}
            for one in not_found(run.folder, run.hashes)
        ],
        "proposals": [_proposal(found, names) for found in run.found if not found.behaviour],
        "model": [(key, shown(value)) for key, value in model],
        "dictionaries": dictionaries,
        "curves": [_curve_line(layer, curve) for layer, curve in run.curves.items()],
        "manifest": _steps(run),
        "twin": None if run.model.label is None else _twin(run, run.model.label),
        "missing": run.missing,
        "find": command_for("find", run.knows_stories),
        "rank": command_for("rank", run.knows_stories),
        "traces": [_trace(run, stem, page) for stem, page in zip(run.traces, traces, strict=True)],
        "trace": TRACE,
        "marks": [(shown(name), mark) for name, mark in sorted(run.marks.items())],
        "counted": _counted(run),
        "least": LEAST,
    }
    return Page("index", "Overview", "overview.html.j2", context, tables=[dictionaries])


def _twin(run: Run, label: TwinLabel) -> dict[str, Any]:
    """Whose twin the model is, and its label: what the twin lost; whether a circuit of the run can
    be measured in the original, as those of one layer can."""
    lost = {name: value for name, value in label.figures.items() if name not in _ELSEWHERE}
    one_layer = not run.layered_found or any(found.behaviour for found in run.found)
    return {"original": shown(label.figures["original"]), "lost": lost, "doubts": label.doubts,
            "one_layer": one_layer}  # fmt: skip


def _headline(found: Found, names: Mapping[str, str]) -> dict[str, Any]:
    circuit, validation = found.circuit, found.validation
    shares = None if circuit.evidence is None else circuit.evidence.shares
    row: dict[str, Any] = {
        "page": names[found.stem],
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "pairs": len(circuit.interactions),
        "carried": percent(shares.carried if shares else None),
        "computed": two(shares.computed if shares else None),
        "inherited": two(shares.inherited if shares else None),
        "claims": {} if validation is None else validation.claims_in_words,
        "proof": None if validation is None else validation.verdict,
        "marked": bool(found.marks),
    }
    if validation is not None:
        removed, kept = (validation.edit(kind) for kind in (EditKind.REMOVE, EditKind.KEEP))
        row |= {
            "removed": percent(float(removed["removed"])),
            "kept": percent(float(kept["faithfulness"])),
            "random": percent(float(validation.drawn(DrawKind.SAME_NUMBER)["median_size"])),
            "n": validation.n,
            "seed": validation.seed,
        }
    return row


def _classes(mechanism: Mechanism | None) -> dict[str, Any]:
    """The pair that explains each affected class best, and what all pairs carry, as on the
    circuit's own page."""
    if mechanism is None:
        return {"classes": []}
    best = [
        {key: each[key] for key in ("label", "right", "wrong")} | each["pairs"][0]
        for each in mechanism.classes()
        if each["pairs"]
    ]
    return {"classes": best, "carried": mechanism.mlp_effect["carried"]}


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


def _trace(run: Run, stem: str, page: Page) -> dict[str, Any]:
    said = {name: page.context[name] for name in ("title", "text")}
    return {"page": page.name, "marked": f"traces/{stem}.json" in run.marks, **said}


def _dictionaries(run: Run, seed: int) -> Table:
    """The quality of each, on text that training left out; without a text only its statistics."""
    rows, measured = [], pd.DataFrame()
    if run.text is not None:
        measured = quality(
            run.dictionaries.values(), run.model, run.text, n_documents=_N_DOCUMENTS, seed=seed
        )
    for place, (site, dictionary) in enumerate(run.dictionaries.items()):
        row: dict[str, Any] = {"site": str(site), "features": dictionary.n_feature}
        if len(measured):
            row |= {name: measured[column].iloc[place] for name, column in _QUALITY.items()}
        elif dictionary.statistics is not None:
            frequency = dictionary.statistics.frequency
            row |= {
                "active on a token": float(frequency.sum()),
                "never active": float((frequency == 0).float().mean()),
                "n tokens": int(dictionary.statistics.n_token),
            }
        rows.append(row)
    caption = (
        f"Quality of each dictionary. Unexplained: share of the variance. Loss recovered: with the "
        f"reconstruction in place of the activations, from 0 (activations set to zero) to 1 (the "
        f"model unchanged). Control: as many random directions, seed {seed}."
        if run.text is not None
        else "Dictionaries; statistics from their training."
    )
    return Table.of("dictionaries", caption, pd.DataFrame(rows))


_QUALITY = {
    "active on a token": "l0", "never active": "dead", "unexplained": "fvu",
    "unexplained, random": "fvu_random", "loss recovered": "recovered",
    "± error": "recovered_error", "recovered, random": "recovered_random", "n tokens": "n_token",
}  # fmt: skip


def _counted(run: Run) -> list[str]:
    """The contents of the run, for one sentence."""
    behaved = [found for found in run.found if found.behaviour]
    causal = sum(found.claims.get(Claim.CAUSAL, False) for found in behaved)
    n_weights = run.model.describe().get("parameters")
    parts = [
        f"a model of {run.model.n_layer} layer{'s' * (run.model.n_layer > 1)} and "
        f"{number(n_weights)} weights",
        f"{len(run.dictionaries)} dictionaries",
        f"{len(behaved)} circuits of behaviours, {causal} of them causal",
    ]
    if n_proposed := len(run.found) - len(behaved):
        parts.append(f"{n_proposed} proposals")
    if n_layered := len(run.layered_found):
        parts.append(f"{n_layered} circuit{'s' * (n_layered != 1)} through several layers")
    return parts + ["an image classifier"] * (run.images is not None)


def _curve_line(layer: int, curve: RankCurve) -> dict[str, Any]:
    return {
        "layer": layer,
        "needed": curve.needed_sentence,
        "conclusion": curve.needed_conclusion,
        "n": len(curve.compared(curve.ranks[0], "r2")),
    }


def _steps(run: Run) -> list[dict[str, Any]]:
    """The steps, and for each file that one made what became of it since."""
    now = {name: state for name, (_, state) in states(run.folder.path).items()}
    return [_step(entry, now) for entry in run.manifest]


def _step(entry: Mapping[str, Any], now: Mapping[str, State]) -> dict[str, Any]:
    versions = entry.get("versions", {})
    made_of = json.dumps(entry.get("made_of", {}), indent=1, sort_keys=True)
    return {
        "step": seen(str(entry["step"])),
        "made_of": made_of,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "made": [
            (shown(name), known["sha256"][:_HASH], "" if now[name] is State.SAME else now[name])
            for name, known in entry["made"].items()
        ],
    }
