"""A training run in a process of its own, killed at any moment: in a step, or as it is saved."""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable

import torch

Moment = tuple[int, float]  # steps that the process has done, and seconds after the last one

_LATE = 20  # so many steps later the timer is not waited for: no run may reach its end


def moments(n_kills: int, seed: int) -> list[Moment]:
    """When to kill a run: once for each time that it is started or resumed."""
    rng = random.Random(seed)
    return [(rng.randint(1, 15), rng.random() * 0.05) for _ in range(n_kills)]


def die_at(moment: Moment | None, run: type, step: str) -> None:
    """Kill this process at the moment given, counted in calls of the run's method ``step``."""
    torch.set_num_threads(1)
    whole, done = getattr(run, step), []

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counting(self, *given):
        measured = whole(self, *given)
        done.append(self)
        if len(done) == moment[0]:
            threading.Timer(moment[1], kill).start()
        if len(done) == moment[0] + _LATE:
            kill()
        return measured

    if moment is not None:
        setattr(run, step, counting)


def exit_code(train: Callable[..., None], *given: object) -> int:
    """The exit code of another process that trains: minus the signal, if one killed it."""
    processes = multiprocessing.get_context("forkserver")  # imports once for all of them
    processes.set_forkserver_preload([train.__module__, "transformers.models.llama"])
    running = processes.Process(target=train, args=given)
    running.start()
    running.join()
    return running.exitcode
