"""Accounts of example tokens for a circuit's page: every term, and the sum that the model computed.

What a reader would get wrong: one example proves little. So there are several to choose from: of
each class the case of median margin, and the weakest and the strongest where the circuit matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from analysis.attribution.contrast import PairAccount
from analysis.attribution.ledger import Reader, ledger
from analysis.behaviour.in_model import ModelCases
from analysis.report.catalogue.text_activations import TextActivations
from analysis.report.circuit.circuit_form import CircuitForm
from analysis.report.circuit.circuit_tables import Labels
from circuits.plotting.display import seen, shown

_N_EXAMPLES = 4  # tokens of a proposal that are accounted for
_N_ROWS = 14  # of an account that are shown; the others stand as one


@dataclass(frozen=True, eq=False)
class Example:
    """A token, and what is read of the MLP's output there."""

    label: str
    reader: Reader
    tokens: Int64[Tensor, " pos"]
    place: int  # of the token
    case: int | None = None  # its number in the behaviour


def accounts(
    form: CircuitForm, text: TextActivations | None, labels: Labels
) -> list[dict[str, Any]]:
    """Each example's account, and what its features are called."""
    if form.asked is not None:
        examples = _of_classes(form, form.asked)
    elif text is not None:
        examples = _of_output(form, text)
    else:
        examples = []
    told = [_account(form, example) for example in examples]
    for one in told:
        used = set(one["rows"]["first"]) | set(one["rows"]["second"])
        one["captions"] = {str(f): labels.input(f) for f in used if f >= 0}
    return told


def _of_classes(form: CircuitForm, asked: ModelCases) -> list[Example]:
    """Of the affected classes, which come first, three cases each; of the others one."""
    behaviour, margins = asked.behaviour, asked.margins()
    reads = PairAccount.of(asked, form.layer, form.into).reads * asked.side[:, None]
    found = []
    for label in sorted(behaviour.labels, key=lambda label: label not in behaviour.affected):
        cases = (asked.label == behaviour.labels.index(label)).nonzero()[:, 0]
        order = cases[margins[cases].argsort(stable=True)].tolist()
        ranks = {"median": len(order) // 2}
        if label in behaviour.affected:
            ranks |= {"weakest": 0, "strongest": len(order) - 1}
        for name, rank in ranks.items():
            case = order[rank]
            right, wrong = behaviour.cases[case].right[0], behaviour.cases[case].wrong[0]
            what = f"logit of “{right}” and its like over “{wrong}” and its like"
            told = f"{label}: {name} margin of {len(order)}, {float(margins[case]):+.2f}"
            reader = Reader(reads[case].to(form.model.device), name=what)
            found.append(Example(told, reader, asked.tokens[case], int(asked.position[case]), case))
    return found


def _of_output(form: CircuitForm, text: TextActivations) -> list[Example]:
    """The tokens that a proposal's output is strongest on, each of another row of text."""
    output = form.found.circuit.outputs[0].feature
    reader = Reader.of(form.out.to(form.model.device), output)
    tokens = text.strongest(output, _N_EXAMPLES)
    return [
        Example(
            f"output {output}, strongest token {rank} of {len(tokens)}", reader, *text.row(token)
        )
        for rank, token in enumerate(tokens, start=1)
    ]


def _account(form: CircuitForm, example: Example) -> dict[str, Any]:
    model, place = form.model, example.place
    kept = example.tokens[: place + 1]  # nothing that comes later matters to a token
    account = ledger(
        model, form.layer, form.into.to(model.device), example.reader, kept, place
    )  # fmt: skip
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
        "label": seen(example.label),
        "case": example.case,
        "reads": seen(example.reader.name),
        "tokens": [shown(word) for word in words],
        "place": len(words) - 1,
        "computed": account.computed,
        "total": account.total,
        "off_by": account.off_by,
        "by_circuit": float(rows.loc[rows["in circuit"], "value"].sum()),
        "shown": _N_ROWS,
        "rows": rows,
    }
