"""Negation circuits from ten seeds, with no manual choices, and the effect of removing them.

A seed is a model and dictionaries of the default plans. F1 is on held-out stories, against the
corpus' own ground truth, at every token before a reaction. Then the ledgers of random tokens and
features, and twenty untrained models.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from analysis.attribution.ledger import Reader, ledger
from analysis.behaviour.built_in import built_in_behaviour
from analysis.discovery.find import find_circuit
from analysis.runs.circuits import N_PAIRS, story_cases
from analysis.validation.edits import EditKind
from analysis.validation.validate import validate
from benchmarks.measure import machine, table
from circuits.corpus import built_in
from circuits.errors import NotFoundError
from circuits.graph.circuit import Circuit
from circuits.model import Model, ModelPlan, Site, load_model, train_model
from circuits.model.evaluation import CASES
from circuits.model.loading import untrained
from sae import Dictionary, TrainingPlan, load_dictionaries, train_saes

SEEDS, N_UNTRAINED = 10, 20
N_STORIES = 1500
N_LEDGERS = 2500  # of each of four combinations of sites

Dictionaries = dict[Site, Dictionary]


def trained(seed: int, folder: Path, device: str) -> tuple[Model, Dictionaries]:
    """A model and its dictionaries, from the folder where they are there already."""
    model_folder = folder / str(seed) / "model"
    train_model(ModelPlan(seed=seed), built_in(seed), model_folder, device=device)
    model = load_model(model_folder, device=device)
    saes = folder / str(seed) / "saes"
    train_saes(model, built_in(seed), TrainingPlan(seed=seed), saes, device=device)
    return model, load_dictionaries(saes, device=device)


@torch.no_grad()
def f1_on_stories(model: Model, out: Dictionary, circuit: Circuit, seed: int) -> dict[str, float]:
    """Of each class' detector, its features and cuts as they were chosen on other stories."""
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
    for detector in circuit.detectors:
        sign, negation = CASES[detector.label]
        right = (polarity == sign) & (negated == negation)
        detected = (active[:, list(detector.features)] > torch.tensor(detector.cuts)).any(1)
        found[detector.label] = (
            2 * int((detected & right).sum()) / int(detected.sum() + right.sum())
        )
    return found


def seed_row(seed: int, folder: Path, device: str) -> tuple[tuple[str, ...], dict[str, float]]:
    """One line of the table, and the numbers that are summed up below it."""
    model, dictionaries = trained(seed, folder, device)
    chosen = built_in_behaviour("negation", model, N_PAIRS)
    start = time.perf_counter()
    detection_cases = story_cases("negation", model)
    circuit = find_circuit(model, dictionaries, chosen, detection_cases=detection_cases)
    found = validate(model, circuit, chosen.halves()[1], dictionaries)
    seconds = time.perf_counter() - start
    plain, removed, kept = (
        found.edit(kind) for kind in (EditKind.NONE, EditKind.REMOVE, EditKind.KEEP)
    )
    out = dictionaries[Site("mlp_out", 0)]
    f1 = f1_on_stories(model, out, circuit, seed)
    sizes = {d.label: len(d.features) for d in circuit.detectors}
    gate = circuit.gates[0]
    random = found.random_table.set_index("kind")["median"]
    numbers = {
        "computed": circuit.evidence.shares.computed,
        "removed": float(removed["removed"]),
        "side effect": float(removed["side_effect"]),
        "kept": float(kept["faithfulness"]),
        "seconds": seconds,
        "proven": float(found.proven),
        "off": float(found.checks["off_by"].max()),
        **{f"F1 {label}": value for label, value in f1.items()},
    }
    left = [removed[label] / plain[label] for label in ("not good", "not bad")]
    return (
        str(seed),
        str(len(circuit.interactions)),
        f"{circuit.group_name(gate.first)} & {circuit.group_name(gate.second)}",
        f"{circuit.evidence.shares.computed:.2f}",
        " / ".join(f"{f1[label]:.2f} ({sizes[label]})" for label in ("not good", "not bad")),
        f"{removed['removed']:.2f}",
        " / ".join(f"{share:+.2f}" for share in left),
        f"{removed['moved']:.3f}",
        f"{kept['faithfulness']:.2f}",
        f"{random['same number']:.3f} / {random['same size']:.3f}",
        "proven" if found.proven else "not proven",
    ), numbers


@torch.no_grad()
def ledgers(model: Model, dictionaries: Dictionaries, n_each: int) -> dict[str, float]:
    """Random tokens and features, each account against the model's own number: how many, the
    largest difference relative to the number and to the largest row (for numbers near zero are
    differences of large ones), and how many are off by more than 1e-4 of the number."""
    rng = torch.Generator().manual_seed(0)
    tokens = model.tokens(built_in(4242).stories(0, 64).texts)
    lengths = model.mask(tokens).sum(1)
    off, of_rows = [], []
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
    return {"n": len(off), "number": max(off), "row": max(of_rows),
            "beyond": sum(each > 1e-4 for each in off)}  # fmt: skip


def not_found(model: Model, dictionaries: Dictionaries) -> int:
    """How many untrained models show no circuit."""
    answers = 0
    for seed in range(N_UNTRAINED):
        fresh = untrained(model, seed)
        plain = {site: replace(d, notes={}) for site, d in dictionaries.items()}
        try:
            find_circuit(fresh, plain, built_in_behaviour("negation", fresh, N_PAIRS))
        except NotFoundError:
            answers += 1
    return answers


def run(device: str, folder: str | None = None) -> str:
    """The table of seeds; models and dictionaries are kept in a folder where one is named."""
    rows, numbers = [], []
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(folder or temporary)
        for seed in range(SEEDS):
            row, known = seed_row(seed, where, device)
            rows.append(row)
            numbers.append(known)
        model, dictionaries = trained(0, where, device)
        single = ledgers(model, dictionaries, N_LEDGERS)
        double = {site: each.to(torch.float64) for site, each in dictionaries.items()}
        exact = ledgers(model.in_dtype(torch.float64), double, N_LEDGERS // 10)
        answers = not_found(model, dictionaries)
    heads = ("seed", "pairs", "strongest gate", "computed", "F1 not good / not bad (features)",
             "effect removed", "margin left, not good / not bad", "side effect on good, bad",
             "effect kept alone", "random pairs: as many / as large", "verdict")  # fmt: skip
    lines = [
        f"computed at least 0.6 on {sum(k['computed'] >= 0.6 for k in numbers)} of {SEEDS} seeds; "
        f"proven on {sum(k['proven'] for k in numbers):.0f}",
        "F1 on held-out stories, median: " + ", ".join(
            f"{label} {median(k[f'F1 {label}'] for k in numbers):.3f}"
            for label in ("not good", "not bad")
        ),
        f"find and validate: {min(k['seconds'] for k in numbers):.0f} to "
        f"{max(k['seconds'] for k in numbers):.0f} s",
        f"single pairs: predicted and measured change differ by at most "
        f"{max(k['off'] for k in numbers):.1e} of it",
        f"{single['n']} ledgers of the model in float32: {single['beyond']} are off by more than "
        f"1e-4 of the number (at most {single['number']:.1e}; {single['row']:.1e} of the largest "
        f"row); {exact['n']} of the model in float64: at most {exact['number']:.1e}",
        f"untrained models without a circuit: {answers} of {N_UNTRAINED}",
    ]  # fmt: skip
    return f"{table(rows, heads)}\n\n{machine()}\n\n" + "\n".join(f"- {line}" for line in lines)
