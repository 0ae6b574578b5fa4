"""`circuits interactions|find|validate|rank|export`: a run's pairs and circuits."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from analysis.attribution.contrast import by_layer
from analysis.behaviour.in_model import in_model
from analysis.cli.answers import Answer, fields_answer, table_answer
from analysis.cli.circuit_text import (
    circuit_rows,
    circuit_text,
    layers_text,
    proposals_text,
    validation_rows,
    validation_text,
)
from analysis.cli.commands.inputs import corpus_for, held_out, named_text, opened_run
from analysis.cli.commands.layered import (
    asked_behaviour,
    find_layered,
    named_circuits,
    not_found,
    twin_rows,
    twin_text,
    validate_layered,
)
from analysis.cli.rank_text import curve_rows, curve_text
from analysis.discovery.find import verdict
from analysis.lowrank.circuit_rank import circuit_rank
from analysis.runs.circuits import (
    Earlier,
    run_find,
    run_propose,
    run_validate,
    story_cases,
)
from analysis.runs.folder import RunFolder, check_not_of_a_run
from analysis.runs.layers import run_interactions, run_rank
from analysis.runs.run import Run, circuit_at
from analysis.validation.original import original_of
from circuits.errors import GraphError, NotFoundError
from circuits.graph.circuit import Circuit
from circuits.graph.export import attribution_query, write_attribution, write_graph
from circuits.storage.files import read_json, written_whole
from circuits.storage.lock import locked
from circuits.storage.progress import progress
from circuits.storage.replacing import check_table
from sae.reading import N_DOCUMENTS


def interactions(options: Namespace) -> Answer:
    """The strongest pairs of each layer of a run."""
    run = opened_run(options)
    weighed = options.documents > 0 or named_text(options) is not None
    return fields_answer(
        run_interactions(
            run,
            n=options.n,
            layers=options.layer,
            reader=options.reader,
            corpus=corpus_for(options, run.model, options.seed) if weighed else None,
            n_documents=options.documents or N_DOCUMENTS,
            q=options.q,
        )
    )


def find(options: Namespace) -> Answer:
    """The circuit of a behaviour, or proposals from the weights alone."""
    if options.across:
        return find_layered(options)
    run = opened_run(options)
    if options.behaviour is None:
        layer, n = options.layer or 0, 10 if options.proposals is None else options.proposals
        found = run_propose(run, layer=layer, n=n, seed=options.seed)
        files = [str(run.folder.circuits)] if found else []
        parts = [proposals_text(found, layer), *twin_text(run), *files]
        proposals = {"proposals": [circuit_rows(circuit) for circuit in found]}
        return Answer("\n\n".join(parts), proposals | twin_rows(run))
    behaviour = asked_behaviour(options, run)
    earlier = Earlier.of(run, behaviour.name)
    try:
        circuit = run_find(
            run,
            behaviour,
            layer=options.layer,
            detection_cases=story_cases(options.behaviour, run.model, options.seed),
            coverage=options.coverage,
            n_pairs=options.pairs,
        )
    except NotFoundError as answer:
        return not_found(answer, earlier)
    before = earlier.replaced_by(circuit)
    file = str(earlier.files.circuit)
    layers = by_layer(in_model(behaviour.halves()[0], run.model))
    rows: dict[str, Any] = {"found": True, "verdict": verdict(circuit), "file": file,
                            "replaced": before, "layers": layers.to_dict("records")}  # fmt: skip
    parts = [circuit_text(circuit), layers_text(layers), *twin_text(run), before or "", file]
    text = "\n\n".join(part for part in parts if part)
    return Answer(text, rows | circuit_rows(circuit) | twin_rows(run))


def validate(options: Namespace) -> Answer:
    """Whether circuits are the cause of their behaviours."""
    if options.across:
        return validate_layered(options)
    run = opened_run(options)
    names = named_circuits(options, run, run.behaviours)
    original = None if options.original is None else original_of(run.model, options.original)
    how: dict[str, Any] = {"n_draws": options.draws, "seed": options.seed, "original": original}
    text = held_out(options, run.model)
    found = [
        run_validate(run, name, text=text, **how)
        for name in progress(names, "validating", "circuit")
    ]
    measured = list(zip(found, (run.behaviours[name].metric for name in names), strict=True))
    rows = {"validations": [validation_rows(*each) for each in measured]}
    return Answer("\n\n".join(validation_text(*each) for each in measured), rows)


def rank(options: Namespace) -> Answer:
    """How well the top eigenvectors stand in for the features of each layer of a run, or a
    circuit's pairs for its outputs."""
    run = opened_run(options)
    if options.circuit is not None:
        return _rank_of_circuit(options, run)
    corpus = held_out(options, run.model)
    curves = run_rank(run, layers=options.layer, corpus=corpus, **_measured(options))
    files = {layer: str(run.folder.rank(layer)) for layer in curves}
    rows = [{"file": files[layer], **curve_rows(curve)} for layer, curve in curves.items()]
    text = "\n\n".join(f"{curve_text(curve)}\n\n{files[layer]}" for layer, curve in curves.items())
    return Answer(text, {"layers": rows})


