"""Dictionaries from disk or the hub: one from its folder, or all those of a run.

>>> load_dictionary("runs/stories/saes/blocks.0.mlp.hook_in")  # doctest: +SKIP
Dictionary(512 features of 64 at mlp_in@0, top 16)
"""

from pathlib import Path

import torch

from circuits.arguments import checked
from circuits.errors import DictionaryError
from circuits.model.loading import chosen_device, ready_folder
from circuits.model.site import BySite, Site
from circuits.storage.hub import how_to_ask, hub_place, model_folder
from circuits.storage.limits import is_there
from circuits.storage.manifest import check_made
from sae.dictionary import Dictionary
from sae.formats import circuit_tracer, folders


@checked
def load_dictionary(
    path: str | Path, *, site: Site | str | None = None, device: torch.device | str | None = None
) -> Dictionary:
    """The dictionary in a folder, local or on the hub (``hub:owner/name/folder``), in any known
    layout; of circuit-tracer's sets, one layer's file.

    ``site`` is where it was trained, if its files do not say so. Without ``device`` it goes to the
    GPU if there is one.
    """
    place = hub_place(path)
    folder = Path(path).expanduser() if place is None else model_folder(*place)
    if not is_there(folder, DictionaryError):
        raise DictionaryError(f"{folder}: no such folder. {how_to_ask(path)}")
    check_made(folder)
    return dictionary_in(folder, site, device)


def dictionary_in(
    folder: Path, site: Site | str | None = None, device: torch.device | str | None = None
) -> Dictionary:
    """The dictionary in a folder, whatever a run knows of its files."""
    stored = folders.read(folder)
    given = Site.parse(site) if isinstance(site, str) else site
    parts = {**vars(stored), "site": given or stored.site}
    return Dictionary(**parts).to(chosen_device(device))


@checked
def load_dictionaries(
    run: str | Path, *, device: torch.device | str | None = None
) -> BySite[Dictionary]:
    """All dictionaries of a run folder, or of its folder ``saes`` or ``transcoders``, or all layers
    of circuit-tracer's set, in the model's order; or those of a model that comes with this package,
    by its name. A site or its text finds each: ``dictionaries["mlp_in@0"]``."""
    named, run = run, Path(run).expanduser()
    if not is_there(run, DictionaryError):
        run = ready_folder(named) or run
    inside = run / folders.IN_RUN
    folder = inside if inside.exists() else run
    if not folder.is_dir():
        found_there = "is a file" if folder.exists() else "no such folder"
        raise DictionaryError(f"{folder}: {found_there}. Pass a run folder, or the saes in one.")
    found: dict[Site, Dictionary] = {}
    for path in circuit_tracer.layers(folder) or sorted(filter(Path.is_dir, folder.iterdir())):
        if path.name.startswith(".") or path.name == "model":
            continue
        dictionary = load_dictionary(path, device=device)
        site = dictionary.read_site("load_dictionaries")
        if path.name.startswith("blocks.") and path.name != site.hook_name:
            raise DictionaryError(
                f"{path}: holds a dictionary of {site}, whose folder is {site.hook_name}. The "
                f"folders were swapped or renamed; rename them back."
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
            f"saes/blocks.0.mlp.hook_in, which training writes at its end."
        )
    return BySite(sorted(found.items(), key=lambda item: item[0].order))
