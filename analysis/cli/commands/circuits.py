"""`circuits interactions|find|validate|rank|export`: a run's pairs and circuits."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from analysis.attribution.contrast import by_layer
from analysis.behaviour.in_model import in_model
from analysis.cli.answers import Told, told_fields
from analysis.cli.circuit_text import (
    circuit_rows,
    told_circuit,
    told_layers,
    told_proposals,
    told_validation,
    validation_rows,
)
from analysis.cli.commands.inputs import corpus_for, held_out, model_and_dictionaries, named_text
from analysis.cli.rank_text import curve_rows, curve_text
from analysis.cli.tables import told_table
from analysis.discovery.find import verdict
from analysis.lowrank.circuit_rank import circuit_rank
from analysis.runs.circuits import (
    behaviour_circuits,
    behaviour_of,
    circuit_file,
    run_find,
    run_propose,
    run_validate,
    saved_circuit,
    story_cases,
)
from analysis.runs.interactions import run_interactions
from analysis.runs.rank import run_rank
from circuits.errors import CircuitFileError, NotFoundError, RunError
from circuits.graph.circuit import Circuit
from circuits.graph.export import attribution_query, write_attribution, write_graph
from circuits.model.model import Model
from circuits.model.site import Site
from circuits.storage.files import read_json, written_whole
from circuits.storage.progress import progress
from sae.dictionary import Dictionary
from sae.reading import N_DOCUMENTS


def interactions(options: Namespace) -> Told:
    """The strongest pairs of each layer of a run."""
    model, dictionaries = model_and_dictionaries(options)
    weighed = options.documents > 0 or named_text(options) is not None
    return told_fields(
        run_interactions(
            options.run_folder,
            model,
            dictionaries,
            n=options.n,
            layers=options.layer,
            reader=options.reader,
            corpus=corpus_for(options, model, options.seed) if weighed else None,
            n_documents=options.documents or N_DOCUMENTS,
            q=options.q,
        )
    )


def find(options: Namespace) -> Told:
    """The circuit of a behaviour, or proposals from the weights alone."""
    model, dictionaries = model_and_dictionaries(options)
    if options.behaviour is None:
        return _proposed(options, model, dictionaries)
    behaviour = behaviour_of(options.behaviour, model, options.cases, options.seed)
    try:
        circuit = run_find(
            options.run_folder,
            model,
            dictionaries,
            behaviour,
            layer=options.layer,
            detection_cases=story_cases(options.behaviour, model, options.seed),
            coverage=options.coverage,
            n_pairs=options.pairs,
        )
    except NotFoundError as answer:
        return Told(str(answer), {"found": False, "why": str(answer)})
    file = str(circuit_file(options.run_folder, circuit.name))
    layers = by_layer(in_model(behaviour.halves()[0], model))
    rows = {"found": True, "verdict": verdict(circuit), "file": file,
            "layers": layers.to_dict("records")}  # fmt: skip
    text = f"{told_circuit(circuit)}\n\n{told_layers(layers)}\n\n{file}"
    return Told(text, rows | circuit_rows(circuit))


def _proposed(options: Namespace, model: Model, dictionaries: dict[Site, Dictionary]) -> Told:
    found = run_propose(
        options.run_folder,
        model,
        dictionaries,
        layer=options.layer or 0,
        n=options.proposals,
        seed=options.seed,
    )
    text = f"{told_proposals(found)}\n\n{options.run_folder}/circuits"
    return Told(text, {"proposals": [circuit_rows(circuit) for circuit in found]})


def validate(options: Namespace) -> Told:
    """Whether circuits are the cause of their behaviours."""
    model, dictionaries = model_and_dictionaries(options)
    names = options.circuit or behaviour_circuits(options.run_folder)
    if not names:
        raise RunError(
            f"{options.run_folder} has no circuit of a behaviour. Find one: circuits find "
            f"{options.run_folder} --behaviour negation"
        )
    text = held_out(options, model)
    found = [
        run_validate(
            options.run_folder,
            model,
            dictionaries,
            name,
            text=text,
            n_draws=options.draws,
            seed=options.seed,
        )
        for name in progress(names, "validating", "circuit")
    ]
    rows = {"validations": [validation_rows(each) for each in found]}
    return Told("\n\n".join(map(told_validation, found)), rows)


def rank(options: Namespace) -> Told:
    """How well the top eigenvectors stand in for the features of each layer of a run, or a
    circuit's pairs for its outputs."""
    model, dictionaries = model_and_dictionaries(options)
    if options.circuit is not None:
        return _rank_of_circuit(options, model, dictionaries)
    curves = run_rank(
        options.run_folder,
        model,
        dictionaries,
        layers=options.layer,
        reader=options.reader,
        corpus=held_out(options, model),
        n_documents=options.documents,
        min_active=options.min_active,
        seed=options.seed,
    )
    files = {layer: f"{options.run_folder}/rank/layer-{layer}.parquet" for layer in curves}
    rows = [{"file": files[layer], **curve_rows(curve)} for layer, curve in curves.items()]
    text = "\n\n".join(f"{curve_text(curve)}\n\n{files[layer]}" for layer, curve in curves.items())
    return Told(text, {"layers": rows})


def _rank_of_circuit(
    options: Namespace, model: Model, dictionaries: dict[Site, Dictionary]
) -> Told:
    table = circuit_rank(
        model,
        saved_circuit(options.run_folder, options.circuit),
        dictionaries,
        held_out(options, model),
        reader=options.reader,
        n_documents=options.documents,
        min_active=options.min_active,
        seed=options.seed,
    )
    about = {"circuit": options.circuit, "reader": options.reader, "seed": options.seed}
    shown = told_table(
        table[table["rank"].isin((0, 1, 2))],
        about,
        "correlation: of the activation, where active, with the sum of the pairs; rank 0 is all of "
        "them,\nothers the first eigenvectors of the matrix they make. low, high: 95 % over "
        "documents.\nA circuit is chosen for a behaviour's contrast, not to follow its outputs on "
        "all text.",
    )
    return Told(shown.text, told_table(table, about).rows)


def export(options: Namespace) -> Told:
    """A circuit in another tool's format."""
    circuit = Circuit.load(options.circuit)
    source = Path(options.circuit)
    out = source.parent if options.out is None else Path(options.out)
    written: dict[str, object] = {}
    if options.format == "attribution":
        folder = out / "attribution" if options.out is None else out
        path = write_attribution(circuit, folder, options.layer, options.scan)
        written["file"] = str(path)
        written["index"] = str(folder / "graph-metadata.json")
        written["address"] = attribution_query(read_json(path, CircuitFileError))
    elif options.format == "tables":
        for name, table in circuit.tables().items():
            path = out / f"{source.stem}-{name}.parquet"
            with written_whole(path) as file:
                table.to_parquet(file, index=False)
            written[name] = str(path)
    else:
        written["file"] = str(write_graph(circuit, out / f"{source.stem}.{options.format}"))
    return told_fields(written)
