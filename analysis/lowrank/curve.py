"""What `rank_curve` found: a row for each feature and rank, and the statistics over features.

Shares and medians count only the features that are active on ``min_active`` tokens and whose
activation varies on them; ``summary()`` says how many those are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.lowrank import plots
from analysis.lowrank.sums import Control
from circuits.arguments import checked
from circuits.errors import DictionaryError
from circuits.plotting.display import html_of
from circuits.plotting.figure import Figure, side_by_side
from circuits.storage.files import read_json, write_json, written_whole
from circuits.storage.records import RecordError
from circuits.storage.replacing import check_file, check_table
from circuits.storage.tables import (
    COUNT,
    NUMBER,
    TEXT,
    Kind,
    checked_table,
    read_table,
    table_of_columns,
)

THRESHOLD = 0.75
"""Of the correlation, where one number has to summarise the curve over all thresholds."""

NEEDED = 0.9
"""Of R²: the rank that reaches it says how many eigenvectors a feature needs."""

SCHEMA = 2
"""Of its files, and of the blocks that are kept while it is made."""
_ABOUT = {"site": str, "reader": str, "seed": int, "min_active": int, "n_token": int,
          "n_loss_documents": int}  # fmt: skip
_SINCE_1 = ("correlation_by_sign", *(f"{of}_{control}" for control in Control
            for of in ("n_active", "correlation", "r2") if control.has_own_directions))  # fmt: skip
_COLUMNS: dict[str, Kind] = {
    "feature": COUNT, "n_active": COUNT, "rank": COUNT,
    **dict.fromkeys(("effective_rank", "entropy_rank", "energy", "correlation", "low", "high",
                     "r2", "correlation_all", "r2_all", "correlation_by_data", "r2_by_data",
                     "correlation_rotated", "correlation_shuffled"), NUMBER),
}  # fmt: skip
_LOSS: dict[str, Kind] = {"replaced_by": TEXT, "loss": NUMBER}
_CHANCE = 0.05  # above this p-value, features are not said to need fewer than controls
_RESAMPLED = 1000  # times, for the intervals over features


@checked
@dataclass(frozen=True, eq=False)
class RankCurve:
    """Correlation and R² of every feature with its approximation at every rank.

    ``table`` has a row for each feature that is ever active and each rank, the last for the whole
    form. ``correlation`` with ``low`` and ``high`` (95 %, documents resampled) and ``r2`` are over
    the tokens where the feature is active, ``…_all`` over all; ``…_by_data`` orders the eigenpairs
    by their mean contribution, ``…_by_sign`` takes a positive and a negative one in turn; the
    columns of each `Control` follow. ``energy`` is the share of the form's squared norm that is
    kept.
    """

    table: pd.DataFrame
    loss: pd.DataFrame  # what truncation costs the model: see `truncation_loss`
    about: Mapping[str, Any]  # site, reader, counts, seed and so on

    def __post_init__(self) -> None:
        lacking = [name for name in ("feature", "rank", "n_active") if name not in self.table]
        lacking += [name for name in ("min_active", "seed") if name not in self.about]
        if lacking:
            raise DictionaryError(
                f"RankCurve: its table or 'about' lacks {', '.join(lacking)}. Make one with "
                f"rank_curve, or read one with RankCurve.load."
            )

    @property
    def ranks(self) -> list[int]:
        """Every rank of the table, the whole form's last."""
        return list(self._rows)

    @property
    def features(self) -> pd.DataFrame:
        """One row for each feature that is ever active: how often, and its form's ranks."""
        columns = ["n_active", "effective_rank", "entropy_rank"]
        return self.table.groupby("feature")[columns].first()

    def at(self, rank: int) -> pd.DataFrame:
        """The rows of one rank."""
        if rank not in self._rows:
            raise DictionaryError(
                f"RankCurve.at: rank {rank!r} was not measured. Ask for 1 to {self.ranks[-2]}, or "
                f"{self.ranks[-1]} for the whole form."
            )
        return self._rows[rank].reset_index()

    @cached_property
    def _rows(self) -> dict[int, pd.DataFrame]:
        """The rows of each rank, by feature."""
        rows, ranks = self.table.set_index("feature"), self.table["rank"].to_numpy()
        return {rank: rows[ranks == rank] for rank in sorted(set(ranks.tolist()))}

    def compared(self, rank: int, of: str = "correlation") -> pd.Series:
        """One column at one rank by feature, for features that are active often enough and whose
        activation varies: the numbers that means and shares are taken of."""
        rows = self._rows[rank] if rank in self._rows else self.at(rank)
        if of not in rows:
            raise DictionaryError(
                f"RankCurve: no column '{of}'. Choose from: {', '.join(map(str, rows))}."
            )
        often = f"n_active_{of.rsplit('_')[-1]}"
        often = often if often in rows else "n_active"
        return rows.loc[rows[often] >= self.about["min_active"], of].dropna()

    def needed(self, control: Control | None = None, r2: float = NEEDED) -> pd.Series:
        """By feature, the fewest eigenvectors whose R² on active tokens reaches ``r2``; infinite
        where as many as were measured do not. Of a control with directions of its own, of those."""
        of = "r2" if control is None else f"r2_{control}"
        measured = self.ranks[:-1]  # the whole form has more than were tried one by one
        reached = pd.DataFrame({rank: self.compared(rank, of) >= r2 for rank in measured})
        found = reached.idxmax(axis=1).astype(float)
        return found.where(reached.any(axis=1), np.inf)

    @property
    def mean(self) -> pd.DataFrame:
        """By rank: mean over features with its 95 % interval, quartiles, share above 0.75, R²,
        energy, and the means and shares of the controls (NaN of a control that no feature has)."""
        return pd.DataFrame(self._mean_rows, index=pd.Index(self.ranks, name="rank"))

    @cached_property
    def _mean_rows(self) -> list[dict[str, float]]:
        return [self._mean_row(rank) for rank in self.ranks]

    def _mean_row(self, rank: int) -> dict[str, float]:
        own = self.compared(rank)
        low, high = _interval(own.to_numpy(), self.about["seed"])
        row = {"mean": float(own.mean()), "low": low, "high": high}
        for name, column in (("q", "correlation"), ("r2_", "r2")):
            found = self.compared(rank, column)
            row |= {f"{name}{q}": float(found.quantile(q / 100)) for q in (25, 50, 75)}
        orders = ("all", "by_data", "by_sign")
        means = {f"mean_{name}": f"correlation_{name}" for name in (*orders, *Control)}
        for name, column in ({"energy": "energy"} | means).items():
            row[name] = float(self.compared(rank, column).mean())
        row["above"] = self.share_above(rank=rank)
        return row | {f"above_{c}": self.share_above(rank=rank, of=c.column) for c in Control}

    def share_above(
        self, threshold: float = THRESHOLD, rank: int = 2, of: str = "correlation"
    ) -> float:
        """The share of compared features whose correlation is above a threshold."""
        return float((self.compared(rank, of) > threshold).mean())

    def thresholds(self, rank: int = 2) -> pd.DataFrame:
        """The share above every threshold from 0 to 1, and that of each control."""
        steps = np.linspace(0, 1, 101)
        columns = {"share": "correlation"} | {control.value: control.column for control in Control}
        above = {
            name: pd.DataFrame(self.compared(rank, of).to_numpy()[:, None] > steps).mean()
            for name, of in columns.items()
        }
        return pd.DataFrame(above).set_axis(pd.Index(steps.round(2), name="threshold"))

    @property
    def nulls(self) -> pd.DataFrame:
        """By control and rank: how many features, their median and mean, the share above 0.75 (NaN
        of none)."""
        rows = []
        for control in Control:
            for rank in self.ranks:
                found = self.compared(rank, control.column)
                share = self.share_above(rank=rank, of=control.column)
                rows.append((control.value, rank, len(found), found.median(), found.mean(), share))
        columns = ["control", "rank", "n", "median", "mean", "share"]
        return pd.DataFrame(rows, columns=columns).set_index(["control", "rank"])

    def summary(self, rank: int = 2) -> dict[str, Any]:
        """The numbers of one rank with their controls, and how many features they are based on."""
        own, whole = self.compared(rank), self.compared(self.ranks[-1])
        often = self.features["n_active"] >= self.about["min_active"]
        low, high = _interval(own.to_numpy() > THRESHOLD, self.about["seed"])
        numbers: dict[str, Any] = {
            **self.about,
            "n_live": len(often),
            "n_often": int(often.sum()),
            "n_compared": len(own),
            "rank": rank,
            "median": float(own.median()),
            "threshold": THRESHOLD,
            "share_above": self.share_above(rank=rank),
            "share_low": low,
            "share_high": high,
            "median_full_rank": float(whole.median()),
            "share_above_full_rank": self.share_above(rank=self.ranks[-1]),
            "median_r2": float(self.compared(rank, "r2").median()),
            "median_by_sign": float(self.compared(rank, "correlation_by_sign").median()),
            "share_above_by_sign": self.share_above(rank=rank, of="correlation_by_sign"),
            "needed": _or_none(self.needed().median()),
            "median_all": float(self.compared(rank, "correlation_all").median()),
            "share_above_by_data": self.share_above(rank=rank, of="correlation_by_data"),
            "effective_rank": float(self.features.loc[often, "effective_rank"].median()),
        }
        for control in Control:
            numbers[f"median_{control}"] = float(self.compared(rank, control.column).median())
            numbers[f"share_above_{control}"] = self.share_above(rank=rank, of=control.column)
            if control.has_own_directions:
                found = self.compared(rank, f"r2_{control}")
                numbers[f"median_r2_{control}"] = float(found.median())
                numbers[f"needed_{control}"] = _or_none(self.needed(control).median())
        return numbers

    @property
    def needed_sentence(self) -> str:
        """The main figure: how many eigenvectors a feature needs, beside directions that are no
        features."""

        def said(control: Control | None = None) -> str:
            median = float(self.needed(control).median())
            if np.isnan(median):
                return "not measured"
            if np.isfinite(median):
                return f"{median:g}"
            of = "r2" if control is None else f"r2_{control}"
            whole = float(self.compared(self.ranks[-1], of).median())
            return f"more than {self.ranks[-2]}" if whole >= NEEDED else "more than there are"

        return (
            f"Eigenvectors needed for an R² of {NEEDED:g}, median: {said()}; random "
            f"directions of the same model {said(Control.RANDOM)}, outputs of random tokens "
            f"{said(Control.TOKENS)}, an untrained model {said(Control.UNTRAINED)}."
        )

    @property
    def needed_conclusion(self) -> str:
        """What follows from the main figure: whether low rank comes from the dictionary or from
        the layer; empty where neither was measured to reach it."""
        own, tokens = self.needed(), self.needed(Control.TOKENS)
        medians = own.median(), tokens.median()
        if np.isnan(medians).any() or np.isinf(medians).all():
            return ""
        if medians[0] >= medians[1]:
            return (
                "Features need no fewer than the outputs of random tokens: the low rank is the "
                "layer's doing, not the dictionary's."
            )
        chance = float(stats.mannwhitneyu(own, tokens, alternative="less").pvalue)
        test = f"(rank-sum test over n = {len(own)} and {len(tokens)}: p = {chance:.2g})"
        if chance > _CHANCE:
            return (
                f"Features do not clearly need fewer than the outputs of random tokens {test}: "
                f"as far as this shows, the low rank is the layer's doing, not the dictionary's."
            )
        return (
            f"Features need fewer than the outputs of random tokens {test}: that difference is "
            f"the dictionary's doing, the rest the layer's."
        )

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write ``path``.parquet, the table, and ``path``.json, everything else, each whole; over
        files of another kind only with ``force``."""
        table, summary = _files(path)
        check_table(table, self.table, DictionaryError, force)
        check_file(summary, "a rank curve", lambda _: _is_one(summary), DictionaryError, force)
        with written_whole(table) as file:
            self.table.to_parquet(file, index=False)
        content = {
            "schema": SCHEMA,
            "about": dict(self.about),
            "summary": self.summary() if 2 in self.ranks else dict(self.about),
            "mean": self.mean.reset_index().to_dict("list"),
            "thresholds": self.thresholds(min(2, self.ranks[-1])).reset_index().to_dict("list"),
            "nulls": self.nulls.reset_index().to_dict("list"),
            "loss": self.loss.to_dict("list"),
        }
        write_json(summary, content)
        return table

    @classmethod
    def load(cls, path: str | Path) -> RankCurve:
        """What `save` wrote."""
        table, summary = _files(path)
        content = read_json(summary, DictionaryError)
        if not _is_summary(content):
            raise DictionaryError(
                f"{summary}: not a rank curve of schema {SCHEMA} (its schema is "
                f"{content.get('schema')!r}). Make it again: circuits rank RUN."
            )
        about = content["about"] if isinstance(content["about"], dict) else {}
        if wrong := [k for k, kind in _ABOUT.items() if not isinstance(about.get(k), kind)]:
            raise DictionaryError(
                f"{summary}: its 'about' lacks {', '.join(wrong)}. The file is cut short or was "
                f"changed. Make it again: circuits rank RUN."
            )
        if not table.is_file():
            raise DictionaryError(
                f"{table}: there is no such file beside {summary}. Make both again."
            )
        try:
            loss = checked_table(
                table_of_columns(content["loss"], "loss"), _LOSS, "loss", others=NUMBER
            )
        except RecordError as fault:
            raise DictionaryError(
                f"{summary}: {fault}. Make it again: circuits rank RUN."
            ) from fault
        known = read_table(
            table, _COLUMNS, DictionaryError, optional=dict.fromkeys(_SINCE_1, NUMBER)
        )
        if known["rank"].nunique() < 2 or (known["rank"] < 1).any():
            said = "its ranks are not two or more, from 1. Make it again: circuits rank RUN."
            raise DictionaryError(f"{table}: {said}")
        lacking = [name for name in _SINCE_1 if name not in known]  # in a file of schema 1
        return cls(known.assign(**dict.fromkeys(lacking, float("nan"))), loss, about)

    def figures(self, rank: int = 2) -> list[Figure]:
        """All pictures of the curve, as the report shows them: ``figures()[0].plot()``."""
        about, seed = self.about, f"seed {self.about['seed']}"
        note = (
            f"{about['site']}, features read by {about['reader']}: n = {len(self.compared(rank))} "
            f"features active on {about['min_active']} or more of {about['n_token']:,} tokens, "
            f"{seed}. "
        )
        with_controls = (
            f"{note}Controls: random directions of the same model in place of the features "
            f"(random), the layer's outputs on random tokens, used as directions (tokens), the "
            f"same eigenvalues along random directions (rotated), another feature's form "
            f"(shuffled), a model with random weights (untrained)."
        )
        controls = {control: self.compared(rank, control.column) for control in Control}
        rows = self.at(rank)
        rows = rows[rows["n_active"] >= about["min_active"]].dropna(subset=["correlation"])
        return [
            plots.by_rank(self.mean, with_controls),
            plots.distribution(self.compared(rank), controls, rank, with_controls),
            plots.thresholds(self.thresholds(rank), rank, with_controls),
            plots.scatter_by(rows, rank, "n_active", "number of active tokens", note),
            plots.scatter_by(rows, rank, "effective_rank", "effective rank of its form", note),
            plots.losses(self.loss, f"{about['n_loss_documents']} documents, {seed}."),
        ]

    def plot(self, rank: int = 2) -> Any:
        """Mean correlation by rank beside the share above every threshold, and the controls."""
        by_rank, _, thresholds, *_ = self.figures(rank)
        return side_by_side([by_rank, thresholds], f"Low rank at {self.about['site']}")

    def _repr_html_(self) -> str:
        """A small table: the first ranks and the whole form."""
        few = [r for r in (1, 2, 4, 8, 16, 32, self.ranks[-1]) if r in self.ranks]
        columns = ["mean", "low", "high", "q50", *(f"mean_{name}" for name in Control)]
        return html_of(repr(self), correlation=self.mean.loc[few, columns].reset_index())

    def __repr__(self) -> str:
        n = len(self.compared(self.ranks[-1]))
        return (
            f"RankCurve({self.about['site']} read by {self.about['reader']}: {n} features active "
            f"on {self.about['min_active']} or more of {self.about['n_token']} tokens)"
        )


def _files(path: str | Path) -> tuple[Path, Path]:
    """The files of the table and the summary, from either name or from their common stem."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".parquet", ".json") else path
    return stem.with_name(stem.name + ".parquet"), stem.with_name(stem.name + ".json")


def _is_one(summary: Path) -> bool:
    try:
        return _is_summary(read_json(summary, DictionaryError))
    except DictionaryError:
        return False


def _is_summary(content: Mapping[str, Any]) -> bool:
    schema = content.get("schema")
    return type(schema) is int and schema in (1, SCHEMA) and {"about", "loss"} <= set(content)


def _or_none(rank: float) -> float | None:
    """A median rank; None where half of the features reach it at no rank, or none was compared."""
    return float(rank) if np.isfinite(rank) else None


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean, features resampled."""
    if not len(values):
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLED, len(values)))
    low, high = np.quantile(values.astype(float)[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)
