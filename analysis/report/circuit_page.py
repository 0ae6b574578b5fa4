"""A circuit's page: its picture, its form, an account of examples, and what edits showed.

What a reader would get wrong: the picture shows pairs that were *chosen*; how much of the contrast
they carry, and what removing them does, stands beside it.
"""

from __future__ import annotations

from typing import Any

import torch

from analysis.contrast import PairAccount
from analysis.discovery import verdict
from analysis.ledgers import Reader, ledger
from analysis.report.circuit_tables import Captions, causal, facts, steps, tables_of
from analysis.report.collect import Found, Run
from analysis.report.contexts import Text
from analysis.report.features import Catalogue
from analysis.report.figures import approximation, projections
from analysis.report.forms import CircuitForm
from analysis.report.page import Page
from circuits.circuit import Circuit
from circuits.figures import Figure, eigenvalues, heat_map
from circuits.layout import picture
from circuits.model import Site
from circuits.text import shown, two

_MOST_IN_MATRIX = 60  # features of a heat map
_N_ROWS = 14  # of a ledger that are shown; the others stand as one

_SHARES = {
    "carried": "of what the MLP adds to the affected classes' margins, by these pairs",
    "computed": "of that contrast, made in this MLP from the two factors",
    "inherited": "already there in what the MLP is given",
    "within": "from spread within the classes",
    "direct": "of the model's own margins that the MLP adds",
    "error": "of the MLP's contrast, through what the dictionary misses",
    "through outputs": "of the contrast that goes through the output features shown",
    "gate": "of the pairs' energy that lies between two groups",
    "energy of 4 eigenvectors": "of the form's energy that four eigenvectors hold",
}


def circuit_page(
    run: Run, found: Found, name: str, text: Text | None, books: dict[Site, Catalogue], seed: int
) -> Page:
    """Of one circuit, of a behaviour or proposed."""
    circuit = found.circuit
    captions = Captions(found, books)
    drawn = _picture(circuit, captions)
    form = None if found.layer is None else CircuitForm.of(run, found)
    made = [] if form is None else _figures(form, text, captions, seed)
    layer = found.layer
    data = {
        "graph": drawn,
        "pairs": _pairs(found, text, books),
        "ledgers": [] if form is None else _ledgers(run, form, text, captions),
        "sites": {"input": f"mlp_in@{layer}", "output": f"mlp_out@{layer}"} if form else None,
    }
    tables = tables_of(circuit, captions)
    edits = [] if found.validation is None else causal(found.validation)
    told = {
        "name": shown(circuit.name),
        "verdict": verdict(circuit),
        "validation": None if found.validation is None else found.validation.verdict,
        "facts": facts(found),
        "steps": steps(found),
        "shares": [
            (shown(key), two(value), _SHARES.get(key, "")) for key, value in circuit.shares.items()
        ],
        "tables": tables,
        "causal": edits,
        "n_text": None if text is None else (text.n_documents, len(text)),
        "is_behaviour": found.behaviour is not None,
        "n_left_out": len(circuit.interactions) - len(drawn["edges"]),
        "command": "circuits validate RUN",
    }
    return Page(name, shown(circuit.name), "circuit.html.j2", told, made, [*tables, *edits], data)


def _picture(circuit: Circuit, captions: Captions) -> dict[str, Any]:
    """The picture with every name as it may be seen."""
    drawn = picture(circuit)
    for node in drawn["nodes"]:
        node |= {"label": shown(node["label"]), "caption": captions.input(node["feature"])}
    for output in drawn["outputs"]:
        output |= {"label": shown(output["label"]), "caption": captions.output(output["feature"])}
    for group in drawn["groups"]:
        group["name"] = shown(group["name"])
    return drawn


def _figures(form: CircuitForm, text: Text | None, captions: Captions, seed: int) -> list[Figure]:
    features = form.features[:_MOST_IN_MATRIX]
    n = len(features)
    group = {f.feature: f.group for f in form.found.circuit.features}
    layer = f"layer {form.layer}"
    chosen = "" if n == len(form.features) else f" (the first {n} of {len(form.features)})"
    made = [
        heat_map(
            form.matrix[:n, :n], [captions.label(f) for f in features],
            features,
            [group[f] for f in features],
            f"Weights among the circuit's {n} features{chosen}, {layer}. They were chosen for "
            f"large entries, so that the matrix looks low-rank says nothing.",
        ),
        eigenvalues(
            form.eigenvalues(seed),
            f"The whole form on the MLP's input, {len(form.spectrum)} eigenvalues. Dotted: mean of "
            f"20 forms of random directions of equal length, seed {seed}.",
        ),
        projections(
            form.projections(),
            f"Cosines in the space of the MLP's input: n = {n} features of the circuit, up to 40 "
            f"that interact most beside them. An eigenvector's sign means nothing; it is turned to "
            f"where the circuit's features point.",
        ),
    ]  # fmt: skip
    for output in form.outputs_shown() if text is not None else []:
        assert text is not None
        found = form.approximations(text, output, seed)
        if found is not None:
            note = (
                f"n = {found['n']:,} tokens of {text.n_documents} documents on which it is active, "
                f"{len(found['points'])} drawn; nothing is refitted. Control: the same eigenvalues "
                f"along random directions, seed {seed}."
            )
            name = f"output feature {output}"
            if caption := captions.output(output):
                name += f" “{caption}”"
            made.append(approximation(f"approximation-{output}", name, found, note))
    return made


