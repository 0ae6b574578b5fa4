"""Commands that are killed at any change of a file: nothing is lost, and the next one ends as if
nothing had happened.

Every kind of change of every command is covered: each operation on each pattern of file names,
where numbers, random names and the names of tables, pictures and pages of one folder are left out.
Of several changes of a kind the first and the last are tried.
"""

import random
import re
import shutil
from pathlib import Path

import pytest

from analysis.runs.run import Run
from circuits.errors import RunError
from tests.support.killed_commands import changes, chosen, copied_at, killed_at, run_command
from tests.support.writing_commands import SCENES, arguments, prepared, tree

_TEMPORARY = re.compile("[0-9a-f]{16}")  # of a name that is used once
_SHORT = ("metrics.jsonl", "plan.json", "training.json", "tokenizer.json", "manifest.json")
"""Files of a training, as far as it is; its dictionaries are noted one by one."""


class Stage:
    """A command's files before it and after it ran unbroken."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.place, self.kept = folder, folder / "place", folder / "kept"
        self.words = arguments(SCENES[name].command, self.place)
        prepared(SCENES[name], self.place)
        shutil.copytree(self.place, self.kept)
        self.before = tree(self.place)
        self.kinds = changes(self.place, self.words, folder / "changes")
        self.after = tree(self.place)

    def anew(self, source: Path) -> None:
        """The place as it was kept, or as a kill left it."""
        shutil.rmtree(self.place)
        shutil.copytree(source, self.place)

    def kill(self, nth: int) -> None:
        """Kill the command at its n-th change, and run it again."""
        self.anew(self.kept)
        assert killed_at(self.place, nth, self.words) == (nth <= len(self.kinds))
        self.check(nth)

    def stop_at_each_kind(self) -> None:
        """The same for the files at the first and last change of each kind; all of these are copied
        while the command runs once."""
        self.anew(self.kept)
        copies, known = self.folder / "copies", set()
        copied_at(self.place, chosen(self.kinds), copies, self.words)
        assert tree(self.place) == self.after
        assert {self.kinds[int(copy.name) - 1] for copy in copies.iterdir()} == set(self.kinds)
        for copy in sorted(copies.iterdir(), key=lambda path: int(path.name)):
            left = frozenset((_TEMPORARY.sub("", n), c) for n, c in tree(copy).items())
            if left not in known:  # some changes change nothing
                self.anew(copy)
                self.check(int(copy.name))
            known.add(left)
            shutil.rmtree(copy)

    def check(self, nth: int) -> None:
        """What a kill at a change left is whole, and the command ends as if nothing had been."""
        left = tree(self.place)
        for name, content in {**left, **self.before}.items():
            if not self.is_passing(name):
                whole = [known.get(name) for known in (self.before, self.after)]
                assert left.get(name) in whole, (nth, name, content[:80])
        if (self.place / "run").is_dir():
            self.check_run(nth)
        done = run_command(self.words)
        assert done.returncode == 0, (nth, done.stderr)
        ends = tree(self.place)
        assert ends.keys() == self.after.keys(), nth
        assert [name for name in ends if ends[name] != self.after[name]] == [], nth

    def check_run(self, nth: int) -> None:
        """It can be read, or says what to make again; and what was decided is complete."""
        try:
            run = Run(self.place / "run", device="cpu").checked()
            assert run.marks == {}, nth
        except RunError as error:
            assert "circuits " in str(error), nth  # noqa: PT017
        for folder in ("run/circuits/", "run/layered/"):
            now, *sets = (
                {name: c for name, c in known.items() if name.startswith(folder)}
                for known in (tree(self.place), self.before, self.after)
            )
            assert now in [*sets, {folder: b""}], nth

    def is_passing(self, name: str) -> bool:
        """Whether a file is one that a command at work has for a while."""
        parts = Path(name).parts
        training = self.words[1] in ("train", "twin", "ready") and (
            "finished" in parts or parts[-1] in _SHORT or parts[-1].startswith("checkpoint")
        )
        return training or any(part.startswith(".") for part in parts)


def test_a_command_that_is_killed_loses_nothing(tmp_path):
    rng = random.Random(0)
    for name in rng.sample(sorted(SCENES), 2):
        stage = Stage(name, tmp_path / name)
        for nth in rng.sample(range(1, 25), 2):
            stage.kill(nth)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_command_that_is_killed_at_any_kind_of_change_loses_nothing(name, tmp_path):
    Stage(name, tmp_path).stop_at_each_kind()
