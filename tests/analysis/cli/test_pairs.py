"""Two commands at once in one run end as if one had run after the other."""

import random
import shutil
from collections.abc import Mapping
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from circuits.storage.lock import locked
from tests.support.killed_commands import exit_status, run_command, started
from tests.support.writing_commands import WRITING, Scene, arguments, prepared, tree

PAIRS = list(combinations_with_replacement(sorted(WRITING), 2))
DELAYS = (0.0, 0.03, 0.15)  # seconds that the second one starts later

_Result = tuple[tuple[int, ...], Mapping[str, bytes]]


class Place:
    """A run with a circuit in it, made anew for each try."""

    def __init__(self, folder: Path) -> None:
        self.place, self.kept = folder / "place", folder / "kept"
        prepared(Scene("", ("find RUN --behaviour IN/negation.jsonl --device cpu",)), self.place)
        shutil.copytree(self.place, self.kept)

    def anew(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.kept, self.place)

    def one_by_one(self, first: str, second: str) -> _Result:
        self.anew()
        done = {}
        for name in (first, second):
            done[name] = run_command(arguments(WRITING[name], self.place))[0]
        return (done[first], done[second]), tree(self.place)

    def at_once(self, first: str, second: str, delay: float) -> _Result:
        self.anew()
        later = started(arguments(WRITING[second], self.place), delay)
        process = started(arguments(WRITING[first], self.place))
        return (exit_status(process), exit_status(later)), tree(self.place)

    def check(self, first: str, second: str, delays: tuple[float, ...]) -> None:
        there, (back, other) = self.one_by_one(first, second), self.one_by_one(second, first)
        orders = [there, (back[::-1], other)]
        assert all(status == 0 for statuses, _ in orders for status in statuses)
        for delay in delays:
            statuses, files = found = self.at_once(first, second, delay)
            differing = [
                [name for name in files.keys() | known.keys() if files.get(name) != known.get(name)]
                for _, known in orders
            ]
            assert found in orders, (first, second, delay, statuses, differing)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("pairs"))


def test_two_commands_at_once_end_as_if_one_came_after_the_other(place):
    for first, second in random.Random(0).sample(PAIRS, 3):
        place.check(first, second, DELAYS[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_two_commands_at_once_end_as_if_one_came_after_the_other(first, second, place):
    place.check(first, second, DELAYS)


@pytest.mark.parametrize("name", sorted(WRITING))
def test_a_command_that_may_not_wait_is_refused_at_once(name, place):
    place.anew()
    before = tree(place.place)
    with locked(place.place / "run", "circuits demo"):
        process = started([*arguments(WRITING[name], place.place), "--no-wait"])
        assert exit_status(process) == 2
    assert tree(place.place) == before
