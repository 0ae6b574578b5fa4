"""A training that gets a signal in the middle of a step."""

import os
import signal
from collections.abc import Callable

import pytest


def interrupt(training: type, number: int, step: int, train: Callable[[], object]) -> None:
    """Train, and send the signal to a training of this kind at a step; it must be interrupted."""
    whole = training.learn

    def interrupted(run, *given):
        if run.step == step:
            os.kill(os.getpid(), number)
        return whole(run, *given)

    def handler(_number, _frame):
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "learn", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
