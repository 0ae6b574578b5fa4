"""Every command and option of `circuits`, and their help.

A new command is one paragraph of the table here, and one function in `analysis.cli.commands`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, NoReturn

_Commands = argparse._SubParsersAction
_Parser = argparse.ArgumentParser

_DEVICE = "  --device                    cpu or cuda (default: a GPU where there is one)"
_TEXT = f"""\
  --text PATH                 file, folder or hub:owner/name (default: the built-in stories)
  --column                    the column of the text, if it is not called text
{_DEVICE}"""
_WAIT = "  --no-wait flag              fail at once if another command works in the run"
_PRECISION = """\
  --precision auto|float32|bfloat16 = auto  of matrix products (auto: bfloat16 where it is faster)
  --rows-at-once int          rows of a step that are computed together, to save memory"""
_MODEL = """\
  model MODEL                 a run's or model's folder, or hub:owner/name
  --tokenizer FOLDER          folder or hub:owner/name, in place of the model's own"""

# A command's name and help, its description, an example, and, indented, its options: the name, a
# type, choices or what the value is called, "..." where there may be several, and the default.
# Of the options marked "either" at most one can be given.
_COMMANDS = f"""
demo: all steps: model, dictionaries, the negation circuit, its validation, a report
Trains a bilinear transformer on built-in stories and its dictionaries, finds and validates the
circuit that reads 'not good', measures how far two eigenvectors go, and writes the report. Run
again, it does only what is missing or changed.
example: circuits demo runs/demo --seed 3
  run_folder RUN = runs/demo  folder of the run; made if it is not there
  --two-layers flag           the circuit through two layers that tells a lie from a lie about one
  --seed int = 0              of everything
{_DEVICE}
{_WAIT}

run: all steps for a model of your own: twin, dictionaries, circuits, report
Makes the bilinear twin of a gated model (a bilinear one is copied), trains dictionaries before and
after every MLP, lists the strongest pairs, finds and validates the circuits of behaviours through
all layers (or proposes some from the weights), measures ranks, and writes the report. After an
interruption the same command resumes; run again, it does only what is missing or changed.
example: circuits run path/to/llama runs/mine --text stories.txt --behaviour cases.jsonl
  model MODEL                 folder or hub:owner/name of a Llama, Mistral or Qwen2
  run_folder RUN              folder of the run; made if it is not there
  --text PATH                 file, folder or hub:owner/name of text like the model's own
  --column                    the column of the text, if it is not called text
  --behaviour NAME repeatable  a JSONL file of cases (repeatable)
  --twin-plan FILE            JSON with the fields of a TwinPlan
  --plan FILE                 JSON with the fields of a TrainingPlan, for dictionaries
  --features int              of each dictionary (default: twice the site's width; at mlp_in once)
  --k int                     active on a token (default: the plan's 10)
  --tokens int                to train dictionaries on (default: the plan's 1,000,000)
  --seed int                  of everything (default: the plans', and 0)
{_DEVICE}
{_WAIT}

gates: train one bilinear layer on logic gates and read them back from its weights
Trains one bilinear layer on eight logic gates and reads each back from its interaction matrices,
with an untrained layer as the control.
example: circuits gates --seed 3 --json
  --seed int = 0              of the layer's initial weights

model: train a bilinear transformer or make one of a gated model, describe it, generate text
Trains a bilinear transformer, makes one of a pretrained gated model, describes one, or generates
text with one.
example: circuits model train runs/stories

model train: train one, on the built-in stories or on text of your own
Trains a transformer into RUN/model, in the Hugging Face Llama format. After an interruption the
same command resumes.
example: circuits model train runs/stories --seed 3
  run_folder RUN              folder of the run; made if it is not there
  --plan FILE                 JSON with the fields of a ModelPlan
  --lies flag                 the built-in stories with lies, and lies about lies
  --steps int                 training steps (default: the plan's 700)
  --seed int                  of everything (default: the plan's 0)
{_PRECISION}
{_TEXT}
{_WAIT}

model twin: make a gated model (SwiGLU, GEGLU, ReGLU) bilinear, and say what that cost
Replaces the gates of a pretrained model by straight lines, fits each MLP alone and trains the whole
on, in RUN/model: its bilinear twin, with the loss of both on held-out text. After an interruption
the same command resumes.
example: circuits model twin path/to/llama runs/twin --text stories.txt
  original MODEL              folder or hub:owner/name of a Llama, Mistral or Qwen2
  run_folder RUN              folder of the run; made if it is not there
  --text PATH                 file, folder or hub:owner/name of text like the model's own
  --column                    the column of the text, if it is not called text
  --self-written int N        and texts that the original writes (without --text: 2000)
  --plan FILE                 JSON with the fields of a TwinPlan
  --remove-norms flag         fade the norms into fixed scales as well
  --steps int                 of the whole model (default: the plan's 2000); to fit less, see --plan
  --seed int                  of everything (default: the plan's 0)
  --tokenizer FOLDER          folder or hub:owner/name, in place of the model's own
{_PRECISION}
{_DEVICE}
{_WAIT}

model ready: a real model that comes with this package, with its dictionaries, in a new run
Copies the model to RUN/model, its dictionaries to RUN/saes, and some text for it to RUN/text.
example: circuits model ready stories260K-bilinear runs/real
  name NAME                   stories260K-bilinear
  run_folder RUN              folder of the run; made if it is not there
{_WAIT}

model info: layers, sizes, norm, activation, and where the hooks are
Loads a model, checks that it is bilinear, and describes it.
example: circuits model info runs/stories
{_MODEL}

model generate: continue a text
Continues a text, with the likeliest words or at a temperature.
example: circuits model generate runs/stories 'the cake was not good so mia felt'
{_MODEL}
  prompt                      the text to continue
  --tokens int = 50           at most
  --temperature float = 0.0   0: likeliest (default)
  --seed int = 0              of the random draws
{_DEVICE}

behaviour: cases of a behaviour, of a model's own words, in frames that it gets right
Builds negation, pronoun, number, opposites or induction of words that the model's tokenizer has,
keeps the frames in which the model is right in every class of one half of the words, and measures
them on the other half. Prints what was tried; --out keeps the cases for circuits find --behaviour.
example: circuits behaviour runs/real pronoun --out cases.jsonl
  model MODEL                 a run's or model's folder, or hub:owner/name
  kind negation|pronoun|number|opposites|induction  what the cases are of
  --out FILE                  write the cases there, as JSONL
  --force flag                overwrite a FILE that has no cases
  --cases int PAIRS = 400     minimal pairs, at most
  --shown float = 0.75        share right that a frame needs in every class
  --frames FILE               frames in place of the ready ones, one a line
  --words FILE                JSON of lists of words, in place of the ready ones of those names
  --tokenizer FOLDER          folder or hub:owner/name, in place of the model's own
  --seed int = 0              of the words and pairs
{_DEVICE}

sae: train dictionaries at a model's sites, describe them, measure their quality
Trains, describes or measures sparse autoencoders at a model's sites.
example: circuits sae train runs/stories

sae train: train one for each of several sites, in one pass of the model
Trains TopK dictionaries into RUN/saes/<hook name>, in sae-lens' format. After an interruption the
same command resumes. With --target they are transcoders, in RUN/transcoders/<hook name>: features
that read a site (mlp_in@0, unless named) and write the target of its layer.
example: circuits sae train runs/stories --sites mlp_in@0 mlp_out@0 --k 8
  run_folder RUN              folder of the run, with its model
  --sites SITE ...            as mlp_in@0 mlp_out@0
  --target POINT              transcoders that write there, as mlp_out
  --features int              of each (default: twice the site's width; at mlp_in once)
  --k int                     active on a token (default: the plan's 10)
  --tokens int                to train on (default: the plan's 1,000,000)
  --plan FILE                 JSON with the fields of a TrainingPlan
  --seed int                  of everything (default: the plan's 0)
  --log tensorboard|wandb     metrics go there as well
{_TEXT}
{_WAIT}

sae info: sites, sizes, how they were trained, how often features are active
Describes the dictionaries of a run and its transcoders, or one dictionary.
example: circuits sae info runs/stories
  where RUN                   a run's or dictionary's folder, or hub:owner/name/folder

sae quality: what is lost with a dictionary in place of its site, with controls
Measures every dictionary of a run on text it was not trained on: reconstruction, loss, and how
well the pseudoinverse reads it. A transcoder is compared with what it replaces.
example: circuits sae quality runs/stories --documents 500
  run_folder RUN              folder of the run
  --documents int = 1000      to measure on
  --seed int = 0              of text and controls
{_TEXT}

interactions: the strongest pairs of features of every output, with their significance
Writes RUN/interactions/layer-<i>.parquet: each output's strongest pairs of input features with
weight, z and q against rotated features, and with --documents what they add on data. After an
interruption the same command resumes.
example: circuits interactions runs/stories --documents 2000
  run_folder RUN              folder with model/ and saes/
  --n int = 16                pairs of each output
  --layer int repeatable      only this one (repeatable)
  --reader pinv|encoder = pinv  how output features are read
  --documents int = 0         to count active pairs on (default: 0, or 1000 with --text)
  --q float = 0.05            false discovery rate of the printed summary
  --seed int = 0              of the stories
{_TEXT}
{_WAIT}

find: the circuit of a behaviour, or the most gate-like outputs of a layer
Finds the pairs of input features that carry a behaviour's contrast, their groups and gates, and
whether the MLP computes or inherits it. Writes RUN/circuits/<behaviour>.json and .graphml.
With --across the circuit goes through all layers, to RUN/layered. Without a behaviour, proposes
circuits.
example: circuits find runs/stories --behaviour negation
  run_folder RUN              folder with model/ and saes/
  --behaviour NAME            negation, pronoun, but, lies, or a JSONL file of cases
  --layer int                 (default: where most is computed)
  --across flag               through all layers that have dictionaries
  --cases int PAIRS           minimal pairs of a built-in behaviour (default: 400)
  --fresh-words flag          hold out pairs of other words than the circuit is chosen on
  --coverage float = 0.9      share of the contrast to carry
  --pairs int                 at most (default: 16; across layers 48 of each)
  --proposals int             to list where no behaviour is given (default: 10)
  --seed int = 0              of the cases
{_DEVICE}
{_WAIT}

validate: is a circuit the cause? exact edits of the model, with controls beside them
Removes, keeps and patches the circuits that were found for behaviours, on held-out cases, beside
random pairs, other circuits and an untrained model. Writes
RUN/circuits/<behaviour>.validation.json. With --across those through several layers, each edit
with attention as it was (frozen) and free.
example: circuits validate runs/stories --circuit negation
  run_folder RUN              folder with circuits/
  --circuit NAME repeatable   only this one (repeatable; default: all found for behaviours)
  --across flag               circuits through several layers, in RUN/layered
  --draws int = 10            sets of random pairs, as controls, of each of two kinds
  --original MODEL            of a twin: its gated original, whose same features are removed too
  --seed int = 0              of controls and text
{_TEXT}
{_WAIT}

rank: how well the top eigenvectors stand in for each output feature
Correlates every feature at mlp_out with its approximation by 1, 2, … eigenvectors, beside controls,
and measures the loss with all features truncated. Writes RUN/rank/layer-<i>.parquet and .json.
example: circuits rank runs/stories --reader pinv
  run_folder RUN              folder with model/ and saes/
  --circuit NAME              the outputs of this circuit, against its own pairs
  --layer int repeatable      only this one (repeatable)
  --reader pinv|encoder = encoder  whose row makes a feature's form
  --documents int = 1000      to measure on
  --min-active int TOKENS = 50  features active on fewer are not counted
  --seed int = 0              of text and controls
{_TEXT}
{_WAIT}

trace: how one text's answer is made, from its logit through every layer to the tokens
Traces the logits after a text back through the features of every layer's mlp_out dictionary, and
writes the nodes and gates of most influence to RUN/traces/<name>.json and .graphml, and a page that
shows them: <name>.html. Each node's gates sum to its value.
example: circuits trace runs/stories 'the cake was not good so mia felt' --targets unhappy
  run_folder RUN              folder with model/ and saes/
  prompt TEXT                 the text, whose next token is explained
  --targets WORD ...          words that may follow, by their first token (default: the likeliest)
  --against WORD ...          whose mean logit is subtracted from each target's
  --nodes int = 200           of most influence, to keep
  --gates int = 500           of most influence, to keep
  --followed int = 512        features of each layer that are traced further back
  --name                      of the files (default: from the text)
  --attribution FOLDER        write circuit-tracer's JSON there as well
  --force flag                overwrite files of other kinds in that folder
{_DEVICE}
{_WAIT}

report: pages that open from disk, with no network: circuits, features, ranks, layers
Writes RUN/report/index.html and its files: all that the run's other commands made. Steps that are
missing are listed with the command that makes them.
example: circuits report runs/stories --single-file
  run_folder RUN              folder with model/ and saes/
  --single-file flag          one file, RUN/report.html, in place of a folder
  --out FOLDER                a new one, or a file's name (default: in RUN)
  --force flag                overwrite what is there and is no report, or an edited one
  --seed int = 0              of controls
{_TEXT}
{_WAIT}

verify: is every file of a run as it was made?
Compares each file of the run with the size and hash that its step noted, and lists those that were
edited, damaged or removed with the command that makes them again.
example: circuits verify runs/demo
  run_folder RUN              folder of the run

export: a circuit for Gephi, Cytoscape, circuit-tracer, Neuronpedia or pandas
Writes a circuit's file in another tool's format.
example: circuits export runs/stories/circuits/negation.json --format gexf
  circuit CIRCUIT             a circuit's .json
  --format graphml|gexf|attribution|tables = graphml  attribution: circuit-tracer's JSON
  --out FOLDER                (default: beside the circuit)
  --force flag                overwrite files of other kinds
  --layer int                 attribution: of a circuit whose file names no layer
  --scan = bilinear           attribution: name of the model

calibrate: what the graphs can and cannot detect in your dictionary, on planted gates
Plants gates in layers over a run's own dictionary, or over random features of the sizes you give,
at several signal-to-noise ratios, and reports how well edges and groups are found, beside layers
without gates.
example: circuits calibrate runs/demo --snr 3 10
  run_folder optional RUN     a run, whose dictionary of the MLP's input is used
  --layer int = 0             of the run
  --d-model int               width, without a run (default: 64)
  --features int              without a run (default: 512)
  --geometry NAME             shape of random features (default: even; a wrong one lists all)
  --made-of written|readers = written  of what gates are products
  --gates int = 3             of each output
  --outputs int = 1           of each layer
  --snr float ... = 1 2 3 5   norm of gates over that of noise
  --seeds int = 5             layers of each kind
  --q float = 0.05            false discoveries
  --seed int = 0              of everything

digits: the image case study: a classifier read from its weights, in one table
Trains a bilinear classifier of images, its twin without weight decay and a dictionary of what its
layer writes, and prints what was measured beside its control. Drops are shares of the test
images.
example: circuits digits --data mnist.npz --pictures eigenvectors.png
  --data PATH                 an .npz with x_train, y_train, x_test, y_test, a folder of IDX \
files, or hub:owner/name (default: scikit-learn's digits)
  --seed int = 0              of everything
  --pictures either FILE      write eigenvectors as a PNG
  --force flag                overwrite a FILE that is no such picture
  --run either RUN            keep it in this run, for a page of its report
{_WAIT}

completion: a script with which the shell completes commands, options and paths
Prints a script for the shell. For bash and zsh put eval "$(circuits completion bash)" into
~/.bashrc, or zsh's into ~/.zshrc behind compinit; for fish circuits completion fish | source into
~/.config/fish/config.fish.
example: circuits completion bash
  shell bash|zsh|fish         which shell
"""


