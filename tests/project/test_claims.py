"""Every number that README measured is a claim, and stands in the table that its command prints."""

import re
from pathlib import Path

import pytest

from benchmarks.claims import Claim, claims, numbers_in, run

ROOT = Path(__file__).parents[2]
CLAIMS = claims()
PARTS = set(re.findall(r'^    "([a-z-]+)": lambda', (ROOT / "benchmarks/__main__.py").read_text(),
                       re.MULTILINE))  # fmt: skip


def measured_rows() -> list[str]:
    """The rows of README's table, without links."""
    section = (ROOT / "README.md").read_text().split("## What was measured")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [re.sub(r"\]\([^)]*\)", "]", row) for row in rows]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_stands_where_it_says(claim):
    assert claim.part.split()[0] in PARTS
    measured = (ROOT / "docs/measured.md").read_text()
    assert claim.moved(claim.line_in(measured)) == []
    for place in claim.places:
        assert set(claim.numbers) <= set(numbers_in((ROOT / place).read_text()))


def test_every_number_that_readme_measured_is_a_claim():
    known = {number for claim in CLAIMS if "README.md" in claim.places for number in claim.numbers}
    for row in measured_rows():
        assert set(numbers_in(row)) <= known, row


def test_claims_have_names_of_their_own():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)


def test_numbers_end_before_a_comma_of_the_sentence():
    said = "49, nine of 1,040: 0.5, 2e-06 and −3"
    assert numbers_in(said) == ["49", "1,040", "0.5", "2e-06", "-3"]


def test_a_claim_that_moved_is_told(monkeypatch):
    known = [
        Claim("share", "core", "share of", ("0.58",)),
        Claim("time", "core", "seconds", ("10.0",), within=0.3),
        Claim("gone", "core", "no line", ("1",)),
    ]
    printed = "| share of | 0.57 |\n| seconds | 12.5 s |"
    monkeypatch.setattr("benchmarks.claims._printed", lambda _part: printed)
    rows = {row.split(" | ")[0].strip("| "): row for row in run(known).splitlines()[2:]}
    assert rows["share"].endswith("MOVED: 0.58 |")
    assert rows["time"].endswith("holds |")
    assert "no such line" in rows["gone"]
