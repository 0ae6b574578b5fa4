"""The study as one page: a file without scripts that opens anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from analysis.studies.rules.study import RuleStudy
from circuits.arguments import checked
from circuits.errors import RunError
from circuits.plotting.display import number, shown
from circuits.storage.files import written_whole

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem }
th, td { padding: 2px 8px; text-align: right; border-bottom: 1px solid #8884 }
th { font-weight: 600 }
.maps { display: flex; flex-wrap: wrap; gap: 1.5rem } .maps td { border: 0; min-width: 1.6rem }
.rule { outline: 2px solid #222; outline-offset: -2px }
"""


@checked
def write_page(
    study: RuleStudy, path: str | Path, names: Sequence[str] | None = None, force: bool = False
) -> Path:
    """Write the study's tables, and how strongly each pair makes each answer, as one HTML file.
    ``names`` are the tokens' texts (their numbers)."""
    path = Path(path)
    if path.exists() and not force:
        raise RunError(f"{path}: exists already. Pass force=True to replace it, or another path.")
    said = [
        ("The strongest rules", "Effects of two tokens together, summed over distances of "
         f"{study.pairs.distances[0]} to {study.pairs.distances[-1]}, relative to the mean over "
         "the candidate answers; path is the strongest of each.", study.table),
        ("The most probable verb of each subject", "", study.verbs),
        ("The paths that make the rules", "Each is removed together with those above it; left is "
         "the share of the rules' summed effect.", study.paths),
        ("Their removal in the running model", "Share of first answers that are right, by the rule "
         "that fixed the token.", study.skip),
    ]  # fmt: skip
    if (found := study.induction) is None:
        said += [("Induction", "No head looks for a match.", study.induction_removed)]
    else:
        said += [
            ("Induction: which head looks back by one", f"Head {found.looks_back}. Mean and "
             "median |score| of pairs of tokens.", found.back),
            ("Induction: which head looks for a match", f"Head {found.matches}. Mean score "
             "to the token after the same token, or after a different one.", found.match),
            ("Induction: how often the copied token is the first answer", "Pairs alone, everything "
             "else zero.", found.copied),
            ("Removal of induction", "Share of first answers that are right, by rule.",
             study.induction_removed),
        ]  # fmt: skip
    named = [*names] if names is not None else [str(i) for i in range(max(_tokens(study)) + 1)]
    parts = [f"<h2>{escape(head)}</h2><p>{escape(text)}</p>{_table(table, named)}"
             for head, text, table in said]  # fmt: skip
    parts.insert(1, _maps(study, named))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Rules</title>'
        f"<style>{_STYLE}</style><h1>Rules read from the weights</h1>{''.join(parts)}</html>"
    )
    with written_whole(path) as file:
        file.write_text(page, encoding="utf-8")
    return path


def _tokens(study: RuleStudy) -> set[int]:
    listed = {*study.verbs.to_numpy().ravel().tolist(), *study.pairs.answers}
    return listed.union(*study.pairs.tokens.values())


def _name(token: int, names: Sequence[str]) -> str:
    return shown(names[token]) if token < len(names) else str(token)


def _table(table: pd.DataFrame, names: Sequence[str]) -> str:
    tokens = {"first", "second", "answer", "subject", "found"}
    tokens |= {"true"} if "found" in table else set()
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table)
    rows = []
    for row in table.to_dict("records"):
        cells = [_name(value, names) if name in tokens else number(value) or ""
                 for name, value in row.items()]  # fmt: skip
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _maps(study: RuleStudy, names: Sequence[str]) -> str:
    """A matrix of first and second tokens for each answer; the table's rules have a frame."""
    pairs, rules = study.pairs, study.table[["first", "second", "answer"]].to_numpy().tolist()
    most = float(pairs.total.abs().max()) or 1.0
    drawn = []
    for k, answer in enumerate(pairs.answers):
        framed = {(first, second) for first, second, to in rules if to == answer}
        map_ = _map(pairs.total[..., k] / most, pairs.tokens["first"], pairs.tokens["second"],
                    framed, names)  # fmt: skip
        drawn.append(f"<div><b>{escape(_name(answer, names))}</b>{map_}</div>")
    return (
        "<h2>All pairs</h2><p>Rows are first tokens, columns second ones; blue adds to the answer, "
        "orange takes from it. A frame marks the rules of the table above.</p>"
        f'<div class="maps">{"".join(drawn)}</div>'
    )


def _map(
    values: Float[Tensor, "first second"],
    first: Sequence[int],
    second: Sequence[int],
    framed: set[tuple[int, int]],
    names: Sequence[str],
) -> str:
    head = "".join(f"<th>{escape(_name(token, names))}</th>" for token in second)
    rows = [f"<tr><th></th>{head}</tr>"]
    for one, row in zip(first, values.tolist(), strict=True):
        cells = ""
        for two, value in zip(second, row, strict=True):
            colour = "76 141 255" if value > 0 else "240 127 60"
            frame = ' class="rule"' if (one, two) in framed else ""
            cells += f'<td{frame} style="background: rgb({colour} / {abs(value):.2f})"></td>'
        rows.append(f"<tr><th>{escape(_name(one, names))}</th>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"
