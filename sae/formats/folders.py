"""A dictionary's folder: its layout recognised by its files, read, and written whole.

"Top-k" means three things: sae-lens, sparsify and dictionary_learning cut the selected values at
zero; the paper's format keeps negative ones; sparsify's ``signed`` (like sae-lens' ``abstopk``)
selects by absolute value, which is refused. No pickle is ever opened.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from circuits.errors import DictionaryError, ModelError
from circuits.storage.files import PLAN, RESULT, folder_written_whole, read_json
from sae.formats import circuit_tracer, dictionary_learning, published, sae_lens, sparsify
from sae.formats.record import Stored
from sae.statistics import Statistics

IN_RUN = "saes"
"""The folder of the dictionaries in a run."""

STATISTICS = "stats.safetensors"  # beside the weights


@dataclass(frozen=True)
class _Layout:
    """A way to store a dictionary: the files that show it, and how they are read and written."""

    config: str
    weights: str
    read: Callable[[Path], Stored]
    write: Callable[[Stored, Path], None]


LAYOUTS = {
    "sae-lens": _Layout("cfg.json", "sae_weights.safetensors", sae_lens.read, sae_lens.write),
    "published": _Layout("config.json", "model.safetensors", published.read, published.write),
    "sparsify": _Layout("cfg.json", "sae.safetensors", sparsify.read, sparsify.write),
    "dictionary_learning": _Layout(
        "config.json", "ae.safetensors", dictionary_learning.read, dictionary_learning.write
    ),
}
"""By the names that `Dictionary.save` takes; "circuit_tracer" is one more, of several to a
folder."""


def read(folder: Path) -> Stored:
    """A dictionary in any of the layouts, and its statistics if they are there."""
    try:
        if circuit_tracer.layers(folder if folder.is_dir() else folder.parent):
            return circuit_tracer.read(folder)
        layout = _layout(folder)
        stored, path = layout.read(folder), folder / STATISTICS
        found = None
        if path.exists():
            found = Statistics.read(path, stored.n_feature, folder / layout.weights)
    except ModelError as error:  # raised for any folder of weights
        raise DictionaryError(str(error)) from error
    return replace(stored, statistics=found)


def save(stored: Stored, folder: str | Path, layout: str = "sae-lens") -> Path:
    """A new folder of this dictionary and its statistics, whole or not at all; or one more layer
    of circuit-tracer's set, without them."""
    folder, known = Path(folder), ", ".join([*LAYOUTS, "circuit_tracer"])
    if layout == "circuit_tracer":
        circuit_tracer.add(stored, folder)
        return folder
    if layout not in LAYOUTS:
        raise DictionaryError(f"Dictionary.save: no format '{layout}'. Choose one of {known}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DictionaryError(f"{folder}: already exists. Name a new folder, or remove this one.")
    with folder_written_whole(folder) as files:
        write(stored, files, layout)
    return folder


def write(stored: Stored, folder: Path, layout: str = "sae-lens") -> None:
    """The files of a dictionary, into an existing folder."""
    LAYOUTS[layout].write(stored, folder)
    if stored.statistics is not None:
        stored.statistics.write(folder / STATISTICS, folder / LAYOUTS[layout].weights)


def is_dictionary(folder: Path) -> bool:
    """Whether a folder holds one dictionary, rather than a run."""
    names = {path.name for path in folder.iterdir()}
    one = any(names & {layout.config, layout.weights} for layout in LAYOUTS.values())
    return one or len(circuit_tracer.layers(folder)) == 1


def _layout(folder: Path) -> _Layout:
    """The layout of a folder, recognised by its files' names."""
    if not folder.is_dir():
        raise DictionaryError(f"{folder}: a file: pass the folder it is in.")
    names = {path.name for path in folder.iterdir()}
    if PLAN in names and RESULT not in names:
        raise DictionaryError(
            f"{folder}: its training has not finished. The same command, or the same call of "
            f"train_saes, resumes it; or remove the folder."
        )
    for layout in LAYOUTS.values():
        if {layout.config, layout.weights} <= names:
            # a language model's files have the same names as the paper's SAEs
            config = read_json(folder / layout.config, DictionaryError)
            if config.keys() & {"model_type", "n_layer"}:
                raise DictionaryError(
                    f"{folder}: a language model, not a dictionary. Load it with "
                    f"circuits.model.load_model."
                )
            return layout
    if {"config.json", "ae.pt"} <= names:
        return LAYOUTS["dictionary_learning"]
    if (folder / IN_RUN).is_dir():
        raise DictionaryError(
            f"{folder}: a run folder. Pass one of its saes, or pass it to load_dictionaries."
        )
    finished = "training finished here, but only " if RESULT in names else "it holds "
    pairs = [f"{layout.config} + {layout.weights}" for layout in LAYOUTS.values()]
    raise DictionaryError(
        f"{folder}: not a dictionary in a known layout ({finished}"
        f"{', '.join(sorted(names)[:6]) or 'nothing'}). It must have one of {', '.join(pairs)}: "
        f"copy the whole folder."
    )