def _pairs(found: Found, text: Text | None, books: dict[Site, Catalogue]) -> list[dict[str, Any]]:
    """What is known of each pair, and where both fire."""
    circuit = found.circuit
    ends = [(pair.first, pair.second) for pair in circuit.interactions]
    contexts, added = {}, {}
    if text is not None and found.layer is not None:
        constant = books[Site("mlp_in", found.layer)].dictionary.n_feature
        contexts = text.pairs(ends, constant)
        added = text.coactivation(ends, constant)
    rows = []
    for pair in circuit.interactions:
        here = (pair.first, pair.second)
        known = {name: getattr(pair, name) for name in _MEASURES}
        if known["data_weight"] is None and here in added:
            known["data_weight"] = pair.weight * added[here]
        rows.append({"first": here[0], "second": here[1], "known": known,
                     "contexts": contexts.get(here, [])})  # fmt: skip
    return rows


_MEASURES = ("weight", "data_weight", "contrast", "elsewhere", "computed", "inherited", "z", "q",
             "own", "together", "coactivation")  # fmt: skip


def _ledgers(
    run: Run, form: CircuitForm, text: Text | None, captions: Captions
) -> list[dict[str, Any]]:
    """Accounts of example tokens, each adding up to what the model computed."""
    model, layer, into = run.model, form.layer, form.into
    examples: list[tuple[str, Reader, torch.Tensor, int]] = []
    if form.asked is not None:
        asked, behaviour = form.asked, form.asked.behaviour
        reads = PairAccount.of(asked, layer, into).reads * asked.side[:, None]
        order = sorted(behaviour.labels, key=lambda label: label not in behaviour.affected)
        for label in order:
            place = behaviour.labels.index(label)
            case = int((asked.label == place).nonzero()[0, 0])
            right, wrong = behaviour.cases[case].right[0], behaviour.cases[case].wrong[0]
            what = f"logit of “{right}” and its like over “{wrong}” and its like"
            reader = Reader(reads[case].to(model.device), name=what)
            tokens = asked.tokens[case]
            examples.append((label, reader, tokens, int(asked.position[case])))
    elif text is not None:
        output = form.found.circuit.outputs[0].feature
        active, values = text.active(output)
        if len(active):
            row, place = text.row(int(active[values.argmax()]))
            reader = Reader.of(form.out.to(model.device), output)
            examples.append((f"strongest token of output {output}", reader, row, place))
    told = [_ledger(run, form, *example) for example in examples]
    for one in told:
        used = set(one["rows"]["first"]) | set(one["rows"]["second"])
        one["captions"] = {str(f): captions.input(f) for f in used if f >= 0}
    return told


def _ledger(
    run: Run, form: CircuitForm, label: str, reader: Reader, tokens: torch.Tensor, place: int
) -> dict[str, Any]:
    model = run.model
    kept = tokens[: place + 1]  # nothing that comes later matters to a token
    account = ledger(model, form.layer, form.into.to(model.device), reader, kept, place)
    own = {frozenset((p.first, p.second)) for p in form.found.circuit.interactions}
    constant = form.into.n_feature
    rows = account.rows.copy()

    def ends(row: Any) -> frozenset[int]:
        one, other = int(row.first), int(row.second)
        return frozenset((one, constant if other < 0 and row.kind == "linear" else other))

    rows["in circuit"] = [
        row.kind in ("pair", "square", "linear") and ends(row) in own for row in rows.itertuples()
    ]
    words = model.words("a ledger").convert_ids_to_tokens(kept[1:].tolist())
    return {
        "label": shown(label),
        "reads": shown(reader.name),
        "tokens": [shown(word) for word in words],
        "place": len(words) - 1,
        "computed": account.computed,
        "total": account.total,
        "off_by": account.off_by,
        "by_circuit": float(rows.loc[rows["in circuit"], "value"].sum()),
        "shown": _N_ROWS,
        "rows": rows,
    }
