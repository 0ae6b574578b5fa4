"""What each command runs and prints: `circuits sae train` is ``sae_train``.

A function here asks the packages and prints what they answer; it computes nothing. How the options
are spelt is `analysis.cli`'s to say.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.circuit_told import (
    circuit_rows,
    told_circuit,
    told_layers,
    told_proposals,
    told_validation,
    validation_rows,
)
from analysis.contrast import by_layer
from analysis.demo import run_demo
from analysis.dictionary_quality import quality
from analysis.discovery import verdict
from analysis.gates import gate_report
from analysis.images import ClassSpectra, open_images
from analysis.images.pictures import spectra_sheet, write_png
from analysis.images.run import run_images
from analysis.images.study import figures, plan_for
from analysis.interaction_tables import run_interactions
from analysis.lowrank.of_circuit import circuit_rank
from analysis.lowrank.run import run_rank
from analysis.lowrank.told import told, told_in_full
from analysis.planted import Planted
from analysis.planted import calibrate as calibrated
from analysis.printing import aligned, print_fields, print_json, print_table
from analysis.report import collect, write_report
from analysis.run_circuits import (
    behaviour_circuits,
    behaviour_of,
    circuit_file,
    run_find,
    run_propose,
    run_validate,
    saved_circuit,
    stories_of,
)
from analysis.run_training import run_model, run_saes
from circuits.circuit import Circuit
from circuits.corpus import Corpus, built_in, open_corpus
from circuits.errors import CircuitFileError, CorpusError, NotFoundError, PlanError, RunError
from circuits.exports import attribution_query, write_attribution, write_graph
from circuits.files import read_json, written_whole
from circuits.model import Model, ModelPlan, Site, load_model
from circuits.model.held_out import parted
from sae import Dictionary, TrainingPlan, load_dictionaries, load_dictionary
from sae.formats import is_dictionary
from sae.logs import watched_by
from sae.reading import N_DOCUMENTS


def demo(options: Namespace) -> None:
    """Everything at once, into one run folder."""
    start = time.perf_counter()

    def tell(step: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {step}", file=sys.stderr)

    found = run_demo(options.run_folder, options.seed, options.device, tell)
    told = {
        name: circuit if isinstance(circuit, str) else verdict(circuit)
        for name, circuit in found.circuits.items()
    }
    proofs = {name: proof.verdict for name, proof in found.validations.items()}
    if options.json:
        print_json({"run": str(found.run), "circuits": told, "proofs": proofs,
                    "page": str(found.page), "seed": options.seed})  # fmt: skip
        return
    negation = found.circuits["negation"]
    print(negation if isinstance(negation, str) else told_circuit(negation))
    if "negation" in found.validations:
        print(f"\n{told_validation(found.validations['negation'])}")
    print("\nThe controls' own circuits:")
    for name, answer in told.items():
        if name != "negation":
            print(f"  {name}: {answer}; {proofs.get(name, 'nothing to prove')}")
    print(f"\nopen {found.page}")


def gates(options: Namespace) -> None:
    """Logic gates, read back from the layer that learned them."""
    _, report = gate_report(seed=options.seed)
    if options.json:
        print_json({"seed": options.seed, "gates": report.to_dict("records")})
        return
    print(
        "One bilinear layer, (Wx + b) * (Vx + c), was trained on eight gates of the bits a, b, c."
    )
    print("Each gate below was then read from its interaction matrix: no input was run.\n")
    shown = report.assign(right=[f"{row.rows_right}/{row.rows}" for row in report.itertuples()])
    columns = ["gate", "polynomial", "right", "off_by", "control", "error", "error_floor"]
    for column in columns[3:]:
        shown[column] = [f"{x:.0e}" if x < 1e-3 else f"{x:.2g}" for x in shown[column]]
    print(aligned(shown[columns]))
    print(
        "\noff_by: largest difference between this polynomial and the gate's own."
        "\ncontrol: the same for the layer before training."
        "\nerror: mean squared; error_floor is the least that any quadratic form can have, which is"
        "\n  above zero where a gate needs the product of three bits (and there 'right' may fail)."
        f"\nn = {int(report.rows[0])} rows, seed {options.seed}, torch {torch.__version__}"
    )


def model_train(options: Namespace) -> None:
    """A transformer in RUN/model."""
    plan = _planned(ModelPlan, options.plan, n_steps=options.steps, seed=options.seed)
    own_text = options.text is not None
    corpus = open_corpus(options.text, column=options.column) if own_text else built_in(plan.seed)
    out = Path(options.run_folder) / "model"
    try:
        trained = run_model(options.run_folder, plan, corpus, options.device)
    except KeyboardInterrupt:
        if (out / "checkpoint.safetensors").exists():
            print("saved; the same command goes on from there", file=sys.stderr)
        raise
    told: dict[str, object] = {
        "folder": str(trained.folder),
        "parameters": trained.n_parameters,
        "steps": trained.n_steps,
        "seconds": round(trained.seconds, 1),
        "tokens_per_second": round(trained.tokens_per_second),
    }
    if trained.held_out is not None:
        told |= {"held_out_loss": trained.held_out.loss, "gap": trained.held_out.gap}
        told |= {"reactions_right": trained.held_out.reactions, "n": trained.held_out.n_reactions}
    print_fields({**told, "seed": plan.seed}, options.json)


def model_info(options: Namespace) -> None:
    """What a model is."""
    model = load_model(_model_of(options.model), tokenizer=options.tokenizer)
    print_fields(model.describe(), options.json)


def model_generate(options: Namespace) -> None:
    """A text, gone on with."""
    model = load_model(_model_of(options.model), tokenizer=options.tokenizer)
    how = {"temperature": options.temperature, "seed": options.seed}
    print(model.generate(options.prompt, options.tokens, **how))


def sae_train(options: Namespace) -> None:
    """Dictionaries in RUN/saes."""
    plan = _planned(
        TrainingPlan,
        options.plan,
        sites=options.sites and tuple(options.sites),
        n_features=options.features,
        k=options.k,
        n_tokens=options.tokens,
        seed=options.seed,
    )
    run = Path(options.run_folder)
    model = load_model(_model_of(options.run_folder), device=options.device)
    corpus = _corpus(options, model, plan.seed)
    out = run / "saes"
    log = None if options.log is None else watched_by(options.log, run)
    try:
        trained = run_saes(run, model, plan, corpus, options.device, log)
    except KeyboardInterrupt:
        if list(out.glob("checkpoint-*.safetensors")):
            print("saved; the same command goes on from there", file=sys.stderr)
        raise
    _print_dictionaries({out / s.hook_name: d for s, d in trained.items()}, options.json)


def sae_info(options: Namespace) -> None:
    """What the dictionaries of a run, or one dictionary, are."""
    where = Path(options.where)
    if where.is_dir() and not is_dictionary(where):
        folder = where / "saes" if (where / "saes").is_dir() else where
        found = load_dictionaries(where, device="cpu")
        _print_dictionaries({folder / s.hook_name: d for s, d in found.items()}, options.json)
    else:
        found_one = load_dictionary(options.where, device="cpu")
        _print_dictionaries({where: found_one}, options.json)


def sae_quality(options: Namespace) -> None:
    """How well each dictionary of a run stands in for its site."""
    model, dictionaries = _model_and_dictionaries(options)
    corpus = _held_out(options, model)
    rows = [
        quality(dictionary, model, corpus, n_documents=options.documents, seed=options.seed).assign(
            site=str(site)
        )
        for site, dictionary in dictionaries.items()
    ]
    table = pd.concat(rows).set_index("site")
    if options.json:
        print_json(table.to_dict("index"))
        return
    print(table.T.to_string(float_format=lambda value: f"{value:.4g}"))


def interactions(options: Namespace) -> None:
    """The strongest pairs of each layer of a run."""
    model, dictionaries = _model_and_dictionaries(options)
    weighed = options.documents > 0 or options.text is not None
    told = run_interactions(
        options.run_folder,
        model,
        dictionaries,
        n=options.n,
        layers=options.layer,
        reader=options.reader,
        corpus=_corpus(options, model, seed=0) if weighed else None,
        n_documents=options.documents or N_DOCUMENTS,
        q=options.q,
    )
    print_fields(told, options.json)


def find(options: Namespace) -> None:
    """The circuit of a behaviour, or proposals from the weights alone."""
    model, dictionaries = _model_and_dictionaries(options)
    run = options.run_folder
    if options.behaviour is None:
        found = run_propose(
            run,
            model,
            dictionaries,
            layer=options.layer or 0,
            n=options.proposals,
            seed=options.seed,
        )
        if options.json:
            print_json({"proposals": [circuit_rows(circuit) for circuit in found]})
        else:
            print(f"{told_proposals(found)}\n\n{run}/circuits")
        return
    behaviour = behaviour_of(options.behaviour, model, options.cases, options.seed)
    try:
        circuit = run_find(
            run,
            model,
            dictionaries,
            behaviour,
            layer=options.layer,
            told_on=stories_of(options.behaviour, model, options.seed),
            coverage=options.coverage,
            n_pairs=options.pairs,
        )
    except NotFoundError as answer:
        if options.json:
            print_json({"found": False, "why": str(answer)})
        else:
            print(answer)
        return
    file = str(circuit_file(run, circuit.name))
    layers = by_layer(behaviour.halves()[0].ask(model))
    if options.json:
        print_json({"found": True, "verdict": verdict(circuit), "file": file,
                    "layers": layers.to_dict("records")} | circuit_rows(circuit))  # fmt: skip
        return
    print(f"{told_circuit(circuit)}\n\n{told_layers(layers)}\n\n{file}")


def validate(options: Namespace) -> None:
    """Whether circuits are the cause of their behaviours."""
    model, dictionaries = _model_and_dictionaries(options)
    names = options.circuit or behaviour_circuits(options.run_folder)
    if not names:
        raise RunError(
            f"{options.run_folder} has no circuit of a behaviour. Find one: circuits find "
            f"{options.run_folder} --behaviour negation"
        )
    text = _held_out(options, model)
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
        for name in names
    ]
    if options.json:
        print_json({"validations": [validation_rows(each) for each in found]})
        return
    print("\n\n".join(map(told_validation, found)))


def rank(options: Namespace) -> None:
    """How well the top eigenvectors stand in for the features of each layer of a run, or a
    circuit's pairs for its outputs."""
    model, dictionaries = _model_and_dictionaries(options)
    if options.circuit is not None:
        _rank_of_circuit(options, model, dictionaries)
        return
    curves = run_rank(
        options.run_folder,
        model,
        dictionaries,
        layers=options.layer,
        reader=options.reader,
        corpus=_held_out(options, model),
        n_documents=options.documents,
        min_active=options.min_active,
        seed=options.seed,
    )
    files = {layer: f"{options.run_folder}/rank/layer-{layer}.parquet" for layer in curves}
    if options.json:
        rows = [{"file": files[layer], **told_in_full(curve)} for layer, curve in curves.items()]
        print_json({"layers": rows})
        return
    print("\n\n".join(f"{told(curve)}\n\n{files[layer]}" for layer, curve in curves.items()))


