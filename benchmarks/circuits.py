"""Circuits of three behaviours from many seeds, with no manual choices and no bound changed.

A seed is a model and dictionaries of the default plans; what was measured of each is kept, so that
an interrupted run resumes. F1 is on held-out stories, against the corpus' own ground truth, at
every token before a reaction. Then controls of the search (untrained models, shuffled weights, the
gate on right cases switched off) and the ledgers of random tokens and features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.attribution.ledger import Reader, ledger
from analysis.behaviour.bounds import FIXED
from analysis.behaviour.built_in import built_in_behaviour
from analysis.cli.demo import BEHAVIOURS
from analysis.discovery.find import find_circuit
from analysis.runs.circuits import N_CASES, story_cases
from analysis.validation.criteria import IN_ONE_LAYER, Claim
from analysis.validation.edits import DrawKind, EditKind
from analysis.validation.record import Validation
from analysis.validation.validate import validate
from benchmarks.measure import machine, table
from circuits.corpus import built_in
from circuits.errors import GraphError, NotFoundError
from circuits.graph.circuit import Circuit
from circuits.model import Model, ModelPlan, Site, load_model, train_model
from circuits.model.evaluation import CASES
from circuits.model.loading import shuffled_weights, untrained
from circuits.storage.files import read_json, write_json
from sae import Dictionary, TrainingPlan, load_dictionaries, train_saes

SEEDS = range(10)
N_STORIES = 1500
N_LEDGERS = 2500  # of each of four combinations of sites
N_CONTROLS = 20  # untrained models, and as many of shuffled weights
_VERSION = 3  # of what is measured of a seed
_NAMED = 10  # seeds that fall short of one criterion; of more, how many
_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)

Dictionaries = dict[Site, Dictionary]


def run(device: str, folder: str | None = None, seeds: Iterable[int] = SEEDS) -> str:
    """The tables; models, dictionaries and results are kept in a folder where one is named."""
    seeds = list(seeds)
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        found = {seed: _of_seed(seed, where, device) for seed in seeds}
        model, dictionaries = trained(seeds[0], where, device)
        lines = [*_ledger_lines(model, dictionaries), *_control_lines(model, dictionaries)]
    head = (
        f"{machine()}. Seeds {seeds[0]} to {seeds[-1]}; bounds fixed on {FIXED}. {N_CASES} minimal "
        f"pairs, half to choose on and half to measure on; ten draws of random pairs."
    )
    tables = [table(_rows(found), _HEAD), table(_basis_rows(found), _BASIS_HEAD)]
    return "\n\n".join(
        [head, *tables, "\n".join(f"- {line}" for line in [*_failed(found), *lines])]
    )


def trained(seed: int, folder: Path, device: str) -> tuple[Model, Dictionaries]:
    """A model and its dictionaries, from the folder where they are there already."""
    model_folder = folder / str(seed) / "model"
    train_model(ModelPlan(seed=seed), built_in(seed), model_folder, device=device)
    model = load_model(model_folder, device=device)
    saes = folder / str(seed) / "saes"
    train_saes(model, built_in(seed), TrainingPlan(seed=seed), saes, device=device)
    return model, load_dictionaries(saes, device=device)


def _of_seed(seed: int, folder: Path, device: str) -> dict[str, Any]:
    """What was measured of a seed, from the folder where it is there already."""
    file = folder / str(seed) / f"measured-{FIXED}-{_VERSION}.json"
    if file.exists():
        return read_json(file, GraphError)
    model, dictionaries = trained(seed, folder, device)
    wanted = [(name, fresh) for name in BEHAVIOURS for fresh in (False, True)]
    found = {
        f"{name}, other words" if fresh else name: _measured(model, dictionaries, name, fresh, seed)
        for name, fresh in wanted
    }
    write_json(file, found)
    return found


def _measured(
    model: Model, dictionaries: Dictionaries, name: str, fresh: bool, seed: int
) -> dict[str, Any]:
    cases = built_in_behaviour(name, model, N_CASES, fresh_words=fresh)
    try:
        circuit = find_circuit(model, dictionaries, cases, detection_cases=story_cases(name, model))
    except NotFoundError as answer:
        return {"found": False, "why": str(answer)}
    try:
        proof = validate(model, circuit, cases.halves()[1], dictionaries)
    except GraphError as answer:
        return {"found": False, "why": str(answer)}
    return {
        "found": True,
        "pairs": len(circuit.interactions),
        "computed": circuit.evidence.shares.computed if circuit.evidence else None,
        "claims": {str(claim): holds for claim, holds in proof.claims.items()},
        "criteria": {str(one.name): one.value for one in proof.criteria},
        "short": [str(one.name) for one in proof.criteria if not one.met],
        "explained": proof.explained.tolist(),
        "as_loud": _as_loud(proof),
        "off": float(proof.checks["off_by"].max()),
        "bases": proof.bases.astype(object).where(proof.bases.notna(), None).to_dict("records"),
        "f1": f1_on_stories(model, dictionaries[Site("mlp_out", 0)], circuit, seed),
    }


def _as_loud(proof: Validation) -> dict[str, float]:
    """Of what the circuit removes for what it writes, what pairs as loud remove: the median and
    most of it, and the median of its size and the largest, of whichever sign."""
    loud = proof.random[proof.random["kind"] == DrawKind.SAME_SIZE.value]
    each = loud["removed"] / loud["size"] / float(proof.edit(EditKind.REMOVE)["removed"])
    return {"median": each.median(), "most": each.max(), "size": each.abs().median(),
            "largest": each.abs().max()}  # fmt: skip


@torch.no_grad()
def f1_on_stories(model: Model, out: Dictionary, circuit: Circuit, seed: int) -> dict[str, float]:
    """Of each class' detector, its features and cuts as they were chosen on other stories; none of
    classes that the stories' truth does not name."""
    named = [d for d in circuit.detectors if d.label in CASES]
    if not named:
        return {}
    stories = built_in(seed + 1000).stories(0, N_STORIES)
    truth = stories.reactions
    reads = []
    for start in range(0, N_STORIES, 100):
        some = truth[(truth["document"] >= start) & (truth["document"] < start + 100)]
        tokens = model.tokens(stories.texts[start : start + 100])
        y = model.read(tokens, "mlp_out@0")[Site("mlp_out", 0)]
        row = torch.tensor((some["document"] - start).to_numpy())
        # the word at position p of a story is at p + 1 of its row, and is predicted at p
        reads.append(out.encode(y[row, torch.tensor(some["position"].to_numpy())]).cpu())
    active = torch.cat(reads)
    polarity, negated = (torch.tensor(truth[c].to_numpy()) for c in ("polarity", "negated"))
    found = {}
    for detector in named:
        sign, negation = CASES[detector.label]
        right = (polarity == sign) & (negated == negation)
        detected = (active[:, list(detector.features)] > torch.tensor(detector.cuts)).any(1)
        found[detector.label] = (
            2 * int((detected & right).sum()) / int(detected.sum() + right.sum())
        )
    return found


