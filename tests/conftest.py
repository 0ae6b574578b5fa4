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
