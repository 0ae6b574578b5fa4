import hypothesis
import pytest
import torch

# the same examples on every machine and every run
hypothesis.settings.register_profile(
    "laws", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("laws")


torch.set_num_threads(2)  # before any fixture: sums taken by more threads are other numbers


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A whole run with a hostile vocabulary, its report, and the text that was read."""
    from analysis.report import write_report
    from tests.support.small_runs import small_run

    torch.set_num_threads(2)
    folder = tmp_path_factory.mktemp("runs") / "run"
    text = small_run(folder)
    write_report(folder, text=text, device="cpu")
    return folder, text
