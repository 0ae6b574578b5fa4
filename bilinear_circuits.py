"""The name that is ours alone: the `circuits` command, and whether our packages are found.

Other people's packages and files are called `circuits`, `sae` and `analysis`, too: PyPI's circuits
overwrites a file of ours, and a folder in the way comes first.
"""

import os
import sys
from importlib.util import find_spec

_OURS = "__getattr__, __dir__, __all__ = lazy(__name__)"  # a line of each package's first file


def leave_out_the_current_folder() -> None:
    """Of ``python -m analysis.cli``: it puts the folder that it is started in first on the path,
    where a file called like a library would be run. That folder is left out, unless this file lies
    there, as in a checkout."""
    safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)  # it is not on the path
    if safe or sys.argv[:1] != ["-m"]:  # which it is until the module has been found
        return
    if os.path.realpath(sys.path[0]) != os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]


def check_packages(*names: str) -> None:
    """Raise an ImportError, in one line, where another file stands for one of our packages."""
    for name in names:
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else loaded.__spec__
        try:
            source = spec.loader.get_source(name)  # type: ignore[union-attr]  # caught below
        except (AttributeError, ImportError, SyntaxError, ValueError):
            source = None
        if _OURS in (source or ""):
            continue
        places = list((spec and spec.submodule_search_locations) or [])
        where = (spec and spec.origin) or (places[0] if places else "nothing")
        raise ImportError(
            f"{where} stands where the package '{name}' of bilinear-circuits should. If it is "
            f"yours, rename it or start in another folder. If another distribution put it there, "
            f"as PyPI's circuits does, uninstall that one and repair this one: pip install "
            f"--force-reinstall --no-deps bilinear-circuits"
        )


def main() -> int:
    """The `circuits` command."""
    try:
        check_packages("circuits", "sae", "analysis")
    except ImportError as error:
        print(f"circuits: {error}", file=sys.stderr)
        return 2
    from analysis.cli import main as command

    return command()
