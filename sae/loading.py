"""Dictionaries on disk and on the hub: found, told apart by their files, read and written whole.

>>> load_dictionary("runs/stories/saes/blocks.0.mlp.hook_in")  # doctest: +SKIP
Dictionary(512 features of 64 at mlp_in@0, top 16)

What a reader would get wrong: no pickle is ever opened. A format whose own tools write one is read
from a safetensors file beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from circuits.errors import CircuitsError, DictionaryError, ModelError
from circuits.model.loading import chosen_device
from circuits.model.site import Site
from circuits.storage.files import folder_written_whole, read_json
from circuits.storage.hub import hub_place, model_folder
from circuits.storage.training_run import PLAN, RESULT
from sae.dictionary import Dictionary
from sae.formats.registry import LAYOUTS, Layout
from sae.statistics import Statistics

STATISTICS = "stats.safetensors"
"""The file beside the weights that holds the statistics of each feature."""


def load_dictionary(
    path: str | Path,
    *,
    site: Site | str | None = None,
    device: torch.device | str | None = None,
) -> Dictionary:
    """The dictionary in a folder, or in a folder of a name on the hub (``owner/name/folder``).

    Of sae-lens, the paper, sparsify or dictionary_learning, whichever its files are. ``site``
    says where it was trained if its files do not, or in other words than ours. Without ``device``
    it goes to the GPU where there is one.
    """
    place = None if isinstance(path, str) and Path(path).exists() else hub_place(path)
    folder = Path(path).expanduser() if place is None else model_folder(*place)
    layout = _layout(folder)
    try:
        dictionary = layout.read(folder)
        statistics = _statistics(folder, dictionary.n_feature)
    except ModelError as error:  # what is said of any folder of weights
        raise DictionaryError(str(error)) from error
    given = Site.parse(site) if isinstance(site, str) else site
    dictionary = replace(dictionary, site=given or dictionary.site, statistics=statistics)
    return dictionary.to(chosen_device(device))


def load_dictionaries(
    run: str | Path, *, device: torch.device | str | None = None
) -> dict[Site, Dictionary]:
    """All dictionaries of a run folder, or of its folder ``saes``, in the model's order."""
    run = Path(run).expanduser()
    if not run.is_dir():
        raise DictionaryError(f"{run}: no such folder. Pass a run folder, or the saes in one.")
    if (run / "saes").is_file():
        raise DictionaryError(
            f"{run / 'saes'}: is a file, not a folder of dictionaries. Remove it."
        )
    folder = run / "saes" if (run / "saes").is_dir() else run
    found: dict[Site, Dictionary] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith(".") or path.name == "model":
            continue
        dictionary = load_dictionary(path, device=device)
        site = dictionary.known_site("load_dictionaries")
        if path.name.startswith("blocks.") and path.name != site.hook_name:
            raise DictionaryError(
                f"{path}: holds a dictionary of {site}, whose folder is {site.hook_name}. The "
                f"folders were swapped or renamed; put each back in its place."
            )
        if site in found:
            raise DictionaryError(
                f"{folder}: two dictionaries of {site}, one of them in {path.name}. Load them one "
                f"by one with load_dictionary."
            )
        found[site] = dictionary
    if not found:
        raise DictionaryError(
            f"{folder}: no dictionaries in it. They are in folders such as "
            f"saes/blocks.0.mlp.hook_in, which training writes when it is done."
        )
    return {site: found[site] for site in sorted(found, key=lambda site: site.order)}


def save(dictionary: Dictionary, folder: str | Path, layout: str = "sae-lens") -> Path:
    """A new folder of this dictionary and its statistics; whole or not at all."""
    folder = Path(folder)
    if layout not in LAYOUTS:
        raise DictionaryError(
            f"Dictionary.save: no format '{layout}'. Choose of {', '.join(LAYOUTS)}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DictionaryError(f"{folder}: is there already. Name a new folder, or remove this one.")
    with folder_written_whole(folder) as files:
        write(dictionary, files, layout)
    return folder


def write(dictionary: Dictionary, folder: Path, layout: str = "sae-lens") -> None:
    """The files of a dictionary, into a folder that is there."""
    LAYOUTS[layout].write(dictionary, folder)
    if dictionary.statistics is not None:
        dictionary.statistics.write(folder / STATISTICS)


def _statistics(folder: Path, n_feature: int) -> Statistics | None:
    path = folder / STATISTICS
    return Statistics.read(path, n_feature) if path.exists() else None


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