class _OneLine(argparse.ArgumentParser):
    """A parser that refuses in one line, as the commands do."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where the help is; the exit status is 2."""
        self.exit(2, f"{self.prog}: {message}. All options: {self.prog} --help\n")

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """Refuse unknown arguments here, where it is known whose options these could be."""
        found, unknown = super().parse_known_args(*given, **named)
        if unknown:
            near = get_close_matches(unknown[0].split("=")[0], self._option_string_actions, 1, 0.8)
            meant = f". Did you mean {near[0]}?" if near else "."
            self.exit(2, f"{self.prog}: unrecognized arguments: {' '.join(unknown)}{meant} "
                         f"All options: {self.prog} --help\n")  # fmt: skip
        return found, unknown


def parser() -> _Parser:
    """All commands and their options."""
    whole = _OneLine(
        prog="circuits",
        description="Circuits between dictionary features, from a bilinear model's weights.",
        epilog="example: circuits demo",
    )
    whole.add_argument("--version", action="version", version=version("bilinear-circuits"))
    verbs = {"": whole.add_subparsers(dest="command", required=True, metavar="COMMAND")}
    for paragraph in _COMMANDS.strip().split("\n\n"):
        lines = paragraph.splitlines()
        title, *about, example = (line for line in lines if not line.startswith(" "))
        options = [line for line in lines if line.startswith(" ")]
        name, _, help = title.partition(": ")
        above, _, last = name.rpartition(" ")
        command = verbs[above].add_parser(
            last, help=help, description=" ".join(about), epilog=example
        )
        if not options:
            verbs[name] = command.add_subparsers(dest="verb", required=True, metavar="VERB")
            continue
        either = [option for option in options if "either" in _spec(option)[0]]
        one_of = command.add_mutually_exclusive_group() if either else command
        for option in options:
            _add_option(one_of if option in either else command, option)
        if name != "completion":  # which prints a script
            command.add_argument("--json", action="store_true", help="print JSON instead")
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
    if not text.isdecimal() or len(text) > 19 or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from 0 to 2^63 - 1")
    return int(text)


