"""`circuits gates|calibrate|digits`: studies with a truth to compare with."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch

from analysis.cli.answers import Answer, aligned, lined, table_answer
from analysis.runs.folder import RunFolder
from analysis.runs.images import run_images
from analysis.runs.run import Run
from analysis.studies.images.data import open_images
from analysis.studies.images.measurements import measure, plan_for
from analysis.studies.images.pictures import check_picture, write_png
from analysis.studies.images.spectra import ClassSpectra
from analysis.studies.logic_gates import gate_report
from analysis.studies.planted import Planted
from analysis.studies.planted import calibrate as calibrated
from circuits.errors import PlanError


def gates(options: Namespace) -> Answer:
    """Logic gates, read back from the layer that learned them."""
    _, report = gate_report(seed=options.seed)
    shown = report.assign(right=[f"{row.rows_right}/{row.rows}" for row in report.itertuples()])
    columns = ["gate", "polynomial", "right", "off_by", "control", "error", "error_floor"]
    for column in columns[3:]:
        shown[column] = [f"{x:.0e}" if x < 1e-3 else f"{x:.2g}" for x in shown[column]]
    text = (
        "One bilinear layer, (Wx + b) * (Vx + c), was trained on eight gates of the bits a, b, c.\n"
        "Each gate below was then read from its interaction matrix: no input was run.\n\n"
        f"{aligned(shown[columns])}\n"
        "\noff_by: largest difference between this polynomial and the gate's own."
        "\ncontrol: the same for the layer before training."
        "\nerror: mean squared; error_floor is the least that any quadratic form can have, which is"
        "\n  above zero where a gate needs the product of three bits (and there 'right' may fail)."
        f"\nn = {int(report.rows[0])} rows, seed {options.seed}, torch {torch.__version__}"
    )
    return Answer(text, {"seed": options.seed, "gates": report.to_dict("records")})


def calibrate(options: Namespace) -> Answer:
    """What the graphs can and cannot see at some sizes, or in a run's dictionary."""
    shape = {"d_model": options.d_model, "n_feature": options.features}
    shape = {name: given for name, given in shape.items() if given is not None}
    if options.geometry is not None:
        shape["geometry"] = options.geometry
    features = None
    if options.run_folder is not None:
        if shape:
            raise PlanError(
                f"calibrate: {options.run_folder} has a dictionary of its own, so --d-model, "
                f"--features and --geometry cannot be given. Leave them out, or the run."
            )
        features = Run(options.run_folder, device="cpu").interactions(options.layer).inputs
        shape = {"d_model": features.d_model, "n_feature": features.n_feature}
    gates = {"n_gates": options.gates, "n_output": options.outputs, "made_of": options.made_of}
    sizes = Planted(**shape, **gates, seed=options.seed)
    whose = sizes.geometry if features is None else f"{options.run_folder}, layer {options.layer}"
    return table_answer(
        calibrated(sizes, options.snr, options.seeds, options.q, features),
        {"seed": options.seed, "q": options.q},
        f"d = {sizes.d_model}, {sizes.n_feature} features ({whose}), {options.gates} gates "
        f"({sizes.made_of}), q = {options.q:g}; n outputs, seeds from {options.seed}."
        "\nfalse: share of edges found that were not planted. named: share of planted pairs that"
        "\n  pass if they are named, which no search can exceed. ari: agreement of the groups."
        "\ngates: share named correctly. any: share of outputs with an edge; at most q in the last"
        "\n  four rows, which have no gates.",
    )


def digits(options: Namespace) -> Answer:
    """A classifier of images, read from its weights."""
    data = open_images(options.data)
    plan = replace(plan_for(data.train), seed=options.seed)
    pictures = options.pictures
    if options.run is not None:
        row = run_images(options.run, data, plan)
        row["folder"] = str(RunFolder(Path(options.run)).images)
    else:
        if pictures is not None:  # refused before the training
            check_picture(pictures, options.force)
            Path(pictures).parent.mkdir(parents=True, exist_ok=True)
        row, model = measure(data, plan)
        if pictures is not None:
            write_png(
                ClassSpectra.of(model).with_sign(data.train).sheet(), pictures, force=options.force
            )
            row["pictures"] = pictures
    about = {"data": data.name, "n_train": len(data.train), "n_test": len(data.test)}
    about |= {"d_hidden": plan.d_hidden, **row, "seed": options.seed, "torch": torch.__version__}
    text = lined({**about, "explanation_error": f"{row['explanation_error']:.1e}"})
    return Answer(text, about)