def _rank_of_circuit(
    options: Namespace, model: Model, dictionaries: dict[Site, Dictionary]
) -> None:
    table = circuit_rank(
        model,
        saved_circuit(options.run_folder, options.circuit),
        dictionaries,
        _held_out(options, model),
        reader=options.reader,
        n_documents=options.documents,
        min_active=options.min_active,
        seed=options.seed,
    )
    shown = table if options.json else table[table["rank"].isin((0, 1, 2))]
    print_table(
        shown,
        options.json,
        {"circuit": options.circuit, "reader": options.reader, "seed": options.seed},
        "correlation: of the activation, where active, with the sum of the pairs; rank 0 is all of "
        "them,\nothers the first eigenvectors of the matrix they make. low, high: 95 % over "
        "documents.\nA circuit is chosen for a behaviour's contrast, not to follow its outputs on "
        "all text.",
    )


def report(options: Namespace) -> None:
    """A run's pages."""
    text = None if options.text is None else open_corpus(options.text, column=options.column)
    run = collect(options.run_folder, text, options.device)
    page = write_report(run, options.out, options.single_file, seed=options.seed)
    if options.json:
        print_json({"page": str(page), "missing": [vars(each) for each in run.missing]})
        return
    for each in run.missing:
        print(f"not made yet: {each.step} ({each.command.replace('RUN', options.run_folder)})")
    print(page)


