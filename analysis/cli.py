"""The `circuits` command: parses, prints, and leaves the work to the packages.

Nothing heavy is imported before a command is known, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for bad input, 1 for a bug."""
    options = _parser().parse_args(arguments)
    from circuits.errors import CircuitsError

    try:
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
        sys.stdout.flush()
    except CircuitsError as error:
        print(f"circuits {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough: `circuits … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a place that cannot be read or written, a full disk
        print(f"circuits {options.command}: {error}. Check the path and the disk.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"circuits {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="circuits",
        description="Circuits between dictionary features, from a bilinear model's weights.",
        epilog="example: circuits demo",
    )
    parser.add_argument("--version", action="version", version=version("bilinear-circuits"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train one bilinear layer on logic gates and read them back from its weights",
        description="Trains one bilinear layer on eight logic gates and reads each gate back from "
        "the layer's interaction matrices, with an untrained layer beside it as the control.",
        epilog="example: circuits demo --seed 3 --json",
    )
    demo.add_argument("--seed", type=_seed, default=0, help="of the layer's start (default 0)")
    demo.add_argument("--json", action="store_true", help="print one JSON object instead")
    demo.set_defaults(run=_demo)
    _add_model(commands)
    _add_sae(commands)
    _add_interactions(commands)
    _add_export(commands)
    _add_calibrate(commands)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


def _add_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    model = commands.add_parser(
        "model",
        help="train a bilinear transformer, tell what one is, let one write",
        description="Trains a bilinear transformer, tells what one is, or lets one write.",
        epilog="example: circuits model train runs/stories",
    )
    verbs = model.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train one, on the built-in stories or on text of your own",
        description="Trains a transformer into RUN/model, in the Hugging Face Llama format. The "
        "same command goes on where a run stopped or was killed.",
        epilog="example: circuits model train runs/stories --seed 3",
    )
    train.add_argument("run_folder", metavar="RUN", help="folder of the run; made if need be")
    train.add_argument("--text", metavar="PATH", help="file, folder or hub data set to train on")
    train.add_argument("--column", help="the column that holds the text, where it is not plain")
    train.add_argument("--plan", metavar="FILE", help="JSON with the fields of a ModelPlan")
    train.add_argument("--steps", type=int, help="training steps (default: the plan's 700)")
    train.add_argument("--seed", type=_seed, help="of everything (default: the plan's 0)")
    train.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    train.add_argument("--json", action="store_true", help="print one JSON object instead")
    train.set_defaults(run=_model_train)
    _add_model_use(verbs)


def _add_model_use(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = verbs.add_parser(
        "info",
        help="layers, sizes, norm, activation, and where the hooks are",
        description="Loads a model, checks that it is bilinear, and tells what it is.",
        epilog="example: circuits model info runs/stories",
    )
    generate = verbs.add_parser(
        "generate",
        help="go on with a text",
        description="Goes on with a text, by the likeliest words or at a temperature.",
        epilog="example: circuits model generate runs/stories 'the cake was not good so mia felt'",
    )
    for verb, run in ((info, _model_info), (generate, _model_generate)):
        verb.add_argument("model", metavar="MODEL", help="a run's or model's folder, or hub name")
        verb.add_argument("--tokenizer", help="folder or hub name, in place of the model's own")
        verb.set_defaults(run=run)
    info.add_argument("--json", action="store_true", help="print one JSON object instead")
    generate.add_argument("prompt", help="the text to go on with")
    generate.add_argument("--tokens", type=int, default=50, help="at most so many (default 50)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: likeliest (default)")
    generate.add_argument("--seed", type=_seed, default=0, help="of the dice (default 0)")


def _add_sae(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sae = commands.add_parser(
        "sae",
        help="train dictionaries at a model's sites, tell what they are and how good",
        description="Trains sparse autoencoders at a model's sites, tells what they are, or how "
        "good they are.",
        epilog="example: circuits sae train runs/stories",
    )
    verbs = sae.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train one for each of several sites, in one pass of the model",
        description="Trains TopK dictionaries into RUN/saes/<hook name>, in sae-lens' format. The "
        "same command goes on where a run stopped or was killed.",
        epilog="example: circuits sae train runs/stories --sites mlp_in@0 mlp_out@0 --k 8",
    )
    train.add_argument("run_folder", metavar="RUN", help="folder of the run, with its model")
    train.add_argument("--sites", nargs="+", metavar="SITE", help="as mlp_in@0 mlp_out@0")
    train.add_argument("--features", type=int, help="of each (default: twice the site's width)")
    train.add_argument("--k", type=int, help="active on a token (default: the plan's 10)")
    train.add_argument("--tokens", type=int, help="to train on (default: the plan's 1,000,000)")
    train.add_argument("--plan", metavar="FILE", help="JSON with the fields of a TrainingPlan")
    train.add_argument("--seed", type=_seed, help="of everything (default: the plan's 0)")
    train.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    train.add_argument("--log", choices=("tensorboard", "wandb"), help="metrics go there as well")
    train.set_defaults(run=_sae_train)
    info = verbs.add_parser(
        "info",
        help="sites, sizes, how they were trained, how often features are active",
        description="Tells what the dictionaries of a run, or one dictionary, are.",
        epilog="example: circuits sae info runs/stories",
    )
    info.add_argument("where", metavar="RUN", help="a run's or dictionary's folder, or hub name")
    info.set_defaults(run=_sae_info)
    quality = verbs.add_parser(
        "quality",
        help="what is lost with a dictionary in its site's place, with controls",
        description="Measures every dictionary of a run on text it was not trained on: "
        "reconstruction, loss, and how well the pseudoinverse reads it.",
        epilog="example: circuits sae quality runs/stories --documents 500",
    )
    quality.add_argument("run_folder", metavar="RUN", help="folder of the run")
    quality.add_argument("--documents", type=int, default=1000, help="to measure on (default 1000)")
    quality.add_argument("--seed", type=_seed, default=0, help="of text and controls (default 0)")
    quality.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    quality.set_defaults(run=_sae_quality)
    for verb in (train, quality):
        verb.add_argument("--text", metavar="PATH", help="file, folder or hub data set")
        verb.add_argument("--column", help="the column that holds the text, where it is not plain")
    for verb in (train, info, quality):
        verb.add_argument("--json", action="store_true", help="print JSON instead")


def _add_interactions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "interactions",
        help="the strongest pairs of features of every output, with their significance",
        description="Writes RUN/interactions/layer-<i>.parquet: each output's strongest pairs of "
        "input features with weight, z and q against rotated features, and with --documents what "
        "they add on data. The same command goes on where a run stopped.",
        epilog="example: circuits interactions runs/stories --documents 2000",
    )
    command.add_argument("run_folder", metavar="RUN", help="folder with model/ and saes/")
    command.add_argument("--n", type=int, default=16, help="pairs of each output (default 16)")
    command.add_argument("--layer", type=int, action="append", help="only this one (repeatable)")
    command.add_argument("--reader", choices=("pinv", "encoder"), default="pinv",
                         help="how output features are read (default pinv)")  # fmt: skip
    command.add_argument("--documents", type=int, default=0,
                         help="built-in stories to weigh pairs by (default 0: none)")  # fmt: skip
    command.add_argument("--q", type=float, default=0.05, help="of the summary (default 0.05)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    command.set_defaults(run=_interactions)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "export",
        help="a circuit for Gephi, Cytoscape, circuit-tracer, Neuronpedia or pandas",
        description="Writes a circuit's file in another tool's format.",
        epilog="example: circuits export runs/stories/circuits/negation.json --format gexf",
    )
    command.add_argument("circuit", metavar="CIRCUIT", help="a circuit's .json")
    formats = ("graphml", "gexf", "attribution", "tables")
    command.add_argument("--format", choices=formats, default="graphml",
                         help="attribution: circuit-tracer's JSON (default graphml)")  # fmt: skip
    command.add_argument("--out", metavar="FOLDER", help="(default: beside the circuit)")
    command.add_argument("--layer", type=int, default=0, help="attribution: of the input features")
    command.add_argument("--scan", default="bilinear", help="attribution: name of the model")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    command.set_defaults(run=_export)


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "calibrate",
        help="what the graphs can and cannot see at your sizes, on planted gates",
        description="Plants gates in layers of the sizes you give, at several signal-to-noise "
        "ratios, and tells how well edges and groups are found, with layers beside them that hold "
        "nothing.",
        epilog="example: circuits calibrate --d-model 128 --features 1024 --gates 5 --snr 1 3",
    )
    command.add_argument("--d-model", type=int, default=64, help="width (default 64)")
    command.add_argument("--features", type=int, default=512, help="(default 512)")
    command.add_argument("--gates", type=int, default=3, help="of each output (default 3)")
    command.add_argument("--outputs", type=int, default=1, help="of each layer (default 1)")
    command.add_argument("--snr", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0],
                         help="norm of gates over that of noise (default 1 2 3 5)")  # fmt: skip
    command.add_argument("--seeds", type=int, default=5, help="layers of each kind (default 5)")
    command.add_argument("--q", type=float, default=0.05, help="false discoveries (default 0.05)")
    command.add_argument("--seed", type=_seed, default=0, help="of everything (default 0)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")
    command.set_defaults(run=_calibrate)


