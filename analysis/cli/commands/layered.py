"""`circuits find|validate --across`: circuits through several layers; and what both kinds share."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from analysis.behaviour.cases import JSON_LINES, Behaviour
from analysis.cli.answers import Answer
from analysis.cli.commands.inputs import opened_run
from analysis.cli.layered_text import (
    layered_rows,
    layered_text,
    layered_validation_rows,
    layered_validation_text,
)
from analysis.runs.circuits import (
    Earlier,
    behaviour_of,
    run_find_layered,
    run_validate_layered,
)
from analysis.runs.folder import ByName
from analysis.runs.run import Run
from circuits.errors import NotFoundError, RunError
from circuits.model.site import mlp_sites
from circuits.plotting.display import shown
from circuits.storage.progress import progress


def find_layered(options: Namespace) -> Answer:
    """The circuit of a behaviour through all layers that have dictionaries."""
    for name, why in (("layer", "one layer"), ("proposals", "outputs of one layer")):
        if (given := getattr(options, name)) is not None:
            raise RunError(
                f"--across is for all layers and --{name} {given} for {why}. Leave one of them out."
            )
    if options.behaviour is None:
        raise RunError(
            "--across follows the contrast of a behaviour, and none was given. Name one: "
            "--behaviour negation, or a JSONL file of cases."
        )
    run = _several_layers(options)
    behaviour = asked_behaviour(options, run)
    earlier = Earlier.of(run, behaviour.name, across=True)
    try:
        circuit = run_find_layered(run, behaviour, coverage=options.coverage, n_pairs=options.pairs)
    except NotFoundError as answer:
        return not_found(answer, earlier)
    before, file = earlier.replaced_by(circuit), str(earlier.files.circuit)
    parts = [layered_text(circuit), *twin_text(run), before or "", file]
    rows: dict[str, Any] = {"found": True, "file": file, "replaced": before}
    text = "\n\n".join(part for part in parts if part)
    return Answer(text, rows | layered_rows(circuit) | twin_rows(run))


def validate_layered(options: Namespace) -> Answer:
    """Whether circuits through several layers are the cause of their behaviours."""
    for name in ("text", "column", "original"):
        if (given := getattr(options, name)) is not None:
            raise RunError(
                f"--{name} {given} is for circuits of one layer: those through several are tested "
                f"on the cases alone. Leave it or --across out."
            )
    run = _several_layers(options)
    names = named_circuits(options, run, run.layered_behaviours, " --across")
    found = [
        run_validate_layered(run, name, n_draws=options.draws, seed=options.seed)
        for name in progress(names, "validating", "circuit")
    ]
    rows = {"validations": [layered_validation_rows(each) for each in found]}
    return Answer("\n\n".join(map(layered_validation_text, found)), rows)


def _several_layers(options: Namespace) -> Run:
    """The run, refused where there is nothing across layers in it."""
    run = opened_run(options)
    if run.model.n_layer == 1:
        raise RunError(
            f"{run.folder}: its model has one layer, so no circuit goes across layers. Leave "
            f"--across out."
        )
    if len(there := run.layers) < 2:
        lacking = [layer for layer in range(run.model.n_layer) if layer not in there]
        sites = " ".join(str(site) for layer in lacking for site in mlp_sites(layer))
        which = f"only in layer {there[0]}" if there else "in no layer"
        raise RunError(
            f"{run.folder}: it has dictionaries before and after the MLP {which}, and a circuit "
            f"across layers needs those of two. Train them: circuits sae train {run.folder} "
            f"--sites {sites}; or leave --across out."
        )
    return run


def asked_behaviour(options: Namespace, run: Run) -> Behaviour:
    """The behaviour that was named."""
    return behaviour_of(
        options.behaviour,
        run.model,
        options.cases,
        options.seed,
        fresh_words=options.fresh_words,
    )


def not_found(answer: NotFoundError, earlier: Earlier) -> Answer:
    """Why nothing was found, and what is kept."""
    why, kept = str(answer), earlier.kept
    text = f"{why}\n\n{kept}" if kept else why
    return Answer(text, {"found": False, "why": why, "kept": kept})


def named_circuits(
    options: Namespace, run: Run, behaviours: ByName[Behaviour], across: str = ""
) -> list[str]:
    """The circuits that were named, by default all of a behaviour; refused where one is not
    there."""
    there = list(behaviours)
    names = options.circuit or there
    unknown = [repr(name) for name in names if name not in behaviours]
    if not unknown and names:
        return list(names)
    kind = "has no circuit across layers" if across else "has no circuit of a behaviour"
    what = " ".join([kind, ", ".join(unknown)]).strip()
    find_one = f"Find one: circuits find {run.folder} --behaviour negation{across}"
    if not run.knows_stories:
        find_one = (
            "Its model does not know the words of the built-in behaviours: write cases of your "
            f"own as {JSON_LINES}, then: circuits find {run.folder} --behaviour CASES.jsonl{across}"
        )
    other = run.behaviours if across else run.layered_behaviours
    if elsewhere := [name for name in names if name not in behaviours and name in other]:
        way = "leave --across out" if across else "add --across"
        raise RunError(
            f"{run.folder} {what}: {shown(elsewhere[0])} is one "
            f"{'of one layer' if across else 'through several layers'}. To test it, {way}."
        )
    known = f"Name one that it has: {', '.join(there)}" if there else find_one
    raise RunError(f"{run.folder} {what}. {known}")


def twin_text(run: Run) -> list[str]:
    """Whose twin the model is, if it is one."""
    label = run.model.label
    return [] if label is None else [f"The model is the {label.in_words}."]


def twin_rows(run: Run) -> dict[str, Any]:
    """The same for a script."""
    label = run.model.label
    return {} if label is None else {"twin": label.as_dict()}
