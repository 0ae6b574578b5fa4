"""A training run on disk: one plan in its folder, a clean stop, and a resume after any kill.

    1. ``plan.json`` names the plan, the data and whatever else decides the result; it is written
       first, and a folder never holds two runs
    2. every step learns from a batch; metrics go to ``metrics.jsonl``, one line a step
    3. every so many steps, and at Ctrl-C or SIGTERM, the whole state goes to one checkpoint file
    4. the finished files are put in place one by one, then ``training.json`` says how it ended,
       and the checkpoint is removed last: while there is one, the run is not finished

The same seed gives the same bytes on the same machine with the same number of threads, however
often the run is interrupted; on a GPU, where sums have no fixed order, two runs may differ.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, final, runtime_checkable

from torch import Tensor

from circuits.errors import CircuitsError, RunError, shorten
from circuits.storage.checkpoint import (
    UNREADABLE,
    check_numbers,
    not_finite,
    read_checkpoint,
    save_checkpoint,
    unreadable,
)
from circuits.storage.files import (
    PLAN,
    RESULT,
    SEAL,
    content_hash,
    folder_written_whole,
    held,
    read_json,
    sealed,
    without_nan,
    write_json,
    written_whole,
)
from circuits.storage.limits import check_readable
from circuits.storage.progress import counted
from circuits.storage.replacing import keep_aside

METRICS = "metrics.jsonl"

METRICS_HASH = "metrics_sha256"
"""Of the metrics of a finished training, in its ``training.json``: speeds differ from run to run,
so no manifest lists them."""

NOTES = frozenset({PLAN, RESULT, METRICS})
"""Files that say how a training went, and when: two equal runs may differ in them."""

_FLUSH = 10  # steps between two writes of metrics: on a GPU, each waits for the steps before

Row = dict[str, Any]
"""One line of metrics."""


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps its files, and everything that decides its result."""

    folders: tuple[Path, ...]  # one for each thing that is trained
    checkpoint: Path
    made_of: Mapping[str, Any]
    elsewhere: str = "use another folder"  # what else to do where a folder is another run's

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its files are as it wrote them; refused if a folder
        belongs to something else."""
        begun = [_is_run(folder, self) for folder in self.folders]
        ended = all(begun) and not self.checkpoint.exists()
        return ended and all(map(_as_written, self.folders))


@runtime_checkable
class _Plan(Protocol):
    """What the loop needs to know of a plan."""

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""


class TrainingRun(ABC):
    """Something in training. A subclass defines its state and its step; `run` does the rest."""

    doing: ClassVar[str]  # on the progress bar
    shown: ClassVar[str]  # the metric on the progress bar
    packages: ClassVar[tuple[str, ...]]  # whose versions training.json notes
    fault: ClassVar[type[CircuitsError]]  # raised when the numbers are lost
    slower: ClassVar[str] = "Lower the learning rate."  # the remedy when weights are lost

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.step = self.n_tokens = 0
        self.seconds = 0.0  # of training, over all of its parts

    def begin(self) -> None:  # noqa: B027 - optional
        """Make the state before the first step; refuse bad data, before any file is made."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: tensors, and plain values."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The way back from `state`."""

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """Batches from where the state stands."""

    @abstractmethod
    def learn(self, batch: Any) -> Any:
        """Take a step; return what was measured, which may still be on its way from the GPU."""

    @abstractmethod
    def rows(self, measured: Any) -> list[Row]:
        """The metrics of a step, a row for each folder."""

    def check(self, row: Row, nth: int, checkpoint: Path) -> None:  # noqa: B027 - optional
        """Look at the ``nth`` folder's row before it is written; raise to stop the run."""

    @abstractmethod
    def results(self) -> Iterator[tuple[Callable[[Path], None], dict[str, Any]]]:
        """For each folder: a function that writes what was trained, and how the training ended."""

    @final
    def run(self, files: RunFiles, checkpoint_every: int) -> None:
        """Train to the end, from the checkpoint where there is one."""
        if files.checkpoint.exists():
            self.resume(files)
        else:
            self.begin()
        batches = self.batches()
        with _claimed(files):
            for folder in files.folders:
                _truncate_metrics(folder / METRICS, self.step)
            with _stop_requests() as stop:
                self._train(batches, files, checkpoint_every, stop)
            del batches  # a thread that reads ahead ends here
            self._finish(files)

    @final
    def resume(self, files: RunFiles) -> None:
        """Take up the state of the checkpoint; refused if it is damaged or another run's."""
        tensors, saved = read_checkpoint(files.checkpoint)
        try:
            _check_made_of(files.checkpoint, saved["made_of"], files)
            check_numbers(saved, {"step": 0, "n_tokens": 0}, least={"seconds": 0})
            if saved["step"] > self.plan.n_steps:
                raise ValueError(f"step {saved['step']} of {self.plan.n_steps}")
            self.step, self.n_tokens = saved["step"], saved["n_tokens"]
            self.seconds = saved["seconds"]
            self.restore(tensors, saved["values"])
        except RunError:
            raise
        except UNREADABLE as error:
            raise unreadable(files.checkpoint, error) from error

    @final
    def stop(self, where: str, what: str, remedy: str, checkpoint: Path) -> NoReturn:
        """End a training whose numbers are lost; what was saved before is kept."""
        kept = f"the checkpoint before it, {checkpoint}, is kept"
        if not checkpoint.exists():
            kept = "no checkpoint had been written yet"
        raise self.fault(f"{where}: {what}; {kept}. {remedy}")

    def _save(self, path: Path, made_of: Mapping[str, Any]) -> None:
        tensors, values = self.state()
        if lost := not_finite(tensors):
            what = f"{shorten(lost, 2)} hold NaN or infinity"
            self.stop(f"step {self.step}", what, self.slower, path)
        header = {"made_of": made_of, "values": values, "step": self.step}
        header |= {"n_tokens": self.n_tokens, "seconds": self.seconds}
        save_checkpoint(path, tensors, header)

    def _train(
        self,
        batches: Iterator[Any],
        files: RunFiles,
        checkpoint_every: int,
        stop: Callable[[], int | None],
    ) -> None:
        n_steps, tokens_before, seconds_before = self.plan.n_steps, self.n_tokens, self.seconds
        began, waiting = time.perf_counter(), []
        bar = counted(n_steps, self.doing, "step", self.step)
        with ExitStack() as opened, bar:
            metrics = [
                opened.enter_context((folder / METRICS).open("a", encoding="utf-8"))
                for folder in files.folders
            ]
            for batch in islice(batches, n_steps - self.step):
                rate, measured = self.plan.rate(self.step), self.learn(batch)
                self.step += 1
                waiting.append((self.step, rate, measured))
                stopped = stop()
                saving = stopped or self.step == n_steps or self.step % checkpoint_every == 0
                if not saving and len(waiting) < _FLUSH:
                    continue
                found = [(n, rate, self.rows(measured)) for n, rate, measured in waiting]
                self.seconds = seconds_before + time.perf_counter() - began  # rows waited for it
                speed = (self.n_tokens - tokens_before) / (self.seconds - seconds_before)
                for n, rate, rows in found:
                    for nth, row in enumerate(rows):
                        full = {"step": n, **row, "learning_rate": rate}
                        self.check(full, nth, files.checkpoint)
                        line = without_nan({**full, "tokens_per_second": round(speed)})
                        metrics[nth].write(json.dumps(line, allow_nan=False) + "\n")
                for file in metrics:
                    file.flush()
                shown = " ".join(f"{row[self.shown]:.3f}" for row in found[-1][2])
                bar.set_postfix({self.shown: shown, "tok/s": f"{speed:.0f}"}, refresh=False)
                bar.update(len(waiting))
                waiting.clear()
                if saving:
                    for file in metrics:
                        os.fsync(file.fileno())  # a checkpoint never stands beside fewer lines
                    self._save(files.checkpoint, files.made_of)
                if stopped:
                    return

    def _finish(self, files: RunFiles) -> None:
        versions = {name: version(name) for name in self.packages}
        versions["python"] = platform.python_version()
        for folder, (write, result) in zip(files.folders, self.results(), strict=True):
            with _put_in_place(folder) as new:
                write(new)
                written = {path.name: content_hash(path) for path in new.iterdir()}
            about = {**files.made_of, "versions": versions, "files": written}
            about[METRICS_HASH] = content_hash(folder / METRICS)
            write_json(folder / RESULT, sealed({**result, **about}))
        files.checkpoint.unlink(missing_ok=True)


