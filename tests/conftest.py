"""What every test run sets: one thread, fixed examples, and the order of files."""

import os
import random

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded; processes that tests start inherit it

import hypothesis
import pytest
import torch

# the same examples on every machine and every run
hypothesis.settings.register_profile(
    "laws", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums over more threads give other last digits, and workers would compete for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A whole run with a hostile vocabulary, its report, and the text that was read."""
    from analysis.report import write_report
    from tests.support.small_runs import small_run

    folder = tmp_path_factory.mktemp("runs") / "run"
    text = small_run(folder)
    write_report(folder, text=text, device="cpu")
    return folder, text


def pytest_addoption(parser):
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="modules and their tests in a random order"
    )


LONGEST = (
    "test_kills.py", "test_pairs.py", "test_notebooks.py", "test_demo.py", "test_browser.py",
    "test_training.py", "test_run.py", "test_hostile_inputs.py",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """The longest files first: a worker takes a whole file, and none should begin one last."""
    seed = config.getoption("shuffle")
    if seed is None:
        place = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path.name, len(place)))
        return
    rng = random.Random(seed)
    drawn = {item: rng.random() for item in items}
    file_drawn = {path: rng.random() for path in dict.fromkeys(item.path for item in items)}
    items.sort(key=lambda item: (file_drawn[item.path], drawn[item]))