def export(options: Namespace) -> None:
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
    print_fields(written, options.json)


def calibrate(options: Namespace) -> None:
    """What the graphs can and cannot see at some sizes."""
    sizes = Planted(
        d_model=options.d_model,
        n_feature=options.features,
        n_gates=options.gates,
        n_output=options.outputs,
        seed=options.seed,
    )
    print_table(
        calibrated(sizes, options.snr, options.seeds, options.q),
        options.json,
        {"seed": options.seed, "q": options.q},
        f"d = {options.d_model}, {options.features} features, {options.gates} gates, q = "
        f"{options.q:g}; n outputs, seeds from {options.seed}."
        "\nfalse: share of edges found that were not planted. ari: agreement of the groups."
        "\ngates: share named rightly. any: share of outputs with an edge; at most q in the last"
        "\n  three rows, which hold nothing.",
    )


def digits(options: Namespace) -> None:
    """A classifier of images, read from its weights."""
    data = open_images(options.data)
    plan = replace(plan_for(data.train), seed=options.seed)
    if options.run_folder is not None:
        row = run_images(options.run_folder, data, plan)
        row["folder"] = f"{options.run_folder}/images"
    else:
        if options.pictures is not None:  # a place that cannot be is told before the training
            Path(options.pictures).parent.mkdir(parents=True, exist_ok=True)
        row, model = figures(data, plan)
        if options.pictures is not None:
            write_png(spectra_sheet(ClassSpectra.of(model).with_sign(data.train)), options.pictures)
            row["pictures"] = options.pictures
    about = {
        "data": data.name,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "d_hidden": plan.d_hidden,
    }
    if not options.json:
        row["explanation_error"] = f"{row['explanation_error']:.1e}"
    versions = {"seed": options.seed, "torch": torch.__version__}
    print_fields({**about, **row, **versions}, options.json)