def _as_written(folder: Path) -> bool:
    """Whether the files of a finished run are there as its training wrote them."""
    written = _files_of(folder)
    return written is not None and all(
        (folder / name).is_file() and content_hash(folder / name) == hash_
        for name, hash_ in written.items()
    )


def _files_of(folder: Path) -> dict[str, Any] | None:
    """The hashes of the files that a finished run put in a folder, by name."""
    known = read_json(folder / RESULT, RunError) if (folder / RESULT).exists() else {}
    files = known.get("files")
    return files if isinstance(files, dict) else None


def trained_files(folder: Path) -> list[Path]:
    """The files that a finished run put in a folder, which the same run reproduces to the byte."""
    return [folder / name for name in sorted(read_json(folder / RESULT, RunError)["files"])]


def edited_notes(folder: Path) -> list[Path]:
    """Of a finished training, the notes that were edited since, where their hashes were noted."""
    if not (folder / RESULT).is_file():
        return []
    try:
        result, metrics = read_json(folder / RESULT, RunError), folder / METRICS
    except RunError:  # cut short, for example
        return [folder / RESULT]
    found = [] if result.get(SEAL) in (None, sealed(result)[SEAL]) else [folder / RESULT]
    check_readable(metrics, RunError)
    if metrics.exists() and result.get(METRICS_HASH) not in (None, content_hash(metrics)):
        found.append(metrics)
    return found


