"""The licence of everything that an installation brings with it: writes docs/licences.md.

Read from the packages that are installed here, so of this platform; a package for a GPU, which is
not installed on every machine, is missing where it is not.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parent / "licences.md"
_HEAD = """# Licences

What `pip install bilinear-circuits` brings with it, and under which licence, as each package's own
metadata says. Written by `make licences`.

| package | licence | |
|---|---|---|
"""


def needed(name: str) -> dict[str, Distribution]:
    """The installed distributions that one needs, directly or not, by their canonical names."""
    found: dict[str, Distribution] = {}
    waiting = [(name, "")]
    seen = set()
    while waiting:
        if (asked := waiting.pop()) in seen:
            continue
        seen.add(asked)
        try:
            found[asked[0]] = distribution(asked[0])
        except PackageNotFoundError:  # of another platform
            continue
        for requirement in map(Requirement, found[asked[0]].requires or []):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": asked[1]}):
                below = canonicalize_name(requirement.name)
                waiting += [(below, extra) for extra in ("", *requirement.extras)]
    del found[name]
    return found


def licence(package: Distribution) -> str:
    """The licence that a package's metadata names."""
    about = package.metadata
    classifiers = [
        each.split(" :: ")[-1]
        for each in about.get_all("Classifier") or []
        if each.startswith("License :: ") and each != "License :: OSI Approved"
    ]
    text = about["License"] or ""
    short = text.strip().splitlines()[0] if text.strip() and len(text) < 200 else ""
    named = about["License-Expression"] or ", ".join(classifiers) or short
    return (named or "not named in its metadata").replace("|", "/")


def table() -> str:
    """The whole page."""
    own = distribution("bilinear-circuits").requires or []
    direct = {canonicalize_name(Requirement(each).name) for each in own if "extra ==" not in each}
    rows = [
        f"| {name} | {licence(package)} | {'imported here' if name in direct else ''} |"
        for name, package in sorted(needed("bilinear-circuits").items())
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8", newline="\n")