def _planned(kind: Any, file: str | None, **given: object) -> Any:
    """The plan in the file, or the default one, with what was given on the command line."""
    plan = kind() if file is None else kind.from_dict(read_json(Path(file), PlanError), file)
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _model_of(where: str) -> str:
    """The model's folder, where a run's was named."""
    inside = Path(where) / "model"
    return str(inside) if inside.is_dir() else where


def _model_and_dictionaries(options: Namespace) -> tuple[Model, dict[Site, Dictionary]]:
    """A run's model and its dictionaries, with a note where they do not belong together."""
    run = Path(options.run_folder)
    if run.is_dir() and not any((run / part).exists() for part in ("model", "config.json")):
        raise RunError(f"{run} has no folder 'model'. Train one: circuits model train {run}")
    dictionaries = load_dictionaries(run, device=options.device)
    model = load_model(_model_of(options.run_folder), device=options.device)
    for site, dictionary in dictionaries.items():
        trained_on = dictionary.notes.get("activations", {}).get("model", model.fingerprint)
        if trained_on != model.fingerprint:
            print(f"note: {site} was trained on another model than this one", file=sys.stderr)
    return model, dictionaries


def _corpus(options: Namespace, model: Model, seed: int) -> Corpus:
    """The text that was named, or the built-in stories where the model knows their words."""
    if options.text is not None:
        return open_corpus(options.text, column=options.column)
    stories = built_in(seed)
    if stories.word_numbers(model.words("reading a corpus")) is None:
        raise CorpusError(
            f"{options.run_folder}: its model does not know the words of the built-in stories. "
            f"Name the text that it is made for, with --text."
        )
    return stories


def _held_out(options: Namespace, model: Model) -> Corpus:
    """The part of the text that training leaves alone, or all of it where that would be none."""
    training, held_out = parted(_corpus(options, model, options.seed))
    if held_out is None:
        print("note: too few documents to hold any out: this is text to train on", file=sys.stderr)
    return training if held_out is None else held_out


def _print_dictionaries(dictionaries: dict[Path, Dictionary], as_json: bool) -> None:
    told = [_told(folder, dictionary) for folder, dictionary in dictionaries.items()]
    if as_json:
        print_json(told)
        return
    for row in told:
        print_fields(row, False)
        print()


def _told(folder: Path, dictionary: Dictionary) -> dict[str, object]:
    row: dict[str, object] = {
        "folder": str(folder),
        "site": None if dictionary.site is None else str(dictionary.site),
        "features": dictionary.n_feature,
        "width": dictionary.d_model,
        "active": "by threshold" if dictionary.k is None else dictionary.k,
    }
    statistics = dictionary.statistics
    if statistics is not None:
        frequency = statistics.frequency
        row |= {
            "l0": float(frequency.sum()),
            "dead_share": float((frequency == 0).float().mean()),
            "dense_share": float((frequency > 0.1).float().mean()),
            "tokens_measured": int(statistics.n_token),
        }
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    if lines:
        last = json.loads(lines[-1])
        row |= {"fvu": last["fvu"], "steps": last["step"]}
    return row