def _is_run(out: Path, files: RunFiles) -> bool:
    """Whether the folder is this run's already; refused if it is something else's."""
    if (out / PLAN).exists():
        _check_made_of(out / PLAN, read_json(out / PLAN, RunError), files)
        return True
    if out.exists() and (not out.is_dir() or any(not _is_part(path) for path in out.iterdir())):
        raise RunError(
            f"{out}: exists already and is not a training run (it has no {PLAN}). Move or "
            f"remove it, or {files.elsewhere}."
        )
    return False


def _check_made_of(where: Path, kept: Mapping[str, Any], files: RunFiles) -> None:
    """Refuse a run that was made of something else, naming each value that differs."""
    given, begun = files.made_of, where.parent if where.name == PLAN else where
    # what is not given now, such as a precision, the run keeps
    if differing := _differing({name: kept.get(name) for name in given}, given):
        raise RunError(
            f"{where}: belongs to another run, which differs in {', '.join(differing)}. Give the "
            f"same options and text as then to resume or reuse that run, or remove {begun}, or "
            f"{files.elsewhere}."
        )


def _differing(kept: Mapping[str, Any], given: Mapping[str, Any], inside: str = "") -> list[str]:
    """The values in which two records differ, each with both."""
    found = []
    for name in [*given, *(name for name in kept if name not in given)]:
        one, other = kept.get(name), given.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differing(one, other, f"{inside}{name}.")
        elif one != other:
            then, now = ("not given" if v is None else f"{v!r:.80}" for v in (one, other))
            found.append(f"{inside}{name} ({then}, now {now})")
    return found


@contextmanager
def _claimed(files: RunFiles) -> Iterator[None]:
    """The folders belong to this run and this process alone for the length of the block."""
    with ExitStack() as alone:
        for out in files.folders:
            if not (out / PLAN).exists():
                write_json(out / PLAN, files.made_of)
            if not alone.enter_context(held(out / PLAN)):
                raise RunError(
                    f"{out}: another process is training there. Wait for it, or stop it."
                )
            # another run may have come and gone since the folder was looked at
            _check_made_of(out / PLAN, read_json(out / PLAN, RunError), files)
            for path in filter(_is_part, out.iterdir()):
                shutil.rmtree(path)
        yield


def _is_part(path: Path) -> bool:
    return re.fullmatch(r"\..*\.[0-9a-f]{16}\.part", path.name) is not None


def _truncate_metrics(metrics: Path, step: int) -> None:
    """Keep the whole lines up to the checkpoint's step: a kill cuts a line short, and a power loss
    leaves zeros or what was there before."""
    check_readable(metrics, RunError)
    lines = metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []
    with written_whole(metrics) as file:
        file.write_bytes(b"".join(line + b"\n" for line in lines if _is_row(line, step)))


def _is_row(line: bytes, most: int) -> bool:
    try:
        step = json.loads(line)["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return type(step) is int and 0 < step <= most


@contextmanager
def _put_in_place(out: Path) -> Iterator[Path]:
    """A folder to fill; at the end each of its files takes its place in ``out``."""
    finished = out / ".finished"
    shutil.rmtree(finished, ignore_errors=True)  # of a run that was killed just here
    with folder_written_whole(finished) as files:
        yield files
        written = sorted(path.name for path in files.iterdir())
    for name in written:
        keep_aside(out / name, (_files_of(out) or {}).get(name))
        os.replace(finished / name, out / name)
    finished.rmdir()


@contextmanager
def _stop_requests() -> Iterator[Callable[[], int | None]]:
    """Ctrl-C and SIGTERM wait for the step to end; then their former handlers run."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals arrive in the main thread only
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _frame: asked.append(number)) for n in numbers}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        signal.raise_signal(asked[0])
