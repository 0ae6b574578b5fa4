"""The `circuits` command: its options, its answers, and what each command does."""

from analysis.cli.main import main

__all__ = ["main"]
