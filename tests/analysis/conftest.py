"""A small model in float64, for the tests that compare with dense matrices."""

import pytest
import torch

from circuits.model import load_model
from tests.support.small_models import small_folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    folder = small_folder(tmp_path_factory.mktemp("model") / "llama")
    return load_model(folder, device="cpu", dtype=torch.float64)
