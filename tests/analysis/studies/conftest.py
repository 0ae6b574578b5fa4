"""scikit-learn's digits and a model of them, trained once."""

import pytest

from tests.support.small_images import trained


@pytest.fixture(scope="session")
def digits():
    return trained()[0]


@pytest.fixture(scope="session")
def model():
    return trained()[1]
