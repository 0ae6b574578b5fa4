"""What each command does: `circuits sae train` is ``sae_train``, called with the options given.

A function here calls the packages and returns an `Answer`. Its module is imported when the command
runs, not before, because completion in a shell waits for it.
"""

from importlib import import_module
from typing import Any

_IN = {
    "model": ("model_train", "model_twin", "model_ready", "model_info", "model_generate"),
    "behaviours": ("behaviour",),
    "dictionaries": ("sae_train", "sae_info", "sae_quality"),
    "circuits": ("interactions", "find", "validate", "rank", "export"),
    "pages": ("demo", "run", "report", "verify"),
    "traces": ("trace",),
    "studies": ("gates", "calibrate", "digits"),
    "shell": ("completion",),
}
_AT = {name: f"analysis.cli.commands.{module}" for module, names in _IN.items() for name in names}

__all__ = sorted(_AT)


def __getattr__(name: str) -> Any:
    """The function of a command, from its module."""
    if name in _AT:
        return getattr(import_module(_AT[name]), name)
    raise AttributeError(f"module 'analysis.cli.commands' has no attribute '{name}'")