def _demo(options: argparse.Namespace) -> None:
    import torch

    from analysis.gates import gate_report

    _, report = gate_report(seed=options.seed)
    if options.json:
        print(json.dumps({"seed": options.seed, "gates": report.to_dict("records")}))
        return
    print(
        "One bilinear layer, (Wx + b) * (Vx + c), was trained on eight gates of the bits a, b, c."
    )
    print("Each gate below was then read from its interaction matrix: no input was run.\n")
    shown = report.copy()
    shown["right"] = [f"{row.rows_right}/{row.rows}" for row in report.itertuples()]
    for column in ("off_by", "control", "error", "error_floor"):
        shown[column] = shown[column].map(
            lambda value: f"{value:.0e}" if value < 1e-3 else f"{value:.2g}"
        )
    columns = ["gate", "polynomial", "right", "off_by", "control", "error", "error_floor"]
    print(shown[columns].to_string(index=False))
    print(
        "\noff_by: largest difference between this polynomial and the gate's own."
        "\ncontrol: the same for the layer before training."
        "\nerror: mean squared; error_floor is the least that any quadratic form can have, which is"
        "\n  above zero where a gate needs the product of three bits (and there 'right' may fail)."
        f"\nn = {int(report.rows[0])} rows, seed {options.seed}, torch {torch.__version__}"
    )


