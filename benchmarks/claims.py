"""What README's table says, beside what the benchmarks print today.

``docs/claims.toml`` lists the claims. Each names the command that prints it, a line of its output
by some words of that line, and the numbers as they stand there. Every command is run once, and
where its line has other numbers the claim has moved. Timings move from run to run: a claim with
``within`` may differ by that share.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Claim:
    """One line of a table that something is said of."""

    name: str
    part: str  # of `python -m benchmarks`, with its options
    line: str  # words that are in no other line of the output
    numbers: tuple[str, ...]  # as they are printed there
    places: tuple[str, ...] = ("docs/measured.md",)
    within: float = 0.0

    def line_in(self, text: str) -> str | None:
        """The line of a text that has the claim's words."""
        return next((line for line in text.splitlines() if self.line in line), None)

    def moved(self, line: str | None) -> list[str]:
        """The numbers that the line does not have, or none near enough."""
        found = [] if line is None else numbers_in(line)
        return [n for n in self.numbers if not any(self._near(n, other) for other in found)]

    def _near(self, one: str, other: str) -> bool:
        a, b = (float(n.replace(",", "")) for n in (one, other))
        return one == other or abs(a - b) <= self.within * abs(a)


def numbers_in(text: str) -> list[str]:
    """The numbers of a text, as they are written."""
    return _NUMBER.findall(text.replace("−", "-"))


def claims(path: Path = ROOT / "docs" / "claims.toml") -> list[Claim]:
    """The claims of a file."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    lists = ("numbers", "places")
    return [Claim(**{k: tuple(v) if k in lists else v for k, v in row.items()}) for row in rows]


def run(
    known: list[Claim] | None = None, folder: str | None = None, images: str | None = None
) -> str:
    """The table of all claims; takes hours, for it runs every benchmark that one is about.

    ``folder`` is where `circuits` keeps its models, so that it resumes; ``images`` is the file that
    the claims call by its name."""
    known = claims() if known is None else known
    printed = {}
    for part in dict.fromkeys(claim.part for claim in known):
        command = part.split()
        if folder is not None and command[0] == "circuits":
            command += ["--folder", folder]
        if images is not None:
            command = [images if word == Path(images).name else word for word in command]
        printed[part] = _printed(command)
    return table(list(_rows(known, printed)), ("claim", "command", "said", "printed", ""))


def _rows(known: list[Claim], printed: dict[str, str]) -> Iterator[tuple[str, ...]]:
    for claim in known:
        line = claim.line_in(printed[claim.part])
        moved = claim.moved(line)
        shown = "no such line" if line is None else ", ".join(numbers_in(line))
        said = ", ".join(claim.numbers)
        yield (
            claim.name,
            claim.part,
            said,
            shown,
            f"MOVED: {', '.join(moved)}" if moved else "holds",
        )


def _printed(command: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return done.stdout