_HEAD = ("behaviour", "found", "causal and computed here", *map(str, IN_ONE_LAYER), "pairs",
         "removed", "left, worst stratum", "kept alone, worst stratum",
         "side effect, worst stratum",
         "inherited, worst frame", "case's share explained, 5 % to 95 %",
         "as loud: median / most removed", "as loud, either sign: median / largest")  # fmt: skip


def _rows(found: dict[int, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for name in next(iter(found.values())):
        every = [one[name] for one in found.values()]
        there = [one for one in every if one["found"]]
        if not there:
            rows.append((name, f"0 of {len(every)}", *[""] * (len(_HEAD) - 2)))
            continue
        both = sum(
            all(one["claims"][str(claim)] for claim in (Claim.CAUSAL, Claim.COMPUTED))
            for one in there
        )
        rows.append(
            (
                name,
                f"{len(there)} of {len(every)}",
                str(both),
                *(str(sum(one["claims"][str(claim)] for one in there)) for claim in IN_ONE_LAYER),
                _spread([one["pairs"] for one in there], 0),
                *(
                    _spread([one["criteria"].get(key) for one in there])
                    for key in ("removed", "left", "kept", "side_effect", "inherited")
                ),
                f"{np.median([one['explained'][0] for one in there]):.2f} to "
                f"{np.median([one['explained'][-1] for one in there]):.2f}",
                *(
                    " / ".join(f"{np.median([one['as_loud'][k] for one in there]):.2f}" for k in ks)
                    for ks in (("median", "most"), ("size", "largest"))
                ),
            )
        )
    return rows


def _spread(values: list[float | None], digits: int = 2) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, _, middle, _, high = np.quantile(known, _QUANTILES)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


_BASIS_HEAD = ("behaviour", "basis", "pairs for 80 % in every stratum", "seeds that reach it",
               "removed by as many as the circuit's", "side effect of that")  # fmt: skip


def _basis_rows(found: dict[int, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for name in next(iter(found.values())):
        there = [one[name]["bases"] for one in found.values() if one[name]["found"]]
        for of_basis in zip(*there, strict=True):
            needed = [one["needed"] for one in of_basis]
            reached = sum(n is not None for n in needed)
            rows.append(
                (
                    name,
                    of_basis[0]["basis"],
                    _spread(needed, 0),
                    f"{reached} of {len(of_basis)}",
                    _spread([one["removed"] for one in of_basis]),
                    _spread([one["side_effect"] for one in of_basis]),
                )
            )
    return rows


def _failed(found: dict[int, dict[str, Any]]) -> list[str]:
    """By seed, which criteria fell short."""
    lines = []
    for name in next(iter(found.values())):
        every = {seed: one[name] for seed, one in found.items()}
        short: dict[str, list[str]] = {}
        for seed, one in every.items():
            for measure in one["short"] if one["found"] else ["not found"]:
                short.setdefault(measure, []).append(str(seed))
        named = {
            m: ", ".join(s) if len(s) <= _NAMED else f"{len(s)} seeds" for m, s in short.items()
        }
        listed = "; ".join(f"{m.replace('_', ' ')}: {s}" for m, s in named.items())
        lines.append(f"{name}, seeds that fall short of a criterion: {listed or 'none'}")
    f1 = [one["negation"]["f1"] for one in found.values() if one["negation"]["found"]]
    if not f1:
        return lines
    lines.append(
        "F1 on held-out stories: "
        + ", ".join(f"{label} {_spread([one[label] for one in f1])}" for label in f1[0])
    )
    off = max(one["off"] for each in found.values() for one in each.values() if one["found"])
    lines.append(f"single pairs: predicted and measured change differ by at most {off:.1e} of it")
    return lines


def _control_lines(model: Model, dictionaries: Dictionaries) -> list[str]:
    """The search on models that learned nothing, with the gate on right cases and without."""
    plain = {site: replace(each, notes={}) for site, each in dictionaries.items()}
    lines = []
    for title, made in (("untrained", untrained), ("of shuffled weights", shuffled_weights)):
        gated = found = causal = both = 0
        for seed in range(N_CONTROLS):
            other = made(model, seed)
            cases = built_in_behaviour("negation", other, N_CASES)
            try:
                find_circuit(other, plain, cases)
                gated += 1
            except NotFoundError:
                pass
            try:
                circuit = find_circuit(other, plain, cases, shown=0.0)
            except NotFoundError:
                continue
            found += 1
            try:
                claims = validate(other, circuit, cases.halves()[1], plain).claims
            except GraphError:  # too few pairs are active together for a control
                continue
            causal += claims[Claim.CAUSAL]
            both += claims[Claim.CAUSAL] and claims[Claim.COMPUTED]
        lines.append(
            f"{N_CONTROLS} models {title}: a circuit in {gated}; with the gate on right cases "
            f"switched off, in {found}, of which causal {causal}, causal and computed here {both}"
        )
    return lines


@torch.no_grad()
def _ledgers(model: Model, dictionaries: Dictionaries, n_each: int) -> dict[str, float]:
    """Random tokens and features, each account against the model's own number: how many, the
    largest difference relative to the number and to the largest row (for numbers near zero are
    differences of large ones), how many are off by more than 1e-4 of the number, and what share of
    the number its rows with the dictionary's error are."""
    rng = torch.Generator().manual_seed(0)
    tokens = model.tokens(built_in(4242).stories(0, 64).texts)
    lengths = model.mask(tokens).sum(1)
    off, of_rows, missed = [], [], []
    for into in ("mlp_in", "resid_mid"):
        for point in ("mlp_out", "resid_post"):
            out = replace(dictionaries[Site("mlp_out", 0)], site=Site(point, 0))
            for _ in range(n_each):
                row = int(torch.randint(len(tokens), (1,), generator=rng))
                position = int(torch.randint(1, int(lengths[row]), (1,), generator=rng))
                reader = Reader.of(out, int(torch.randint(out.n_feature, (1,), generator=rng)))
                made = ledger(model, 0, dictionaries[Site(into, 0)], reader, tokens[row], position)
                largest = float(made.rows["value"].abs().max())
                off.append(made.off_by)
                of_rows.append(abs(made.total - made.computed) / largest)
                missed.append(abs(made.kinds.get("error", 0.0)) / max(abs(made.computed), 1e-12))
    return {"n": len(off), "number": max(off), "row": max(of_rows),
            "beyond": sum(each > 1e-4 for each in off),
            "missed": float(np.median(missed)),
            "much": float(np.mean(np.array(missed) > 0.2))}  # fmt: skip


def _ledger_lines(model: Model, dictionaries: Dictionaries) -> list[str]:
    single = _ledgers(model, dictionaries, N_LEDGERS)
    double = {site: each.to(torch.float64) for site, each in dictionaries.items()}
    exact = _ledgers(model.in_dtype(torch.float64), double, N_LEDGERS // 10)
    turned = torch.Generator().manual_seed(0)
    other = {
        site: replace(each, decoder=torch.randn(each.decoder.shape, generator=turned))
        for site, each in double.items()
    }
    control = _ledgers(model.in_dtype(torch.float64), other, N_LEDGERS // 10)
    return [
        f"{single['n']} ledgers of the model in float32: {single['beyond']} are off by more than "
        f"1e-4 of the number (at most {single['number']:.1e}; {single['row']:.1e} of the largest "
        f"row); {exact['n']} of the model in float64: at most {exact['number']:.1e}",
        f"rows with the dictionary's error: {single['missed']:.1%} of the number in the median, "
        f"more than a fifth of it in {single['much']:.0%} of ledgers; with a random decoder, whose "
        f"ledgers are off by at most {control['row']:.1e} of the largest row as well, "
        f"{control['missed']:.0%} in the median",
    ]
