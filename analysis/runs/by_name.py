"""Mappings over the circuits of a run: names are listed from disk, values read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from analysis.runs.folder import CircuitFiles, RunFolder
from circuits.errors import RunError
from circuits.plotting.display import shown

Read = TypeVar("Read")


class NotInRunError(RunError, KeyError):
    """A name that a run does not have; a KeyError too, as of any mapping."""

    __str__ = Exception.__str__


class ByName(Mapping, Generic[Read]):
    """What a run has of each circuit, by the circuit's name or its file's; read when asked for."""

    def __init__(
        self,
        run: RunFolder,
        kind: str,
        command: str,
        file: Callable[[CircuitFiles], Path],
        read: Callable[[CircuitFiles], Read],
    ) -> None:
        self._run, self._kind, self._command = run, kind, command
        self._file, self._read = file, read

    def __iter__(self) -> Iterator[str]:
        return (f.stem for f in self._run.circuit_files() if self._file(f).exists())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        files = self._run.files_of(name) if isinstance(name, str) else None
        return files is not None and self._file(files).exists()

    def files(self, name: str) -> CircuitFiles:
        """The files of the circuit; refused where this one is not among them."""
        files = self._run.files_of(name)
        if files is None or name not in self:
            command = self._command.format(run=self._run, name=shown(name))
            raise NotInRunError(
                f"{self._run} has no {self._kind} '{shown(name)}' (it has {self._names()}). Make "
                f"it: circuits {command}"
            )
        return files

    def __getitem__(self, name: str) -> Read:
        return self._read(self.files(name))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _names(self) -> str:
        return ", ".join(map(shown, self)) or "none"

    def __repr__(self) -> str:
        return f"{len(self)}: {self._names()}" if len(self) else "none"
