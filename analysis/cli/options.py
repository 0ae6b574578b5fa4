"""Every command and option of `circuits`, and their help.

A new command is one function here, which adds its parser, and one in `analysis.cli.commands`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import version
from typing import NoReturn

_Commands = argparse._SubParsersAction
_Parser = argparse.ArgumentParser


class _OneLine(argparse.ArgumentParser):
    """A parser that refuses in one line, as the commands do."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where the help is; the exit status is 2."""
        self.exit(2, f"{self.prog}: {message}. All options: {self.prog} --help\n")


def parser() -> _Parser:
    """All commands and their options."""
    whole = _OneLine(
        prog="circuits",
        description="Circuits between dictionary features, from a bilinear model's weights.",
        epilog="example: circuits demo",
    )
    whole.add_argument("--version", action="version", version=version("bilinear-circuits"))
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_gates, _add_model, _add_sae, _add_interactions, _add_find,
                _add_validate, _add_rank, _add_report, _add_export, _add_calibrate, _add_digits,
                _add_completion):  # fmt: skip
        add(commands)
    for each in with_all_below(whole):  # before a command's name and after it: one default
        each.add_argument("--quiet", action="store_true",
                          default=False if each is whole else argparse.SUPPRESS,
                          help="print errors alone (and JSON, if asked for)")  # fmt: skip
    whole.set_defaults(json=False)
    return whole


