"""A wrong argument of any public call ends in the toolkit's own error, at once."""

import os
import random
import signal
from contextlib import contextmanager

import jaxtyping
import pytest
import torch

import analysis
import circuits
import sae
from circuits.errors import CircuitsError
from tests.support.wrong_calls import HUGE, World, allowed, wrong_values

N_CALLS = int(os.environ.get("FUZZ", "1500"))
SECONDS = 20.0  # longer is a hang, on a busy machine, too


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("calls"))


@pytest.fixture(autouse=True)
def _own_errors(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would speak first


@contextmanager
def at_most(seconds: float):
    """Ends what takes longer."""

    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(function, arguments) -> str:
    """How a call with a wrong argument ends: "own" is as it should."""
    try:
        with at_most(SECONDS):
            function(**arguments)
    except CircuitsError as error:
        return "own" if len(str(error)) > 20 else f"says only {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
        return f"{type(error).__name__}: {error}"
    return "accepted"


def wrong_calls(world: World):
    """Every call with each of its arguments wrong in turn."""
    for call, function, right in world.calls():
        for name, value in right.items():
            for wrong in wrong_values(name, value):
                if not allowed(call, name, wrong):
                    yield call, name, wrong, function, {**right, name: wrong}


def test_every_wrong_argument_ends_in_the_toolkit_s_own_error(world):
    every = list(wrong_calls(world))
    some = random.Random(0).sample(every, min(N_CALLS, len(every)))
    faults = []
    for call, name, wrong, function, arguments in some:
        found = outcome(function, arguments)
        if found != "own" and not (wrong is HUGE and found == "accepted"):  # all that there is
            faults.append(f"{call}({name}={wrong!r:.60}): {found:.200}")
    assert not faults, "\n".join(faults)


def test_the_calls_are_of_every_public_name(world):
    named = {call.split(".")[0].split(" ")[0] for call, *_ in world.calls()}
    public = {*circuits.__all__, *sae.__all__, *analysis.__all__}
    without_arguments = {"studies", "Model", "Corpus", "Validation", "CachedActivations"}
    assert public - named - without_arguments == set()


def test_right_calls_are_accepted(world):
    slow = {"train_model", "train_on", "train_saes", "find_circuit", "Basis.from_encoder"}
    for call, function, right in world.calls():
        if call.endswith((".load", ".save")) or call in slow or call == "CachedActivations":
            continue
        function(**right)


def test_a_call_of_a_stranger_s_error_would_be_found():
    assert outcome(lambda x: x + 1, {"x": "a"}).startswith("TypeError")
    assert outcome(lambda x: x, {"x": 1}) == "accepted"
    assert outcome(lambda x: signal.pause(), {"x": 1}).startswith("TimeoutError")


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_weights_beyond_float32_are_said_and_computed_in_float64(world, scale):
    layer, into = world.layer.to(torch.float32), world.basis.to(torch.float32)
    far = circuits.BilinearLayer(scale * layer.left, scale * layer.right, layer.down)
    inter = circuits.Interactions(far, into, into)
    for ask in (lambda: inter.matrix(0), lambda: inter.strongest(3), lambda: inter.spectrum(0)):
        with pytest.raises(CircuitsError, match=r"too (large|small) .* Compute in float64"):
            ask()
    exact = circuits.Interactions(far.to(torch.float64), into, into)
    assert len(exact.strongest(3)) == 3
    assert float(exact.matrix(0).abs().max()) > 0


def test_plans_beyond_all_memory_are_refused_with_their_size(world):
    shape = circuits.model.ModelShape(n_layer=10**9)
    with pytest.raises(CircuitsError, match=r"at least [\d,]+ GiB of memory, .* has [\d,]+"):
        circuits.train_model(
            circuits.ModelPlan(shape), world.corpus, world.folder / "huge", device="cpu"
        )
    plan = sae.TrainingPlan(n_features=10**12, n_buffer=2048)
    with pytest.raises(CircuitsError, match=r"at least [\d,]+ GiB of memory"):
        sae.train_on(sae.TensorActivations([world.read]), plan, world.folder / "huge")
    assert not (world.folder / "huge").exists()
