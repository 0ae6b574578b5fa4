"""Ledgers of example tokens for a circuit's page: every term, and the sum that the model computed.

One example proves little, so there are several to choose from: of each class the case of median
margin, and of the affected classes also the weakest and the strongest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.attribution.ledger import Reader, ledger
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.circuit.labels import Labels
from circuits.plotting.display import seen, shown

_N_EXAMPLES = 4  # tokens of a proposal
_N_ROWS = 14  # shown of a ledger; the others are summed up in one row


@dataclass(frozen=True, eq=False)
class _Example:
    """A token, and what is read of the MLP's output there."""

    label: str
    reader: Reader
    tokens: Int64[Tensor, " pos"]
    place: int  # of the token
    case: int | None = None  # its number in the behaviour


def example_ledgers(
    form: CircuitForm, text: TextActivations | None, labels: Labels
) -> list[dict[str, Any]]:
    """Each example's ledger, and the captions of its features."""
    if form.account is not None:
        examples = _of_classes(form, form.account)
    elif text is not None:
        examples = _of_output(form, text)
    else:
        examples = []
    ledgers = [_ledger(form, example) for example in examples]
    for each in ledgers:
        used = set(each["rows"]["first"]) | set(each["rows"]["second"])
        each["captions"] = {str(f): labels.caption(f) for f in used if f >= 0}
    return ledgers


def _of_classes(form: CircuitForm, account: PairAccount) -> list[_Example]:
    """Three cases of each affected class, which come first; one of each other class."""
    cases = account.cases
    behaviour, margins = cases.behaviour, cases.margins()
    reads = account.reads * cases.side[:, None]
    examples = []
    for label in sorted(behaviour.labels, key=lambda label: label not in behaviour.affected):
        own = (cases.label == behaviour.labels.index(label)).nonzero()[:, 0]
        order = own[margins[own].argsort(stable=True)].tolist()
        ranks = {"median": len(order) // 2}
        if label in behaviour.affected:
            ranks |= {"weakest": 0, "strongest": len(order) - 1}
        for name, rank in ranks.items():
            case = order[rank]
            right, wrong = behaviour.cases[case].right[0], behaviour.cases[case].wrong[0]
            read = f"logit of “{right}” and similar answers over “{wrong}” and similar answers"
            title = f"{label}: {name} margin of {len(order)} cases, {float(margins[case]):+.2f}"
            reader = Reader(reads[case].to(form.model.device), name=read)
            examples.append(
                _Example(title, reader, cases.tokens[case], int(cases.position[case]), case)
            )
    return examples


def _of_output(form: CircuitForm, text: TextActivations) -> list[_Example]:
    """The strongest tokens of a proposal's output, each of another row of text."""
    output = form.found.circuit.outputs[0].feature
    reader = Reader.of(form.out.to(form.model.device), output)
    tokens = text.strongest(output, _N_EXAMPLES)
    return [
        _Example(
            f"output {output}, strongest token {rank} of {len(tokens)}", reader, *text.row(token)
        )
        for rank, token in enumerate(tokens, start=1)
    ]


def _ledger(form: CircuitForm, example: _Example) -> dict[str, Any]:
    model, place = form.model, example.place
    kept = example.tokens[: place + 1]  # later tokens have no effect on this one
    dictionary = form.into.to(model.device)
    found = ledger(model, form.layer, dictionary, example.reader, kept, place)
    circuit = {frozenset((p.first, p.second)) for p in form.found.circuit.interactions}
    constant = form.into.n_feature
    rows = found.rows.copy()

    def ends(row: Any) -> frozenset[int]:
        one, other = int(row.first), int(row.second)
        return frozenset((one, constant if other < 0 and row.kind == "linear" else other))

    rows["in circuit"] = [
        row.kind in ("pair", "square", "linear") and ends(row) in circuit
        for row in rows.itertuples()
    ]
    words = model.words("a ledger").convert_ids_to_tokens(kept[1:].tolist())
    return {
        "label": seen(example.label),
        "case": example.case,
        "reads": seen(example.reader.name),
        "tokens": [shown(word) for word in words],
        "place": len(words) - 1,
        "computed": found.computed,
        "total": found.total,
        "off_by": found.off_by,
        "by_circuit": float(rows.loc[rows["in circuit"], "value"].sum()),
        "shown": _N_ROWS,
        "rows": rows,
    }
