"""Names on the Hugging Face hub, which is asked only for what is written ``hub:owner/name``.

A name is looked up once in a thread, with a time-out of seconds, because the hub's client retries
for minutes without a network, and a DNS look-up has no time-out.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from circuits.errors import HubError, first_line

HUB_SECONDS = 4.0
"""How long the hub may take to answer before a name is refused."""

_PREFIX = "hub:"
_PART = r"[\w-][\w.-]*"


def hub_place(where: str | Path) -> tuple[str, str] | None:
    """Name and inner folder of ``hub:owner/name/folder/…``; None of anything else, which is a path
    even where it does not exist. The hub is not asked."""
    if not isinstance(where, str) or not where.startswith(_PREFIX):
        return None
    named = where.removeprefix(_PREFIX)
    if not re.fullmatch(f"{_PART}/{_PART}(/{_PART})*", named):
        raise HubError(
            f"'{where}' is not the name of something on the Hugging Face hub. Write hub:owner/name."
        )
    owner, name, *inside = named.split("/")
    return f"{owner}/{name}", "/".join(inside)


def hub_name(where: str | Path) -> str | None:
    """Like `hub_place`, of what has no inner folders: ``owner/name``, or None of a path."""
    name, inside = hub_place(where) or (None, "")
    if inside:
        raise HubError(f"'{where}' names a folder in '{name}', and only all of it can be read.")
    return name


def how_to_ask(where: str | Path) -> str:
    """The end of a message that refuses a path which does not exist, with its hub name if it could
    be one."""
    if isinstance(where, str) and re.fullmatch(f"{_PART}(/{_PART})+", where):
        return f"Check the path, or write {_PREFIX}{where} to ask the Hugging Face hub for it."
    return "Check the path; a name on the Hugging Face hub is written hub:owner/name."


def hub_revision(name: str, kind: Literal["model", "dataset"]) -> str:
    """The current commit of a name; refused if the hub does not answer within `HUB_SECONDS`."""
    answer: dict[str, Any] = {}

    def ask() -> None:
        from huggingface_hub import HfApi

        try:
            information = getattr(HfApi(), f"{kind}_info")(name, timeout=HUB_SECONDS - 1)
            answer["sha"] = information.sha
        except Exception as error:  # noqa: BLE001  whatever it is, it is reported below
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if "sha" in answer:
        return str(answer["sha"])
    error = answer.get("error", TimeoutError(f"no answer in {HUB_SECONDS:g} seconds"))
    raise HubError(
        f"the Hugging Face hub cannot be asked for a {kind} named '{name}' "
        f"({type(error).__name__}: {first_line(error)}). Without a network, pass a local copy."
    ) from None


def dataset_table(name: str, split: str) -> pa.Table:
    """One split of a data set as stored in its files, not decoded."""
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
    """Weights, configuration and tokenizer of a model of the hub, or of one folder of it."""
    folder = _fetched(name, inside) / inside
    if not folder.is_dir():
        raise HubError(
            f"'{name}' on the hub has no folder '{inside}'. See its list of files on the hub."
        )
    return folder


def name_of(folder: Path) -> str:
    """``owner/name`` of a folder that was fetched from the hub, and the name of any other one."""
    folder = folder.resolve()
    for inner in (folder, *folder.parents):
        # the cache of the hub's client: models--owner--name/snapshots/<commit>
        if inner.parent.name == "snapshots" and inner.parent.parent.name.startswith("models--"):
            owner_and_name = inner.parent.parent.name.removeprefix("models--").replace("--", "/")
            return "/".join([owner_and_name, *folder.relative_to(inner).parts])
    return folder.name


def _fetched(name: str, inside: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        revision = hub_revision(name, "model")
    except HubError:
        try:  # an earlier download will do
            return Path(snapshot_download(name, local_files_only=True))
        except OSError:
            pass
        raise
    # no *.bin and no *.py: never a pickle, never code
    below = f"{inside}/" if inside else ""
    wanted = [f"{below}{kind}" for kind in ("*.safetensors", "*.json", "*.txt", "*.model")]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except OSError as error:
        raise HubError(f"'{name}' cannot be fetched from the hub: {first_line(error)}.") from error