def with_all_below(parser: _Parser) -> Iterator[_Parser]:
    """A parser and those of its commands and verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, _Commands):
            for below in action.choices.values():
                yield from with_all_below(below)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _add_run(command: _Parser, help: str) -> None:
    command.add_argument("run_folder", metavar="RUN", help=help)


def _add_number(
    command: _Parser, name: str, default: int | float, help: str, metavar: str | None = None
) -> None:
    kind = _whole if isinstance(default, int) else float
    help = f"{help} (default {default})".lstrip()
    command.add_argument(name, type=kind, default=default, help=help, metavar=metavar)


def _add_layers_and_reader(command: _Parser, help: str) -> None:
    command.add_argument("--layer", type=_whole, action="append", help="only this one (repeatable)")
    readers = ("pinv", "encoder")
    command.add_argument("--reader", choices=readers, default="pinv", help=f"{help} (default pinv)")


def _add_common(
    command: _Parser, seed: str = "", *, text: bool = True, device: bool = True
) -> None:
    """What nearly all commands have: a seed, a text, a device, JSON."""
    if seed:
        _add_number(command, "--seed", 0, f"of {seed}")
    if text:
        help = "file, folder or hub data set (default: the built-in stories)"
        command.add_argument("--text", metavar="PATH", help=help)
        command.add_argument("--column", help="the column of the text, if it is not called text")
    if device:
        command.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    command.add_argument("--json", action="store_true", help="print JSON instead")


def _add_demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="all steps: model, dictionaries, the negation circuit, its validation, a report",
        description="Trains a bilinear transformer on built-in stories and its dictionaries, finds "
        "and validates the circuit that reads 'not good', measures how far two eigenvectors go, "
        "and writes the report. Run again, it does only what is missing or changed.",
        epilog="example: circuits demo runs/demo --seed 3",
    )
    demo.add_argument("run_folder", metavar="RUN", nargs="?", default="runs/demo",
                      help="folder of the run; made if need be (default runs/demo)")  # fmt: skip
    _add_common(demo, "everything", text=False)


def _add_gates(commands: _Commands) -> None:
    gates = commands.add_parser(
        "gates",
        help="train one bilinear layer on logic gates and read them back from its weights",
        description="Trains one bilinear layer on eight logic gates and reads each back from its "
        "interaction matrices, with an untrained layer as the control.",
        epilog="example: circuits gates --seed 3 --json",
    )
    _add_common(gates, "the layer's start", text=False, device=False)


def _add_model(commands: _Commands) -> None:
    model = commands.add_parser(
        "model",
        help="train a bilinear transformer, describe one, or generate text",
        description="Trains a bilinear transformer, describes one, or generates text with one.",
        epilog="example: circuits model train runs/stories",
    )
    verbs = model.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train one, on the built-in stories or on text of your own",
        description="Trains a transformer into RUN/model, in the Hugging Face Llama format. After "
        "an interruption the same command resumes.",
        epilog="example: circuits model train runs/stories --seed 3",
    )
    _add_run(train, "folder of the run; made if it is not there")
    train.add_argument("--plan", metavar="FILE", help="JSON with the fields of a ModelPlan")
    train.add_argument("--steps", type=_whole, help="training steps (default: the plan's 700)")
    train.add_argument("--seed", type=_whole, help="of everything (default: the plan's 0)")
    _add_common(train)
    _add_model_use(verbs)


def _add_model_use(verbs: _Commands) -> None:
    info = verbs.add_parser(
        "info",
        help="layers, sizes, norm, activation, and where the hooks are",
        description="Loads a model, checks that it is bilinear, and describes it.",
        epilog="example: circuits model info runs/stories",
    )
    generate = verbs.add_parser(
        "generate",
        help="continue a text",
        description="Continues a text, with the likeliest words or at a temperature.",
        epilog="example: circuits model generate runs/stories 'the cake was not good so mia felt'",
    )
    for verb in (info, generate):
        verb.add_argument("model", metavar="MODEL", help="a run's or model's folder, or hub name")
        verb.add_argument(
            "--tokenizer", metavar="FOLDER", help="folder or hub name, in place of the model's own"
        )
    _add_common(info, text=False, device=False)
    generate.add_argument("prompt", help="the text to continue")
    _add_number(generate, "--tokens", 50, "at most")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: likeliest (default)")
    _add_common(generate, "the random draws", text=False)


def _add_sae(commands: _Commands) -> None:
    sae = commands.add_parser(
        "sae",
        help="train dictionaries at a model's sites, describe them, measure their quality",
        description="Trains, describes or measures sparse autoencoders at a model's sites.",
        epilog="example: circuits sae train runs/stories",
    )
    verbs = sae.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser(
        "train",
        help="train one for each of several sites, in one pass of the model",
        description="Trains TopK dictionaries into RUN/saes/<hook name>, in sae-lens' format. "
        "After an interruption the same command resumes.",
        epilog="example: circuits sae train runs/stories --sites mlp_in@0 mlp_out@0 --k 8",
    )
    _add_run(train, "folder of the run, with its model")
    train.add_argument("--sites", nargs="+", metavar="SITE", help="as mlp_in@0 mlp_out@0")
    train.add_argument("--features", type=_whole, help="of each (default: twice the site's width)")
    train.add_argument("--k", type=_whole, help="active on a token (default: the plan's 10)")
    train.add_argument("--tokens", type=_whole, help="to train on (default: the plan's 1,000,000)")
    train.add_argument("--plan", metavar="FILE", help="JSON with the fields of a TrainingPlan")
    train.add_argument("--seed", type=_whole, help="of everything (default: the plan's 0)")
    train.add_argument("--log", choices=("tensorboard", "wandb"), help="metrics go there as well")
    _add_common(train)
    _add_sae_use(verbs)


def _add_sae_use(verbs: _Commands) -> None:
    info = verbs.add_parser(
        "info",
        help="sites, sizes, how they were trained, how often features are active",
        description="Describes the dictionaries of a run, or one dictionary.",
        epilog="example: circuits sae info runs/stories",
    )
    info.add_argument("where", metavar="RUN", help="a run's or dictionary's folder, or hub name")
    _add_common(info, text=False, device=False)
    quality = verbs.add_parser(
        "quality",
        help="what is lost with a dictionary in place of its site, with controls",
        description="Measures every dictionary of a run on text it was not trained on: "
        "reconstruction, loss, and how well the pseudoinverse reads it.",
        epilog="example: circuits sae quality runs/stories --documents 500",
    )
    _add_run(quality, "folder of the run")
    _add_number(quality, "--documents", 1000, "to measure on")
    _add_common(quality, "text and controls")


def _add_interactions(commands: _Commands) -> None:
    command = commands.add_parser(
        "interactions",
        help="the strongest pairs of features of every output, with their significance",
        description="Writes RUN/interactions/layer-<i>.parquet: each output's strongest pairs of "
        "input features with weight, z and q against rotated features, and with --documents what "
        "they add on data. After an interruption the same command resumes.",
        epilog="example: circuits interactions runs/stories --documents 2000",
    )
    _add_run(command, "folder with model/ and saes/")
    _add_number(command, "--n", 16, "pairs of each output")
    _add_layers_and_reader(command, "how output features are read")
    command.add_argument("--documents", type=_whole, default=0,
                         help="to weigh pairs by (default: none; with --text 1000)")  # fmt: skip
    _add_number(command, "--q", 0.05, "of the summary")
    _add_common(command, "the stories")


def _add_find(commands: _Commands) -> None:
    command = commands.add_parser(
        "find",
        help="the circuit of a behaviour, or the most gate-like outputs of a layer",
        description="Finds the pairs of input features that carry a behaviour's contrast, their "
        "groups and gates, and whether the MLP computes or inherits it. Writes "
        "RUN/circuits/<behaviour>.json and .graphml. Without a behaviour, proposes circuits.",
        epilog="example: circuits find runs/stories --behaviour negation",
    )
    _add_run(command, "folder with model/ and saes/")
    command.add_argument("--behaviour", metavar="NAME",
                         help="negation, pronoun, but, or a JSONL file of cases")  # fmt: skip
    command.add_argument("--layer", type=_whole, help="(default: where most is computed)")
    _add_number(command, "--cases", 128, "minimal pairs of a built-in behaviour", metavar="PAIRS")
    _add_number(command, "--coverage", 0.9, "share of the contrast to carry")
    _add_number(command, "--pairs", 16, "at most")
    _add_number(command, "--proposals", 10, "circuits to propose without a behaviour")
    _add_common(command, "the cases", text=False)


def _add_validate(commands: _Commands) -> None:
    command = commands.add_parser(
        "validate",
        help="is a circuit the cause? exact edits of the model, with controls beside them",
        description="Removes, keeps and patches the circuits that were found for behaviours, on "
        "held-out cases, beside random pairs, other circuits and an untrained model. Writes "
        "RUN/circuits/<behaviour>.validation.json.",
        epilog="example: circuits validate runs/stories --circuit negation",
    )
    _add_run(command, "folder with circuits/")
    command.add_argument("--circuit", metavar="NAME", action="append",
                         help="only this one (repeatable; default: all of behaviours)")  # fmt: skip
    _add_number(command, "--draws", 10, "of random pairs, each of two kinds")
    _add_common(command, "controls and text")


def _add_rank(commands: _Commands) -> None:
    command = commands.add_parser(
        "rank",
        help="how well the top eigenvectors stand in for each output feature",
        description="Correlates every feature at mlp_out with what 1, 2, … eigenvectors of its "
        "form make of it, with controls, and measures the loss with all features truncated. Writes "
        "RUN/rank/layer-<i>.parquet and .json.",
        epilog="example: circuits rank runs/stories --reader encoder",
    )
    _add_run(command, "folder with model/ and saes/")
    command.add_argument("--circuit", metavar="NAME",
                         help="the outputs of this circuit, against its own pairs")  # fmt: skip
    _add_layers_and_reader(command, "whose row makes a feature's form")
    _add_number(command, "--documents", 1000, "to measure on")
    _add_number(
        command, "--min-active", 50, "features active on fewer are not counted", metavar="TOKENS"
    )
    _add_common(command, "text and controls")


def _add_report(commands: _Commands) -> None:
    command = commands.add_parser(
        "report",
        help="pages that open from disk, with no network: circuits, features, ranks, layers",
        description="Writes RUN/report/index.html and its files: all that the run's other commands "
        "made. Steps that are missing are listed with the command that makes them.",
        epilog="example: circuits report runs/stories --single-file",
    )
    _add_run(command, "folder with model/ and saes/")
    command.add_argument("--single-file", action="store_true",
                         help="one file, RUN/report.html, in place of a folder")  # fmt: skip
    command.add_argument("--out", metavar="FOLDER",
                         help="a new one, or a file's name (default: in RUN)")  # fmt: skip
    _add_common(command, "controls")


def _add_export(commands: _Commands) -> None:
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
    command.add_argument("--layer", type=_whole,
                         help="attribution: of a circuit whose file names no layer")  # fmt: skip
    command.add_argument("--scan", default="bilinear", help="attribution: name of the model")
    _add_common(command, text=False, device=False)


def _add_calibrate(commands: _Commands) -> None:
    command = commands.add_parser(
        "calibrate",
        help="what the graphs can and cannot detect at your sizes, on planted gates",
        description="Plants gates in layers of the sizes you give, at several signal-to-noise "
        "ratios, and reports how well edges and groups are found, beside layers without gates.",
        epilog="example: circuits calibrate --d-model 128 --features 1024 --gates 5 --snr 1 3",
    )
    _add_number(command, "--d-model", 64, "width")
    _add_number(command, "--features", 512, "")
    _add_number(command, "--gates", 3, "of each output")
    _add_number(command, "--outputs", 1, "of each layer")
    command.add_argument("--snr", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0],
                         help="norm of gates over that of noise (default 1 2 3 5)")  # fmt: skip
    _add_number(command, "--seeds", 5, "layers of each kind")
    _add_number(command, "--q", 0.05, "false discoveries")
    _add_common(command, "everything", text=False, device=False)


def _add_digits(commands: _Commands) -> None:
    command = commands.add_parser(
        "digits",
        help="the image case study: a classifier read from its weights, in one table",
        description="Trains a bilinear classifier of images, its twin without weight decay and a "
        "dictionary of what its layer writes, and prints what was measured beside its control. "
        "Drops are shares of the test images.",
        epilog="example: circuits digits --data mnist.npz --pictures eigenvectors.png",
    )
    command.add_argument("--data", metavar="PATH",
                         help="an .npz with x_train, y_train, x_test, y_test, a folder of IDX "
                         "files, or a hub data set (default: scikit-learn's digits)")  # fmt: skip
    kept = command.add_mutually_exclusive_group()
    kept.add_argument("--pictures", metavar="FILE", help="write eigenvectors as a PNG")
    kept.add_argument("--run", dest="run_folder", metavar="RUN",
                      help="keep it in this run, for a page of its report")  # fmt: skip
    _add_common(command, "everything", text=False, device=False)


def _add_completion(commands: _Commands) -> None:
    command = commands.add_parser(
        "completion",
        help="a script with which the shell completes commands, options and paths",
        description='Prints a script for the shell. For bash and zsh put eval "$(circuits '
        "completion bash)\" into ~/.bashrc, or zsh's into ~/.zshrc behind compinit; for fish "
        "circuits completion fish | source into ~/.config/fish/config.fish.",
        epilog="example: circuits completion bash",
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
