"""Model folders, dictionaries, texts, images and files of runs made by a stranger: no code is run,
nothing is asked, no network is used, and neither time nor memory is without bound."""

import re

import pytest

from tests.support.hostile_inputs import Opened, inputs_of, opened

TABLES = [f"tests.support.hostile_{kind}" for kind in ("models", "dictionaries", "data", "graphs")]
INPUTS = inputs_of(TABLES)
MOST = 2**29  # bytes that one may add to the memory: unpacked, they would add at least 1 GB


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[tuple[str, str], Opened]:
    return opened(TABLES, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("which", INPUTS, ids=" ".join)
def test_it_is_refused_or_opened_and_does_nothing_else(which, outcomes):
    found, said = outcomes[which], INPUTS[which].said
    assert found.fault is None
    assert found.did == []
    assert found.grown < MOST
    if said is None:
        assert found.refused is None
    else:
        assert re.search(said, found.refused or "opened")
        assert "\n" not in found.refused


def test_there_are_many_kinds():
    assert len(INPUTS) > 300
