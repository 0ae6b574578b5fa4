"""The reference, from the docstrings: ``python docs/reference.py [FOLDER]`` (build/reference).

pdoc writes the pages. Names that a package loads when they are first used are loaded before, and a
field is described by the comment behind it. A name that does not resolve, or an annotation that
cannot be read, fails the build instead of leaving a gap.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pdoc
from pdoc import doc_ast

HERE = Path(__file__).parent
PACKAGES = ("circuits", "sae", "analysis")
INSIDE = ("analysis.cli", "sae.kernels")  # no API

_FIELD = re.compile(r"    (\w+): .*?  # (.+)")
_walked = doc_ast.walk_tree


def build(out: Path) -> list[str]:
    """Write every page into a new folder; returns what pdoc complained about."""
    modules = [name for package in PACKAGES for name in _modules(package)]
    for module in map(import_module, modules):
        names = getattr(module, "__all__", ())  # of a package: those that load on first use
        vars(module).update({name: getattr(module, name) for name in names})
    doc_ast.walk_tree = _with_comments
    pdoc.render.configure(
        template_directory=HERE / "templates", show_source=False, footer_text="bilinear-circuits"
    )
    pdoc.render.env.globals["packages"] = PACKAGES
    pdoc.render.env.globals["first_page"] = (HERE / "reference.md").read_text(encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*modules, output_directory=out)
    return [str(each.message) for each in caught if "pdoc" in Path(each.filename).parts]


def _with_comments(of: Any) -> doc_ast.AstInfo:
    """What pdoc reads in the source of a class, and the comments behind its fields."""
    known = _walked(of)
    if isinstance(of, type):
        for name, comment in _FIELD.findall(doc_ast.get_source(of)):
            if name in known.annotations:
                known.var_docstrings.setdefault(name, comment)
    return known


def _modules(package: str) -> list[str]:
    """A package and the modules in it that pdoc does not find alone: it looks into a package for
    what ``__all__`` lists, or for everything where there is none. The command is left out."""
    found = [each.name for each in walk_packages(import_module(package).__path__, f"{package}.")]
    own = []
    for name in found:
        parent, _, leaf = name.rpartition(".")
        listed = getattr(import_module(parent), "__all__", None)
        if listed is not None and leaf not in listed and not name.startswith(INSIDE):
            own.append(name)
    return [package, *own]


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "reference"
    faults = build(where)
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    sys.stdout.write(f"{where / 'index.html'}\n")
    sys.exit(1 if faults else 0)
