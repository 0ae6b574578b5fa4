"""What `circuits interactions`, `export` and `calibrate` do with their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from analysis.interaction_tables import run_interactions
from analysis.planted import Planted, calibrate
from circuits.circuit import Circuit
from circuits.errors import CircuitFileError
from circuits.exports import attribution_query, write_attribution, write_graph
from circuits.files import read_json, written_whole


def interactions(options: argparse.Namespace) -> dict[str, Any]:
    """The files written, a line for each layer."""
    return run_interactions(
        options.run_folder,
        options.n,
        options.layer or None,
        options.reader,
        options.documents,
        options.q,
    )


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Where the circuit lies now."""
    circuit = Circuit.load(options.circuit)
    source = Path(options.circuit)
    out = source.parent if options.out is None else Path(options.out)
    if options.format == "attribution":
        folder = out / "attribution" if options.out is None else out
        path = write_attribution(circuit, folder, options.layer, options.scan)
        return {
            "file": str(path),
            "index": str(folder / "graph-metadata.json"),
            "address": attribution_query(read_json(path, CircuitFileError)),
        }
    if options.format == "tables":
        written = {}
        for name, table in circuit.tables().items():
            path = out / f"{source.stem}-{name}.parquet"
            with written_whole(path) as file:
                table.to_parquet(file, index=False)
            written[name] = str(path)
        return written
    return {"file": str(write_graph(circuit, out / f"{source.stem}.{options.format}"))}


def calibration(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table."""
    sizes = Planted(
        d_model=options.d_model,
        n_feature=options.features,
        n_gates=options.gates,
        n_output=options.outputs,
        seed=options.seed,
    )
    table = calibrate(sizes, options.snr, options.seeds, options.q)
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