def _model_train(options: argparse.Namespace) -> None:
    from dataclasses import replace
    from pathlib import Path

    from circuits.corpus import built_in, open_corpus
    from circuits.errors import PlanError
    from circuits.files import read_json
    from circuits.manifest import record
    from circuits.model.plan import ModelPlan
    from circuits.model.training import train_model

    plan = ModelPlan()
    if options.plan is not None:
        plan = ModelPlan.from_dict(read_json(Path(options.plan), PlanError), options.plan)
    given = {"n_steps": options.steps, "seed": options.seed}
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    own_text = options.text is not None
    corpus = open_corpus(options.text, column=options.column) if own_text else built_in(plan.seed)
    out = Path(options.run_folder) / "model"
    try:
        trained = train_model(plan, corpus, out, device=options.device)
    except KeyboardInterrupt:
        if (out / "checkpoint.safetensors").exists():
            print("saved; the same command goes on from there", file=sys.stderr)
        raise
    made_of = {"plan": plan.as_dict(), "corpus": corpus.fingerprint}
    record(options.run_folder, "model", made_of, trained.files)
    told = {
        "folder": str(trained.folder),
        "parameters": trained.n_parameters,
        "steps": trained.n_steps,
        "seconds": round(trained.seconds, 1),
        "tokens_per_second": round(trained.tokens_per_second),
    }
    if trained.held_out is not None:
        told |= {"held_out_loss": trained.held_out.loss, "gap": trained.held_out.gap}
        told |= {"reactions_right": trained.held_out.reactions, "n": trained.held_out.n_reactions}
    _print_fields({**told, "seed": plan.seed}, options.json)


def _model_info(options: argparse.Namespace) -> None:
    from circuits.model import load_model

    model = load_model(_model_of(options.model), tokenizer=options.tokenizer)
    _print_fields(model.describe(), options.json)


def _model_generate(options: argparse.Namespace) -> None:
    from circuits.model import load_model

    model = load_model(_model_of(options.model), tokenizer=options.tokenizer)
    how = {"temperature": options.temperature, "seed": options.seed}
    print(model.generate(options.prompt, options.tokens, **how))