def _measured(options: Namespace) -> dict[str, Any]:
    names = {"n_documents": "documents", "reader": "reader", "min_active": "min_active"}
    return {name: getattr(options, given) for name, given in names.items()} | {"seed": options.seed}


def _rank_of_circuit(options: Namespace, run: Run) -> Answer:
    circuit, corpus = run.circuits[options.circuit], held_out(options, run.model)
    table = circuit_rank(run.model, circuit, run.dictionaries, corpus, **_measured(options))
    about = {"circuit": options.circuit, "reader": options.reader, "seed": options.seed}
    shown = table_answer(
        table[table["rank"].isin((0, 1, 2))],
        about,
        "correlation: of the output's activation with the sum of the pairs, on tokens where it is "
        "active. Rank 0 is all\npairs, other ranks the first eigenvectors of their matrix. low, "
        "high: 95 % interval over documents.\nA circuit is chosen for a behaviour's contrast, not "
        "to follow its outputs on all text.",
    )
    return Answer(shown.text, table_answer(table, about).rows)


def export(options: Namespace) -> Answer:
    """A circuit in another tool's format; no other command works in a run while it is put there."""
    beside = Path(options.circuit).absolute().parent
    inside = options.out is None and beside == RunFolder(beside.parent).circuits and beside.is_dir()
    with locked(beside.parent, "circuits export") if inside else nullcontext():
        return _export(options)


def _export(options: Namespace) -> Answer:
    circuit, source = circuit_at(options.circuit), Path(options.circuit)
    out = source.parent if options.out is None else Path(options.out)
    written: dict[str, object] = {}
    if options.format == "attribution":
        folder = out / "attribution" if options.out is None else out
        check_not_of_a_run(folder)
        layer = _layer(options, circuit)
        path = write_attribution(circuit, folder, layer, options.scan, force=options.force)
        written["file"] = str(path)
        written["index"] = str(folder / "graph-metadata.json")
        written["address"] = attribution_query(read_json(path, GraphError))
    elif options.format == "tables":
        tables = {out / f"{source.stem}-{n}.parquet": (n, t) for n, t in circuit.tables().items()}
        for path, (_, table) in tables.items():
            check_table(path, table, GraphError, options.force)
        with ExitStack() as put:  # they are renamed one right after the other
            for path, (name, table) in tables.items():
                table.to_parquet(put.enter_context(written_whole(path)), index=False)
                written[name] = str(path)
    else:
        path = out / f"{source.stem}.{options.format}"
        written["file"] = str(write_graph(circuit, path, force=options.force))
    return fields_answer(written)


def _layer(options: Namespace, circuit: Circuit) -> int:
    """The circuit's own layer; the option is for circuits whose file has none."""
    own = circuit.source.layer
    if own is not None and options.layer not in (None, own):
        raise GraphError(
            f"--layer {options.layer}, but {options.circuit} is of layer {own}. Leave --layer out."
        )
    if own is None and options.layer is None:
        raise GraphError(f"{options.circuit} names no layer, which this format needs: pass --layer")
    return own if own is not None else options.layer
