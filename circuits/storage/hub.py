"""Names on the Hugging Face hub: asked for once, and given up within seconds.

The hub's own client tries again and again for minutes where there is no network, so a name is
first asked for with a time-out. What a reader would get wrong: looking up a host has no time-out
at all, which is why the question is put in a thread of its own.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from circuits.errors import HubError, first_line

HUB_SECONDS = 4.0
"""How long the hub may take to answer at all before its name is refused."""


_PART = r"[\w-][\w.-]*"


def is_hub_name(where: str | Path) -> bool:
    """Whether this has the form ``owner/name``; a path is never looked up."""
    return isinstance(where, str) and bool(
        re.fullmatch(f"{_PART}/{_PART}", where) and not Path(where).exists()
    )


def hub_place(where: str | Path) -> tuple[str, str] | None:
    """The name and the folder in it, of ``owner/name/folder/…``; None where that is a path.

    What lies below a folder of this machine is a path, though it may be mistyped.
    """
    if not isinstance(where, str) or not re.fullmatch(f"{_PART}(/{_PART})+", where):
        return None
    owner, name, *inside = where.split("/")
    return None if Path(owner).exists() else (f"{owner}/{name}", "/".join(inside))


def hub_revision(name: str, kind: Literal["model", "dataset"]) -> str:
    """The commit that a name stands for now, or a refusal within `HUB_SECONDS`."""
    answer: dict[str, Any] = {}

    def ask() -> None:
        from huggingface_hub import HfApi

        try:
            information = getattr(HfApi(), f"{kind}_info")(name, timeout=HUB_SECONDS - 1)
            answer["sha"] = information.sha
        except Exception as error:  # noqa: BLE001  whatever it is, it is told to the user below
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if "sha" in answer:
        return str(answer["sha"])
    error = answer.get("error", TimeoutError(f"no answer in {HUB_SECONDS:g} seconds"))
    raise HubError(
        f"'{name}' is no file or folder here, and the Hugging Face hub cannot be asked for a "
        f"{kind} of that name ({type(error).__name__}: {first_line(error)}). Without a network, "
        f"pass a local copy."
    ) from None


def dataset_table(name: str, split: str) -> pa.Table:
    """One split of a data set as its files hold it: nothing is decoded."""
    revision = hub_revision(name, "dataset")
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise HubError(
            f"data set '{name}', split '{split}', cannot be read from the hub: "
            f"{first_line(error)}. Check the split, or pass a local copy."
        ) from error
    return rows.data.table


def model_folder(name: str, inside: str = "") -> Path:
    """A model of the hub, or one folder of it, as a local folder.

    Of weights, configuration and tokenizer alone.
    """
    folder = _fetched(name, inside) / inside
    if not folder.is_dir():
        raise HubError(f"'{name}' on the hub has no folder '{inside}'. Look at its list of files.")
    return folder


def _fetched(name: str, inside: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        revision = hub_revision(name, "model")
    except HubError:
        try:  # what was fetched before is as good as the hub
            return Path(snapshot_download(name, local_files_only=True))
        except OSError:
            pass
        raise
    # no *.bin and no *.py: neither a pickle nor code is ever wanted
    below = f"{inside}/" if inside else ""
    wanted = [f"{below}{kind}" for kind in ("*.safetensors", "*.json", "*.txt", "*.model")]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except OSError as error:
        raise HubError(f"'{name}' cannot be fetched from the hub: {first_line(error)}.") from error
