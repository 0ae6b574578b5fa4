"""A circuit through several layers in a few sentences, for a command and a page."""

from __future__ import annotations

from analysis.discovery.find import verdict
from analysis.discovery.layered_circuit import LayeredCircuit
from circuits.plotting.display import percent

_MOST_WAYS = 4  # that are named
_LEAST = 0.01  # of what a layer's pairs add


def layered_sentences(circuit: LayeredCircuit) -> list[str]:
    """A line a layer, what carries on what it writes, and on what it was found."""
    evidence = circuit.evidence
    layers = " and ".join(filter(None, [", ".join(map(str, circuit.layers[:-1])),
                                        str(circuit.layers[-1])]))  # fmt: skip
    lines = [f"{circuit.name}: found in layer{'s' * (len(circuit.layers) > 1)} {layers}"]
    for layer, stage in zip(circuit.layers, circuit.stages, strict=True):
        assert stage.evidence is not None  # of a behaviour
        shares, n = stage.evidence.shares, len(stage.interactions)
        lines.append(
            f"Layer {layer}: {percent(shares.direct)} of the contrast flows through its MLP, and "
            f"{n} pair{'s' * (n != 1)} carr{'y' if n != 1 else 'ies'} {percent(shares.carried)} of "
            f"that; {verdict(stage)}."
        )
    lines += [_carried_on(circuit, layer) for layer in circuit.layers]
    lines.append(
        f"The parts of two layers overlap: a later one holds what it passes on. Chosen on n = "
        f"{evidence.n_cases} cases; held-out half: {evidence.held_out_half}."
    )
    return lines


def _carried_on(circuit: LayeredCircuit, layer: int) -> str:
    ways = circuit.ways[circuit.ways["layer"] == layer].dropna()
    ways = ways.sort_values("share", key=lambda share: -share.abs(), kind="stable")
    strong = ways[ways["share"].abs() >= _LEAST].head(_MOST_WAYS)
    named = [
        f"{'head ' if way[0].isdigit() else ''}{way} ({percent(share)})"
        for way, share in zip(strong["way"], strong["share"], strict=True)
    ]
    said = f"What layer {layer} writes reaches the answers by {', '.join(named) or 'no known way'}"
    rest = ways.drop(strong.index)
    if len(rest):
        most = percent(float(rest["share"].abs().max()))
        said += f"; {len(rest)} other{'s' * (len(rest) != 1)}, at most {most}"
    return f"{said}."
