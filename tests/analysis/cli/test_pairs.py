"""Two commands at once in one run end, and answer, as if one had run after the other.

All commands that read or write a run are paired, also each with itself; but not two that only read,
since each of these is shown to leave the run as it is. `circuits demo` does the steps of the others
under one lock, and is left out.
"""

import random
import shutil
from collections.abc import Mapping
from functools import cached_property
from itertools import combinations_with_replacement
from pathlib import Path
from typing import NamedTuple

import pytest

from analysis.cli.options import parser, with_all_below
from circuits.storage.lock import locked
from tests.support.killed_commands import exit_status, started
from tests.support.writing_commands import (
    BEGINNING,
    LAYERED,
    LAYERED_FOUND,
    READING,
    WRITING,
    Scene,
    arguments,
    prepared,
    tree,
)

FOUND = Scene("", ("find RUN --behaviour IN/negation.jsonl --device cpu",))
COMMANDS = {
    **WRITING,
    **LAYERED,
    **READING,
    **{name: scene.command for name, scene in BEGINNING.items()},
}
BESIDE_LAYERED = ("find", "report", "verify")
PAIRS = [
    *combinations_with_replacement(sorted(WRITING), 2),
    *((name, other) for name in WRITING for other in READING),
    *((name, other) for name in BEGINNING for other in COMMANDS),
    *combinations_with_replacement(sorted(LAYERED), 2),
    *((name, other) for name in LAYERED for other in BESIDE_LAYERED),
]
ELSEWHERE = {"demo", "run", "gates", "completion"}
"""Of these the first two do what others do; the other two know no run."""
BETWEEN = {"export as tables", "verify"}
"""Two files are put in place one after the other, and `verify` may list the first one alone."""
DELAYS = (0.0, 0.03, 0.15)  # seconds that the second one starts later


class Ended(NamedTuple):
    """How a command ended: its exit status, and what a reader answered."""

    status: int
    answer: str


_Result = tuple[tuple[Ended, Ended], Mapping[str, bytes]]


class Place:
    """A run, made anew for each try."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.folder, self.place = folder, folder / "place"
        prepared(scene, self.place)
        shutil.copytree(self.place, folder / "kept" / "none")
        self.alone: dict[str, Ended] = {}

    @cached_property
    def before(self) -> Mapping[str, bytes]:
        """Its files."""
        return tree(self.folder / "kept" / "none")

    def anew(self, after: str = "none") -> None:
        """As it was kept, before any command or after one."""
        shutil.rmtree(self.place)
        shutil.copytree(self.folder / "kept" / after, self.place)

    def start(self, name: str, delay: float = 0.0, nth: int = 0) -> int:
        """A process that does a command."""
        answer = self.folder / f"{nth}.txt"
        answer.write_text("")
        return started(arguments(COMMANDS[name], self.place), delay, answer=answer)

    def end(self, name: str, process: int, nth: int = 0) -> Ended:
        """How it ended."""
        status = exit_status(process)
        said = (self.folder / f"{nth}.txt").read_text()
        return Ended(status, said if name in READING else "")

    def after(self, name: str) -> Ended:
        """How a command ends that runs alone; the files after it are kept."""
        if name not in self.alone:
            self.anew()
            self.alone[name] = self.end(name, self.start(name))
            shutil.copytree(self.place, self.folder / "kept" / name)
        return self.alone[name]

    def one_by_one(self, first: str, second: str) -> _Result:
        one = self.after(first)
        self.anew(first)
        return (one, self.end(second, self.start(second))), tree(self.place)

    def at_once(self, first: str, second: str, delay: float) -> _Result:
        self.anew()
        later = self.start(second, delay, 1)
        process = self.start(first)
        return (self.end(first, process), self.end(second, later, 1)), tree(self.place)

    def check(self, first: str, second: str, delays: tuple[float, ...]) -> None:
        there, (back, other) = self.one_by_one(first, second), self.one_by_one(second, first)
        orders = [there, (back[::-1], other)]
        assert all(99 > each.status >= 0 != 1 for ends, _ in orders for each in ends)
        for delay in delays:
            ends, files = found = self.at_once(first, second, delay)
            differing = [
                [name for name in files.keys() | known.keys() if files.get(name) != known.get(name)]
                for _, known in orders
            ]
            as_one = [] in differing if {first, second} == BETWEEN else found in orders
            assert as_one, (first, second, delay, ends, differing)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Mapping[str, Place]:
    scenes = {"found": FOUND, "layered": LAYERED_FOUND, **BEGINNING}
    return {name: Place(scenes[name], tmp_path_factory.mktemp("pairs")) for name in scenes}


@pytest.fixture(scope="module")
def place(places) -> Place:
    return places["found"]


def test_every_command_is_paired_or_knows_no_run():
    asked = {each.prog.removeprefix("circuits ") for each in with_all_below(parser())}
    paired = {" ".join(command.split(" RUN")[0].split()[:2]) for command in COMMANDS.values()}
    paired = {name if name in asked else name.split()[0] for name in paired}
    assert asked - {"circuits", "model", "sae"} == paired | ELSEWHERE


def test_two_commands_at_once_end_as_if_one_came_after_the_other(place):
    pairs = [(first, second) for first, second in PAIRS if first in WRITING]
    for first, second in random.Random(0).sample(pairs, 3):
        place.check(first, second, DELAYS[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_two_commands_at_once_end_as_if_one_came_after_the_other(first, second, places):
    place = places["layered" if first in LAYERED else "found"]
    places.get(first, place).check(first, second, DELAYS)


@pytest.mark.parametrize("name", sorted(READING))
def test_a_command_that_reads_leaves_the_run_as_it_is(name, place):
    place.after(name)
    assert tree(place.folder / "kept" / name) == place.before


@pytest.mark.parametrize("name", sorted(n for n in {**WRITING, **LAYERED} if "export" not in n))
def test_a_command_that_may_not_wait_is_refused_at_once(name, places):
    place = places["layered" if name in LAYERED else "found"]
    place.anew()
    with locked(place.place / "run", "circuits demo"):
        process = started([*arguments(COMMANDS[name], place.place), "--no-wait"])
        assert exit_status(process) == 2
    assert tree(place.place) == place.before
