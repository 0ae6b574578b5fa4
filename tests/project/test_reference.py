"""The reference has every name that scripts rely on, loads nothing from elsewhere, and no gap."""

import html
import importlib.util
import re
import sys

import pytest

from tests.support import ROOT

CONTRACTS = {
    "circuits": [
        "BilinearLayer", "BilinearLayer.interaction", "Basis", "Basis.from_decoder",
        "Basis.from_encoder", "Basis.identity", "Interactions", "Interactions.matrix",
        "Interactions.strongest", "Interactions.spectrum", "Spectrum", "Spectrum.values",
        "Spectrum.vectors", "hosvd",
    ],
    "circuits.graph": ["interaction_graph", "clusters", "Circuit"],
    "circuits.model": ["load_model", "train_model", "Site", "Model", "Model.layer", "Model.hooked"],
    "circuits.corpus": ["Corpus", "built_in", "open_corpus"],
    "sae": ["train_saes", "load_dictionaries", "load_dictionary", "TrainingPlan", "Dictionary",
            "Dictionary.basis"],
    "analysis": ["find_circuit", "validate", "rank_curve", "write_report", "Behaviour", "ledger",
                 "Validation", "RankCurve"],
    "circuits.errors": ["CircuitsError", "BasisError"],
}  # fmt: skip


@pytest.fixture
def reference(monkeypatch):
    """The builder, and pdoc as it was before."""
    pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed")
    monkeypatch.setattr(pdoc.doc_ast, "walk_tree", pdoc.doc_ast.walk_tree)
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(tmp_path, monkeypatch, reference):
    """Build the reference of a package of one module."""

    name = tmp_path.name  # of this test alone: pdoc remembers what it has read

    def build(text: str) -> tuple[list[str], str]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(reference, "PACKAGES", (name,))
        faults = reference.build(tmp_path / "out")
        return faults, (tmp_path / "out" / f"{name}.html").read_text()

    yield build
    sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_reference_has_every_name_of_the_contracts_and_needs_no_network(reference, tmp_path):
    assert reference.build(tmp_path) == []
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    for module, names in CONTRACTS.items():
        page = pages[tmp_path / (module.replace(".", "/") + ".html")]
        assert [name for name in names if f'id="{name}"' not in page] == []
    remote = re.compile(
        r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=["'](?:https?:)?//"""
        r"""|@import|url\(["']?(?:https?:)?//"""
    )
    assert [path for path, page in pages.items() if remote.search(page)] == []
    first = html.unescape(pages[tmp_path / "index.html"])
    for module in CONTRACTS:
        assert f'href="{module.replace(".", "/")}.html"' in first
    assert "A bilinear layer as one tensor" in first


def test_names_found_late_and_comments_behind_fields_are_told(small):
    faults, page = small(
        '"""A claim."""\nfrom dataclasses import dataclass\n__all__ = ["Late"]\n'
        "def __getattr__(name):\n"
        "    if name != 'Late':\n        raise AttributeError(name)\n"
        "    @dataclass\n    class Late:\n        'Found late.'\n"
        "    return Late\n"
        "@dataclass\nclass Here:\n    'Here.'\n\n    width: int = 3  # of the *thing*\n"
        "__all__ += ['Here']\n"
    )
    assert faults == []
    assert "Found late." in page
    assert "<p>of the <em>thing</em></p>" in page


def test_an_annotation_that_cannot_be_read_is_a_fault(small):
    faults, _ = small(
        '"""A claim."""\nfrom __future__ import annotations\n__all__ = ["f"]\n'
        "def f(x: Nowhere) -> None:\n    'Does it.'\n"
    )
    assert len(faults) == 1
    assert "Nowhere" in faults[0]


def test_a_name_that_is_not_there_stops_the_build(small):
    with pytest.raises(AttributeError, match="missing"):
        small('"""A claim."""\n__all__ = ["missing"]\n')
