"""Circuits without a behaviour: the output features of a layer that look most like gates.

An output is proposed for what its weights alone say: significant pairs that build most of its form
together, groups among their features with a gate between them, and a form that few eigenvectors
hold. Outputs whose forms are opposite ends of one direction (not good, not bad) are named together.
A proposal is not a finding: a behaviour and `validate` show what a gate does to the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import torch

from analysis.discovery.provenance import check_dictionaries, wanted_layers
from circuits.algebra.interactions import Interactions
from circuits.algebra.similarity import nearest_outputs
from circuits.arguments import checked
from circuits.errors import check_count
from circuits.graph.build import interaction_graph
from circuits.graph.circuit import Circuit
from circuits.graph.records import Proposal, Source
from circuits.groups.clusters import clusters
from circuits.model.model import Model
from circuits.model.site import Site, mlp_sites
from circuits.storage.progress import progress
from sae.dictionary import Dictionary

_OPPOSITE = -0.5  # forms of a smaller cosine are called opposite ends of one direction
_ENERGY_RANK = 4  # eigenvectors whose share of the energy counts
RANKED = 4096  # outputs, at most
_STRIP = 64  # of which so many forms are held


@checked
def propose_circuits(
    model: Model,
    dictionaries: Mapping[Site, Dictionary],
    layer: int = 0,
    n: int = 10,
    *,
    reader: Literal["pinv", "encoder"] = "encoder",
    q: float = 0.05,
    seed: int = 0,
) -> list[Circuit]:
    """The ``n`` most gate-like outputs of a layer as circuits, best first; fewer, or none, where
    fewer outputs have any significant pair."""
    check_count("propose_circuits", n, None, "n")
    check_dictionaries(model, dictionaries)
    (layer,) = wanted_layers(model, dictionaries, [layer])
    into, out = (dictionaries[site] for site in mlp_sites(layer))
    inter = Interactions(model.layer(layer), into.basis(), out.basis(reader))
    table = gate_likeness(inter)
    likes = nearest_outputs(inter, 3) if inter.n_output > 1 else pd.DataFrame()
    source = Source(model.fingerprint, layer, into.fingerprint, out.fingerprint, reader)
    found: list[Circuit] = []
    ranked = list(zip(table["output"].tolist(), table["energy"].tolist(), strict=True))
    for output, energy in progress(ranked, "proposals", "output"):
        if len(found) == n:
            break
        graph = interaction_graph(inter, output, significant=q)
        if not graph.number_of_edges():
            continue
        circuit = Circuit.of(
            graph, clusters(graph, seed), f"layer {layer} output {output}", source=source
        )
        proposal = Proposal(_gate_share(circuit), energy, _opposite(likes, output))
        found.append(replace(circuit, proposal=proposal))
    return sorted(found, key=lambda one: -_gate_share(one) * (one.explained or 0.0))


def gate_likeness(inter: Interactions) -> pd.DataFrame:
    """Outputs by how much of their form a few eigenvectors hold, in the features' own space.

    Columns: output, energy (share of the first four), size (norm of the form),
    score (energy times size relative to the largest): an output of no weight computes nothing.
    """
    shares = []
    reads = inter.outputs.read[:RANKED].split(_STRIP)
    for strip in progress(reads, "outputs", "strip"):
        values = torch.linalg.eigvalsh(inter.whitened.interaction(strip)).double()
        squares = values.square().sort(dim=1, descending=True).values
        total, held = squares.sum(1), squares[:, :_ENERGY_RANK].sum(1)
        shares.append(torch.where(total > 0, held / total.clamp(min=1e-300), 1.0))
    energy = torch.cat(shares).cpu().numpy()
    table = pd.DataFrame({"output": np.arange(len(energy)), "energy": energy})
    sizes = inter.energies[: len(table)].sqrt().cpu().numpy()
    table["size"] = sizes
    table["score"] = table["energy"] * sizes / max(float(sizes.max()), 1e-300)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _opposite(likes: pd.DataFrame, output: int) -> int | None:
    """The output whose form is most nearly its negative."""
    if not len(likes):
        return None
    near = likes[(likes["output"] == output) & (likes["cosine"] <= _OPPOSITE)]
    return None if not len(near) else int(near.sort_values("cosine")["other"].iloc[0])


def _gate_share(circuit: Circuit) -> float:
    """Of its pairs' energy, what lies in gates between two groups."""
    return float(sum(gate.share for gate in circuit.gates if gate.first != gate.second))