def _sae_train(options: argparse.Namespace) -> None:
    from dataclasses import replace
    from pathlib import Path

    from circuits.errors import PlanError
    from circuits.files import read_json
    from circuits.manifest import record
    from circuits.model import load_model
    from sae import TrainingPlan, train_saes
    from sae.logs import watched_by

    plan = TrainingPlan()
    if options.plan is not None:
        plan = TrainingPlan.from_dict(read_json(Path(options.plan), PlanError), options.plan)
    given = {
        "sites": options.sites and tuple(options.sites),
        "n_features": options.features,
        "k": options.k,
        "n_tokens": options.tokens,
        "seed": options.seed,
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    run = Path(options.run_folder)
    model = load_model(_model_of(options.run_folder), device=options.device)
    corpus = _corpus(options, model, plan.seed)
    out = run / "saes"
    log = None if options.log is None else watched_by(options.log, run)
    try:
        trained = train_saes(model, corpus, plan, out, device=options.device, log=log)
    except KeyboardInterrupt:
        if list(out.glob("checkpoint-*.safetensors")):
            print("saved; the same command goes on from there", file=sys.stderr)
        raise
    for site, dictionary in trained.items():
        folder = out / site.hook_name
        made = [folder / name for name in ("cfg.json", "sae_weights.safetensors")]
        made_of = {"plan": plan.as_dict(), "activations": dictionary.notes["activations"]}
        record(run, f"saes/{site.hook_name}", made_of, [*made, folder / "stats.safetensors"])
    _print_dictionaries({out / s.hook_name: d for s, d in trained.items()}, options.json)


def _sae_info(options: argparse.Namespace) -> None:
    from pathlib import Path

    from sae import load_dictionaries, load_dictionary
    from sae.formats import is_dictionary

    where = Path(options.where)
    if where.is_dir() and not is_dictionary(where):
        folder = where / "saes" if (where / "saes").is_dir() else where
        found = load_dictionaries(where, device="cpu")
        _print_dictionaries({folder / s.hook_name: d for s, d in found.items()}, options.json)
    else:
        found_one = load_dictionary(options.where, device="cpu")
        _print_dictionaries({where: found_one}, options.json)


def _sae_quality(options: argparse.Namespace) -> None:
    import pandas as pd

    from analysis import quality
    from circuits.model import load_model
    from circuits.model.held_out import parted
    from sae import load_dictionaries

    dictionaries = load_dictionaries(options.run_folder, device=options.device)
    model = load_model(_model_of(options.run_folder), device=options.device)
    for site, dictionary in dictionaries.items():
        trained_on = dictionary.notes.get("activations", {}).get("model", model.fingerprint)
        if trained_on != model.fingerprint:
            print(f"note: {site} was trained on another model than this one", file=sys.stderr)
    training, held_out = parted(_corpus(options, model, options.seed))
    corpus = training if held_out is None else held_out
    if held_out is None:
        print("note: too few documents to hold any out: this is text to train on", file=sys.stderr)
    rows = [
        quality(dictionary, model, corpus, n_documents=options.documents, seed=options.seed).assign(
            site=str(site)
        )
        for site, dictionary in dictionaries.items()
    ]
    table = pd.concat(rows).set_index("site")
    if options.json:
        print(table.to_json(orient="index"))
        return
    print(table.T.to_string(float_format=lambda value: f"{value:.4g}"))


def _corpus(options: argparse.Namespace, model: Any, seed: int) -> Any:
    """The text that was named, or the built-in stories where the model knows their words."""
    from circuits.corpus import built_in, open_corpus
    from circuits.errors import CorpusError

    if options.text is not None:
        return open_corpus(options.text, column=options.column)
    stories = built_in(seed)
    if stories.word_numbers(model.words("text")) is None:
        raise CorpusError(
            f"{options.run_folder}: its model does not know the words of the built-in stories. "
            f"Name the text that it is made for, with --text."
        )
    return stories


def _print_dictionaries(dictionaries: dict[Any, Any], as_json: bool) -> None:
    told = []
    for folder, dictionary in dictionaries.items():
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
        told.append(row)
    if as_json:
        print(json.dumps(told))
        return
    for row in told:
        _print_fields(row, False)
        print()


def _interactions(options: argparse.Namespace) -> None:
    from analysis.commands_graph import interactions

    _print_fields(interactions(options), options.json)


def _export(options: argparse.Namespace) -> None:
    from analysis.commands_graph import export

    _print_fields(export(options), options.json)


def _calibrate(options: argparse.Namespace) -> None:
    from analysis.commands_graph import calibration

    rows = calibration(options)
    if options.json:
        print(json.dumps({"seed": options.seed, "q": options.q, "rows": rows}))
        return
    widths = {name: max(len(name), *(len(_brief(row[name])) for row in rows)) for name in rows[0]}
    print("  ".join(f"{name:>{width}}" for name, width in widths.items()))
    for row in rows:
        print("  ".join(f"{_brief(row[name]):>{width}}" for name, width in widths.items()))
    print(
        f"\nd = {options.d_model}, {options.features} features, {options.gates} gates, q = "
        f"{options.q:g}; n outputs, seeds from {options.seed}."
        "\nfalse: share of edges found that were not planted. ari: agreement of the groups."
        "\ngates: share named rightly. any: share of outputs with an edge; at most q in the last"
        "\n  three rows, which hold nothing."
    )


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _model_of(where: str) -> str:
    """The model's folder, where a run's was named."""
    from pathlib import Path

    inside = Path(where) / "model"
    return str(inside) if inside.is_dir() else where


def _print_fields(told: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(told))
        return
    width = max(map(len, told))
    for name, value in told.items():
        if value is None or value == []:
            value = "none"
        lines = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        for first, line in zip([name, *[""] * len(lines)], lines, strict=False):
            shown = f"{line:.4f}" if isinstance(line, float) else line
            print(f"{first.replace('_', ' '):{width}}  {shown}")
