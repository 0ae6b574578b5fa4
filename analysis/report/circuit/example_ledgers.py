"""Ledgers of example tokens for a circuit's page: every term, and the sum that the model computed.

One example proves little, so there are several to choose from: of each class the case of median
margin, and of the affected classes also the weakest and the strongest.
"""

from __future__ import annotations

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


# its label, what is read of the MLP's output, the tokens, the place of one, a case of the behaviour
_Example = tuple[str, Reader, Int64[Tensor, " pos"], int, int | None]


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
    ledgers = [_ledger(form, *example) for example in examples]
    for each in ledgers:
        used = set(each["rows"]["first"]) | set(each["rows"]["second"])
        each["captions"] = {str(f): labels.caption(f).text for f in used if f >= 0}
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
            margin = round(float(margins[case]), 2) + 0.0
            title = f"{label}: {name} margin of {len(order)} cases, {margin:+.2f}"
            reader = Reader(reads[case].to(form.model.device), name=read)
            place = int(cases.position[case])
            examples.append((title, reader, cases.tokens[case], place, case))
    return examples


def _of_output(form: CircuitForm, text: TextActivations) -> list[_Example]:
    """The strongest tokens of a proposal's output, each of another row of text."""
    output = form.found.circuit.outputs[0].feature
    reader = Reader.of(form.out.to(form.model.device), output)
    tokens = text.strongest(output, _N_EXAMPLES)
    title = f"output {output}, strongest token {{}} of {len(tokens)}"
    return [
        (title.format(rank), reader, *text.row(token), None)
        for rank, token in enumerate(tokens, start=1)
    ]


def _ledger(
    form: CircuitForm,
    label: str,
    reader: Reader,
    tokens: Int64[Tensor, " pos"],
    place: int,
    case: int | None,
) -> dict[str, Any]:
    model, kept = form.model, tokens[: place + 1]  # later tokens have no effect on this one
    found = ledger(model, form.layer, form.into.to(model.device), reader, kept, place)
    circuit = {frozenset((p.first, p.second)) for p in form.found.circuit.interactions}
    constant = form.into.n_feature
    rows = found.rows
    second = rows["second"].where(rows["kind"] != "linear", constant)
    ends = map(frozenset, zip(rows["first"], second, strict=True))
    rows = rows.assign(**{"in circuit": [pair in circuit for pair in ends]})
    words = model.token_texts(kept[1:].tolist())
    return {
        "label": seen(label),
        "case": case,
        "reads": seen(reader.name),
        "tokens": [shown(word) for word in words],
        "place": len(words) - 1,
        "computed": found.computed,
        "total": found.total,
        "off_by": found.off_by,
        "by_circuit": float(rows.loc[rows["in circuit"], "value"].sum()),
        "shown": _N_ROWS,
        "rows": rows,
    }