_TYPES: dict[str, Any] = {"int": _whole, "float": float}
_ACTIONS = {"flag": "store_true", "repeatable": "append"}


def _spec(line: str) -> tuple[list[str], str, str]:
    """An option's words, its default and its help."""
    spec, _, help = line.strip().partition("  ")
    spec, _, default = spec.partition(" = ")
    return spec.split(), default, help


def _add_option(command: Any, line: str) -> None:
    """An option of a line of the table."""
    (name, *words), default, help = _spec(line)
    how: dict[str, Any] = {}
    for word in words:
        if word in _TYPES:
            how["type"] = _TYPES[word]
        elif word in _ACTIONS:
            how["action"] = _ACTIONS[word]
        elif word == "optional":
            how["nargs"] = "?"
        elif word == "...":
            how["nargs"] = "+"
        elif "|" in word:
            how["choices"] = word.split("|")
        elif word.isupper():
            how["metavar"] = word
        elif word != "either":
            raise ValueError(f"unknown word {word!r} in the table of options: {line}")
    if default:
        values = [how.get("type", str)(each) for each in default.split()]
        how["default"] = values if "nargs" in how else values[0]
        if not name.startswith("-"):
            how["nargs"] = "?"
        if "default" not in help:
            help += f" (default {default})"
    command.add_argument(name, help=help.strip(), **how)
