"""Pictures of a `RankCurve`; each shows its controls in grey.

Plotly is imported when a picture is asked for.
"""

from __future__ import annotations

from typing import Any

from analysis.lowrank.curve import CONTROLS, RankCurve

_OWN = "#2563eb"
_GREYS = dict(zip(CONTROLS, ("#9ca3af", "#6b7280", "#374151"), strict=True))
_DASHES = dict(zip(CONTROLS, ("dot", "dash", "dashdot"), strict=True))


def overview(curve: RankCurve, rank: int = 2) -> Any:
    """Mean correlation by rank beside the share of features above every threshold."""
    from plotly.subplots import make_subplots

    titles = ("mean correlation by rank", f"share above a threshold, rank {rank}")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    mean, shares = curve.mean, curve.thresholds(rank)
    band = {"x": [*mean.index, *mean.index[::-1]], "y": [*mean["high"], *mean["low"][::-1]]}
    figure.add_scatter(
        **band, fill="toself", line_width=0, fillcolor="rgba(37, 99, 235, 0.15)",
        name="95 % of features resampled", row=1, col=1,
    )  # fmt: skip
    for column, table, own, prefix in ((1, mean, "mean", "mean_"), (2, shares, "share", "")):
        for name in CONTROLS:
            figure.add_scatter(
                x=table.index, y=table[prefix + name], name=name, showlegend=column == 1,
                line={"color": _GREYS[name], "dash": _DASHES[name]}, row=1, col=column,
            )  # fmt: skip
        figure.add_scatter(
            x=table.index, y=table[own], name=f"features, {curve.about['reader']}",
            showlegend=column == 1, line={"color": _OWN, "width": 3}, row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="eigenvectors", type="log", row=1, col=1)
    figure.update_xaxes(title="correlation on active tokens", row=1, col=2)
    return figure.update_layout(height=360, title=repr(curve), title_font_size=13)


def distribution(curve: RankCurve, rank: int = 2) -> Any:
    """How many features have which correlation at a rank."""
    import plotly.graph_objects as go

    figure = go.Figure()
    bins = {"start": -1, "end": 1.001, "size": 0.05}
    for name in CONTROLS:
        found = curve.compared(rank, f"correlation_{name}")
        figure.add_histogram(x=found, xbins=bins, name=name, marker_color=_GREYS[name], opacity=0.5)
    found = curve.compared(rank)
    figure.add_histogram(x=found, xbins=bins, name="features", marker_color=_OWN, opacity=0.75)
    return figure.update_layout(
        height=320, barmode="overlay", yaxis_title="features",
        xaxis_title=f"correlation on active tokens, rank {rank}",
    )  # fmt: skip


def losses(curve: RankCurve) -> Any:
    """The model's loss with every feature truncated, between the dictionary's and none."""
    import plotly.graph_objects as go

    loss = curve.loss.set_index("replaced_by")
    ranks = loss.loc[[name for name in loss.index if "rank" in name]]
    figure = go.Figure()
    styles = {
        "rotated": ("random directions", {"color": _GREYS["rotated"], "dash": "dot"}),
        "chosen": ("only values approximated", {"color": _OWN, "dash": "dash"}),
        "loss": ("chosen among approximations", {"color": _OWN, "width": 3}),
    }
    for column, (name, line) in styles.items():
        figure.add_scatter(x=ranks.index, y=ranks[column], name=name, line=line)
    for name in ("zero", "sae"):
        figure.add_hline(y=loss.loc[name, "loss"], line_dash="dot", annotation_text=name)
    n = curve.about["n_loss_documents"]
    return figure.update_layout(height=340, yaxis_title=f"nats a token, {n} documents")
