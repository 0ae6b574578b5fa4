"""All steps for a model of one's own: its bilinear twin where it is gated, dictionaries of every
layer, the strongest pairs, circuits with their proofs, ranks, and the report.

Each does what its own command does. Trained models and dictionaries resume as theirs do; the other
steps are skipped where their inputs and files have the same hashes as when they were done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import torch

from analysis.behaviour.cases import Behaviour
from analysis.behaviour.in_model import ModelCases, in_model
from analysis.cli.steps import Say, StepMemory, listed, ranked, reported
from analysis.dictionary_quality import quality
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.runs.alone import alone
from analysis.runs.circuits import (
    run_find_layered,
    run_propose,
    run_validate_layered,
)
from analysis.runs.folder import RunFolder
from analysis.runs.run import Run
from analysis.runs.training import run_brought, run_saes, run_twin
from circuits.corpus.documents import Corpus, to_measure_on
from circuits.errors import NotFoundError, PlanError, RunError
from circuits.model.known_text import check_spelt
from circuits.model.loading import chosen_device, is_bilinear, load_model
from circuits.model.model import Model
from circuits.model.site import mlp_sites
from circuits.twin.original import load_original
from circuits.twin.plan import TwinPlan
from sae.training.plan import TrainingPlan

N_PROPOSALS = 5  # of each layer, where no behaviour is given
_POOR = 0.8  # of the loss, recovered: below it little is said of the model
_RANKED = 50  # documents that ranks are measured on
_TIMED = 2048  # tokens whose pass is timed
_A_PASS_MORE = 3.5  # what a training step takes of a pass: forward, backward, optimizer
_DICTIONARY = 4.0  # seconds a million tokens, a site and a million numbers of its dictionary
_AFTER = 90.0  # seconds of all that follows, for each layer


@dataclass(frozen=True)
class Whole:
    """What came of it: of each behaviour a circuit and its verdict, or why there is none."""

    run: Run
    found: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)
    proposed: Mapping[int, int] = field(default_factory=dict)  # by layer, where none was given


@alone
def run_whole(
    run: str | Path,
    path: str | Path,
    text: Corpus,
    behaviours: Sequence[Behaviour] = (),
    *,
    twin: TwinPlan | None = None,
    dictionaries: TrainingPlan | None = None,
    device: str | None = None,
    seed: int | None = None,
    say: Say = print,
) -> Whole:
    """All steps into a run folder. ``dictionaries`` of every layer have the sizes of that plan, and
    its sites are not asked for. Without a ``seed`` plans keep theirs, and all else has 0."""
    chosen_device(device)  # refused before anything is printed
    _check(behaviours)
    folder = RunFolder(Path(run))
    folder.path.mkdir(parents=True, exist_ok=True)
    memory = StepMemory(folder, seed or 0, say)
    plans = twin or TwinPlan(), dictionaries or TrainingPlan()
    if seed is not None:
        plans = replace(plans[0], seed=seed), replace(plans[1], seed=seed)
    _model(folder, path, text, behaviours, plans, device, say)
    known = Run(folder.path, device=device)
    sites = tuple(str(s) for layer in range(known.model.n_layer) for s in mlp_sites(layer))
    say(f"dictionaries: sparse autoencoders of {len(sites)} sites, before and after every MLP")
    run_saes(folder.path, known.model, replace(plans[1], sites=sites), text, device)
    memory.inputs |= {**known.hashes, "text": text.fingerprint}
    held_out = to_measure_on(text)
    _quality(memory, known, held_out)
    listed(memory, known, held_out)
    whole = _circuits(known, behaviours, memory)
    ranked(memory, known, held_out, n_documents=_RANKED)
    reported(memory, known, held_out, device)
    return whole


def _check(behaviours: Sequence[Behaviour]) -> None:
    """Refuse before anything is trained what no circuit across layers can be found for."""
    names = [behaviour.name for behaviour in behaviours]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RunError(f"two behaviours are called {twice[0]!r:.60}: name each once.")
    for behaviour in behaviours:
        if behaviour.metric == "probability":
            raise RunError(
                f"behaviour {behaviour.name!r:.60} is measured in probabilities, and across layers "
                f"logit differences are followed. Give it the metric 'logit difference'."
            )


def _model(
    folder: RunFolder,
    path: str | Path,
    text: Corpus,
    behaviours: Sequence[Behaviour],
    plans: tuple[TwinPlan, TrainingPlan],
    device: str | None,
    say: Say,
) -> None:
    """The model of the run: the one that was named, or its twin."""
    twin, dictionaries = plans
    bilinear, begun = is_bilinear(path), folder.model.exists()
    model = load_model(path, device=device) if bilinear else load_original(path, device=device)
    _check_dictionaries(dictionaries, model.d_model)
    check_spelt(model, text)
    for behaviour in behaviours:  # refused before any training
        known = in_model(behaviour, model)
        if not begun:
            say(f"{behaviour.name}: the model as it came answers {_right(known)}")
    if not begun:
        seconds = _seconds(model, None if bilinear else twin, dictionaries)
        say(f"about {_minutes(seconds)} in all, at a guess")
    say("model: a bilinear one, copied" if bilinear else "model: the bilinear twin of a gated one")
    if bilinear:
        run_brought(folder.path, path, device)
    else:
        run_twin(folder.path, path, text, twin, command="run", device=device)


def _check_dictionaries(plan: TrainingPlan, width: int) -> None:
    """Refuse sizes that the steps after the training of dictionaries would refuse."""
    n_features = plan.features_of(width, "mlp_in")
    if n_features < width:
        raise PlanError(
            f"dictionaries of {n_features} features are narrower than the model, whose width is "
            f"{width}: they cannot write all of an activation, so no interactions can be exact. "
            f"Make n_features (--features) at least {width}."
        )


def _right(cases: ModelCases) -> str:
    """How many answers are right, by class."""
    shares = cases.class_means((cases.margins() > 0).double()).tolist()
    each = zip(cases.behaviour.labels, shares, strict=True)
    return ", ".join(f"{share:.0%} of {label!r}" for label, share in each) + " right"


def _quality(memory: StepMemory, run: Run, text: Corpus) -> None:
    """Say how well each dictionary stands in for its site; the report has the whole table."""
    about = "quality: how much of what the model predicts is left with dictionaries in place"

    def work() -> None:
        table = quality(run.dictionaries.values(), run.model, text, seed=memory.seed)
        for row in table.to_dict("records"):
            memory.say(
                f"  {row['site']}: {row['recovered']:.1%} ± {row['recovered_error']:.1%} of the "
                f"loss recovered, {row['fvu']:.1%} of the variance unexplained"
            )
        if poor := list(table["site"][table["recovered"] < _POOR]):
            memory.say(
                f"  note: what is said of {', '.join(poor)} says little of the model: train "
                f"dictionaries on more tokens (--tokens), or with more features (--features)"
            )

    memory.step("quality", [*run.folder.dictionaries.rglob("*.safetensors")], about, work)


def _seconds(model: Model, twin: TwinPlan | None, plan: TrainingPlan) -> float:
    """How long all steps may take here: a guess from the time of one pass."""
    n = min(_TIMED, model.n_context)
    tokens = torch.zeros(max(_TIMED // n, 1), n, dtype=torch.int64)
    times = []
    with torch.no_grad():
        for _ in range(3):
            began = perf_counter()
            model.logits(tokens)
            times.append((perf_counter() - began) / tokens.numel())
    a_token, seconds = min(times), 0.0
    if twin is not None:
        n_token = twin.n_steps * twin.n_rows * min(twin.window, model.n_context)
        seconds += n_token * a_token * (1 + _A_PASS_MORE)  # the original's answers, and a step
    n_site, width = 2 * model.n_layer, model.d_model
    size = width * (plan.n_features or 2 * width) / 1e6
    seconds += plan.n_tokens * a_token
    seconds += plan.n_tokens / 1e6 * n_site * _DICTIONARY * (10 + 1000 * size) / 10
    return seconds + _AFTER * model.n_layer


def _minutes(seconds: float) -> str:
    return f"{max(round(seconds / 60), 1)} minute{'s' * (round(seconds / 60) > 1)}"


def _hash(behaviour: Behaviour) -> str:
    return sha256(repr((behaviour.metric, behaviour.cases)).encode()).hexdigest()[:12]


def _said(circuit: LayeredCircuit) -> tuple[str, str]:
    """Where a circuit was found, and how answers of several tokens were compared."""
    where = layered_sentences(circuit)[0].removeprefix(f"{circuit.name}: ")
    return f"{where}.", circuit.evidence.compared


def _circuits(run: Run, behaviours: Sequence[Behaviour], memory: StepMemory) -> Whole:
    """The circuit of each behaviour through all layers, and its proof; without behaviours what the
    weights propose, layer by layer."""
    found, verdicts, proposed = dict[str, str](), dict[str, str](), dict[int, int]()
    for behaviour in behaviours:
        name, files = behaviour.name, run.folder.across_layers.files(behaviour.name)
        try:
            memory.step(
                f"find across layers, {name}: {_hash(behaviour)}",
                [files.circuit],
                f"find: the circuit of {name}, through all layers",
                partial(run_find_layered, run, behaviour),
            )
        except NotFoundError as answer:
            found[name] = str(answer)
            continue
        found[name] = " ".join(filter(None, _said(run.layered[name])))
        memory.step(
            f"validate across layers, {name}",
            [files.circuit, files.validation],
            f"validate: is the circuit of {name} the cause?",
            partial(run_validate_layered, run, name, seed=memory.seed),
        )
        verdicts[name] = run.layered_validations[name].verdict
    for layer in range(0 if behaviours else run.model.n_layer):
        step = f"proposals of layer {layer}"
        if not memory.holds(step, [run.folder.interactions(layer)]):
            memory.say(f"find: what the weights of layer {layer} propose")
            run_propose(run, layer=layer, n=N_PROPOSALS, seed=memory.seed)
            memory.keep(step, [run.folder.interactions(layer)])
        proposed[layer] = sum(
            one.circuit.proposal is not None and one.circuit.source.layer == layer
            for one in run.found
        )
    return Whole(run, found, verdicts, proposed)
