"""The `circuits` command: options, answers, and one function for each command."""

from analysis.cli.main import main

__all__ = ["main"]
