"""Commands that are killed at any change of a file: nothing is lost, and the next one ends as if
nothing had happened."""

import random
import shutil
from pathlib import Path

import pytest

from analysis.runs.run import Run
from circuits.errors import RunError
from tests.support.killed_commands import killed_at, run_command
from tests.support.writing_commands import SCENES, arguments, prepared, tree

_EACH = {"sae": 17, "model": 17, "digits": 7, "report": 11, "rank": 7}
"""Of long commands, one change in so many."""
_SHORT = ("metrics.jsonl", "plan.json", "training.json", "tokenizer.json", "manifest.json")
"""Files of a training, as far as it is; its dictionaries are noted one by one."""


class Stage:
    """A command's files before it and after it ran unbroken."""

    def __init__(self, name: str, folder: Path) -> None:
        self.place, self.kept = folder / "place", folder / "kept"
        self.words = arguments(SCENES[name].command, self.place)
        prepared(SCENES[name], self.place)
        shutil.copytree(self.place, self.kept)
        self.before = tree(self.place)
        self.rerun(None)
        self.after = tree(self.place)

    def rerun(self, nth: int | None) -> None:
        """The command, to its end."""
        status, said = run_command(self.words)
        assert status == 0, (nth, said)

    def kill(self, nth: int) -> bool:
        """Kill the command at its n-th change and run it again; False if it ended before."""
        shutil.rmtree(self.place)
        shutil.copytree(self.kept, self.place)
        if not killed_at(self.place, nth, self.words):
            assert tree(self.place) == self.after
            return False
        left = tree(self.place)
        for name, content in {**left, **self.before}.items():
            if not self.is_passing(name):
                whole = [known.get(name) for known in (self.before, self.after)]
                assert left.get(name) in whole, (nth, name, content[:80])
        if (self.place / "run").is_dir():
            self.check_run(nth)
        self.rerun(nth)
        ends = tree(self.place)
        assert ends.keys() == self.after.keys(), nth
        assert [name for name in ends if ends[name] != self.after[name]] == [], nth
        return True

    def check_run(self, nth: int) -> None:
        """It can be read, or says what to make again; and what was decided is complete."""
        try:
            run = Run(self.place / "run", device="cpu").checked()
            assert run.marks == {}, nth
        except RunError as error:
            assert "circuits " in str(error), nth  # noqa: PT017
        circuits = {n: c for n, c in tree(self.place).items() if n.startswith("run/circuits/")}
        sets = [
            {name: c for name, c in known.items() if name.startswith("run/circuits/")}
            for known in (self.before, self.after)
        ]
        assert circuits in [*sets, {"run/circuits/": b""}], nth

    def is_passing(self, name: str) -> bool:
        """Whether a file is one that a command at work has for a while."""
        parts = Path(name).parts
        training = self.words[1] == "train" and (
            "finished" in parts or parts[-1] in _SHORT or parts[-1].startswith("checkpoint")
        )
        return training or any(part.startswith(".") for part in parts)


def test_a_command_that_is_killed_loses_nothing(tmp_path):
    rng, stages = random.Random(0), {}
    names = rng.sample(sorted(SCENES), 5)
    for name in names:
        stage = stages[name] = Stage(name, tmp_path / name)
        for nth in rng.sample(range(1, 25), 3):
            stage.kill(nth)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_command_that_is_killed_at_any_change_of_a_file_loses_nothing(name, tmp_path):
    stage, nth = Stage(name, tmp_path), 1
    while stage.kill(nth):
        nth += _EACH.get(name.split()[0], 1)
    assert nth > 1
