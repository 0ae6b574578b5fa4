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
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


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
