"""A dictionary's folder: its layout recognised by its files, read, and written whole.

No pickle is ever opened. A layout whose own tools write one is read from a safetensors file beside
it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from circuits.errors import CircuitsError, DictionaryError, ModelError
from circuits.storage.files import PLAN, RESULT, folder_written_whole, read_json
from sae.formats.record import Stored
from sae.formats.registry import LAYOUTS, Layout
from sae.statistics import Statistics

_STATISTICS = "stats.safetensors"  # beside the weights


def read(folder: Path) -> Stored:
    """A dictionary in any of the layouts, and its statistics if they are there."""
    layout = _layout(folder)
    try:
        stored = layout.read(folder)
        path = folder / _STATISTICS
        found = Statistics.read(path, stored.n_feature) if path.exists() else None
    except ModelError as error:  # raised for any folder of weights
        raise DictionaryError(str(error)) from error
    return replace(stored, statistics=found)


def save(stored: Stored, folder: str | Path, layout: str = "sae-lens") -> Path:
    """A new folder of this dictionary and its statistics; whole or not at all."""
    folder = Path(folder)
    if layout not in LAYOUTS:
        raise DictionaryError(
            f"Dictionary.save: no format '{layout}'. Choose of {', '.join(LAYOUTS)}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DictionaryError(f"{folder}: is there already. Name a new folder, or remove this one.")
    with folder_written_whole(folder) as files:
        write(stored, files, layout)
    return folder


def write(stored: Stored, folder: Path, layout: str = "sae-lens") -> None:
    """The files of a dictionary, into an existing folder."""
    LAYOUTS[layout].write(stored, folder)
    if stored.statistics is not None:
        stored.statistics.write(folder / _STATISTICS)


def is_dictionary(folder: Path) -> bool:
    """Whether a folder has the files of one dictionary, rather than a run's."""
    names = {path.name for path in folder.iterdir()}
    return any(names & {layout.config, layout.weights} for layout in LAYOUTS.values())


def _layout(folder: Path) -> Layout:
    """Of a folder, told by the names of its files alone."""
    if not folder.is_dir():
        reason = "a file: pass the folder it is in" if folder.exists() else "no such folder"
        raise DictionaryError(
            f"{folder}: {reason}, and not the form 'owner/name/folder' of a dictionary on the "
            f"Hugging Face hub. Check the path."
        )
    names = {path.name for path in folder.iterdir()}
    if PLAN in names and RESULT not in names:
        raise DictionaryError(
            f"{folder}: its training is not over. The same command, or the same call of "
            f"train_saes, goes on where it stopped; or remove the folder."
        )
    for layout in LAYOUTS.values():
        if {layout.config, layout.weights} <= names and not _is_model(folder, layout):
            return layout
    if {"config.json", "ae.pt"} <= names:
        return LAYOUTS["dictionary_learning"]
    if (folder / "saes").is_dir():
        raise DictionaryError(
            f"{folder}: a run folder. Pass one of its saes, or the whole to load_dictionaries."
        )
    pairs = [f"{layout.config} + {layout.weights}" for layout in LAYOUTS.values()]
    half = [
        f"{lone} without {other}"
        for layout in LAYOUTS.values()
        for lone, other in ((layout.weights, layout.config),)
        if lone in names and other not in names
    ]
    if RESULT in names:
        raise DictionaryError(
            f"{folder}: training ended here, but only {', '.join(sorted(names))} are left. Copy "
            f"the others back, or remove the folder and train again."
        )
    there = "; ".join(half) if half else f"files {', '.join(sorted(names)[:6]) or 'none'}"
    raise DictionaryError(
        f"{folder}: no dictionary that is known by its files ({there}). Wanted is one of "
        f"{', '.join(pairs)}: copy the whole folder."
    )


def _is_model(folder: Path, layout: Layout) -> bool:
    """Whether this is a language model's folder, which has the same names as the paper's SAEs."""
    if layout.weights != "model.safetensors":
        return False

    try:
        config = read_json(folder / layout.config, DictionaryError)
    except CircuitsError:
        return False
    if "model_type" in config or "n_layer" in config:
        raise DictionaryError(
            f"{folder}: a language model, not a dictionary. Load it with circuits.model.load_model."
        )
    return False
