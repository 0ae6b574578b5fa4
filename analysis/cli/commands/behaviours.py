"""`circuits behaviour`: cases of a behaviour, of a model's own words."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from analysis.behaviour.lexicon import LexiconBehaviour, behaviour_from_lexicon
from analysis.cli.answers import Answer, aligned
from analysis.cli.commands.inputs import opened_model
from analysis.runs.folder import in_shell
from circuits.errors import BehaviourError
from circuits.storage.files import read_json
from circuits.storage.limits import check_readable

_SHARES = ("right", "worst", "held-out right", "held-out worst")
_LABEL = """\
right: share of the cases of a frame in which the model is right, on the half of the words that
frames are chosen on; worst: in the class with the fewest right. held-out: the same on the other
half, which nothing was chosen on."""


def behaviour(options: Namespace) -> Answer:
    """A behaviour of a model's own words, and what was tried."""
    found = behaviour_from_lexicon(
        opened_model(options, options.device),
        options.kind,
        frames=None if options.frames is None else _frames(Path(options.frames)),
        words=None if options.words is None else _words(Path(options.words)),
        n=options.cases,
        shown=options.shown,
        seed=options.seed,
    )
    path = None
    if options.out is not None and found.behaviour is not None:
        path = str(found.behaviour.save(options.out, force=options.force))
    return Answer(_text(found, path), {"file": path, **found.as_dict()})


def _frames(path: Path) -> list[str]:
    """The lines of a file."""
    check_readable(path, BehaviourError)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BehaviourError(f"{path} cannot be read ({error}). Name a text file.") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise BehaviourError(f"{path} has no frames. Write one a line.")
    return found


def _words(path: Path) -> dict[str, list[str]]:
    """The lists of a JSON file."""
    given: Any = read_json(path, BehaviourError)
    if not all(isinstance(x, list) and all(isinstance(w, str) for w in x) for x in given.values()):
        raise BehaviourError(
            f'{path} is no JSON of lists of words. Write {{"girls": ["Lily", "Mia"], …}}.'
        )
    return dict(given)


def _text(found: LexiconBehaviour, path: str | None) -> str:
    """For a person: each frame, the words, and how many were kept."""
    shown = found.trials.copy()
    for name in _SHARES:
        shown[name] = [f"{x:.0%}" if x == x else "-" for x in shown[name]]
    shown["kept"] = ["yes" if kept else "no" for kept in shown["kept"]]
    columns = ["kept", "cases", *_SHARES[:2], "held-out cases", *_SHARES[2:], "frame"]
    words = [
        f"  {row['list']}: {row['kept']} of {row['tried']}"
        for row in found.words.to_dict("records")
    ]
    parts = [aligned(shown[columns]), _LABEL]
    untried = shown[shown["cases"] == 0]
    if reasons := [f"  {why}: {frame}" for why, frame in untried[["why not", "frame"]].to_numpy()]:
        parts.append("\n".join(["Not tried:", *reasons]))
    parts.append("\n".join(["Words that could be used:", *words]))
    parts += [f"note: {note}." for note in found.notes]
    parts.append(_summary(found, path))
    return "\n\n".join(parts)


def _summary(found: LexiconBehaviour, path: str | None) -> str:
    """How many frames are kept, and what their cases are like."""
    said = f"{found.n_kept} of {found.n_tried} frames kept"
    if found.behaviour is None:
        return (
            f"{said}: the model does not show {found.kind} in any of them, and there are no cases."
        )
    rows = found.classes.set_index("class")
    chosen, held_out = rows.loc["all", "right"], rows.loc["all", "held-out right"]
    worst = rows["held-out right"].idxmin()
    lines = [
        f"{said}, of seed {found.seed}. Right: {chosen:.1%} of {rows.loc['all', 'cases']} cases on "
        f"the words that frames were chosen on,\n{held_out:.1%} of "
        f"{rows.loc['all', 'held-out cases']} held-out cases, in the worst class ({worst}) "
        f"{rows['held-out right'].min():.1%}."
    ]
    if path is not None:
        lines.append(f"{path}\nnext: circuits find RUN --across --behaviour {in_shell(path)}")
    return "\n".join(lines)
