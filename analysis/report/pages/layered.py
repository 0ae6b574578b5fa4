"""The page of a circuit through several layers: its picture, what each layer and head carries, and
its edits with attention as it was (frozen) and free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.behaviour.bounds import DIRECT, FIXED
from analysis.discovery.layered_circuit import LayeredCircuit
from analysis.discovery.layered_sentences import layered_sentences
from analysis.html.page import Page, Table
from analysis.report.catalogue.catalogue import Catalogue
from analysis.runs.belonging import LayeredFound
from analysis.validation.edits import EditKind
from analysis.validation.layered_record import LayeredValidation
from circuits.graph.circuit import Circuit
from circuits.model.site import Site
from circuits.plotting.display import percent, seen, shown

_EFFECTS = {
    "n_pairs": "pairs", "n_cases": "cases",
    "free": "effect removed, free", "frozen": "effect removed, frozen",
    "side_effect": "side effect, free", "frozen_side_effect": "side effect, frozen",
    "predicted": "predicted, frozen", "measured": "measured, frozen", "off_by": "largest error",
}  # fmt: skip
_SHARES = {
    "depends": "depends on it", "carried": "carried by its pairs",
    "later": "made later", "within": "within classes", "error": "dictionary error",
    "missing": "missing in the worst stratum", "off_by": "shares off by",
}  # fmt: skip
_WAYS = {"layer": "from layer", "contrast": "logits", "share": "share of what its pairs add",
         "to_answers": "of it, through no later MLP"}  # fmt: skip
_LINKS = {"from": "pair", "into": "feeds", "contrast": "logits",
          "share": "share of what the later pairs add"}  # fmt: skip
_LOOKS = {
    "query": "looks from", "key": "looks at", "distance": "tokens before",
    "score": "higher score", "share": "share of the score's difference",
    "looks": "share of the contrast",
}  # fmt: skip
_MOST_WORDS = 200  # of a sentence
_FEATURE = re.compile(r"feature (\d{1,9}) of ((?:mlp_out|resid_pre|resid_post)@\d{1,9})", re.ASCII)


def layered_page(found: LayeredFound, name: str, books: Mapping[Site, Catalogue]) -> Page:
    """The page of one circuit."""
    circuit, proof = found.circuit, found.validation
    figure = _captioned(circuit, books).figure()
    tables = [
        Table.of("shares", "What share of the contrast is gone with a layer's MLP at its mean over "
                 "the classes (depends on it), and of that what its pairs carry, what the MLP "
                 "computes, what was in its input (inherited), what is made later, as what it "
                 "writes is read otherwise in each class, what the spread within classes makes; "
                 "what its pairs lack of the margin of the worst stratum, and how far the shares "
                 "are from what was measured in the worst case, of the largest margin. What a "
                 "later layer passes on depends on both. "
                 f"n = {circuit.evidence.n_cases} cases, those that the circuit was chosen on.",
                 circuit.shares, _SHARES),
        Table.of("ways", "By which heads what a layer's pairs write reaches the answers, with "
                 "attention patterns as they were, and what it does by moving those; beyond that, "
                 "what it does in the network as it runs by changing what norms divide by. A way "
                 "through several heads counts for each, so the rows may add up to more than "
                 "everything.", circuit.ways, _WAYS),
        Table.of("pairs", "The pairs of each layer, and what each adds to the contrast in logits.",
                 _pairs(circuit)),
    ]  # fmt: skip
    if len(circuit.links):
        tables.insert(2, _links(circuit))
    if len(circuit.looks):
        tables.insert(2, _looks(circuit.looks, books))
    tests = [] if proof is None else _tests(proof, circuit)
    first, *sentences, _ = layered_sentences(circuit)
    context: dict[str, Any] = {
        "marks": [shown(mark) for mark in found.marks],
        "name": shown(circuit.name),
        "found": seen(first.removeprefix(f"{circuit.name}: ")),
        "sentences": [seen(each, _MOST_WORDS) for each in sentences],
        "proof": None if proof is None else proof.verdict,
        "removed": None if proof is None else _removed(proof),
        "figure": figure,
        "tables": tables,
        "tests": tests,
        "command": "circuits validate RUN --across",
    }
    title = f"{shown(circuit.name)} across layers"
    return Page(name, title, "layered.html.j2", context, [figure], [*tables, *tests])


def headline(found: LayeredFound, page: str) -> dict[str, Any]:
    """Its line on the first page."""
    circuit, proof = found.circuit, found.validation
    stages = zip(circuit.layers, circuit.stages, strict=True)
    return {
        "page": page,
        "name": shown(circuit.name),
        "claims": {} if proof is None else proof.claims_in_words,
        "layers": ", ".join(_layer_words(layer, stage) for layer, stage in stages),
        "removed": None if proof is None else _removed(proof),
        "n": None if proof is None else proof.n,
        "seed": None if proof is None else proof.seed,
        "marked": bool(found.marks),
    }


def _layer_words(layer: int, stage: Circuit) -> str:
    n = len(stage.interactions)
    assert stage.evidence is not None  # of a behaviour
    depends = percent(stage.evidence.shares.direct)
    return f"layer {layer} ({n} pair{'s' * (n != 1)}, {depends} of the contrast depends on it)"


def _removed(proof: LayeredValidation) -> tuple[str, str]:
    row = proof.edit(EditKind.REMOVE)
    free, frozen = (percent(round(float(row[name]), 4)) for name in ("free", "frozen"))
    return free or "unknown", frozen or "unknown"


def _captioned(circuit: LayeredCircuit, books: Mapping[Site, Catalogue]) -> LayeredCircuit:
    """The same with features called by their numbers and when they are active."""
    stages = []
    for layer, stage in zip(circuit.layers, circuit.stages, strict=True):
        book = books.get(Site("mlp_in", layer))
        if book is not None:
            captions = {f.feature: book.caption(f.feature).short for f in stage.features}
            features = tuple(
                replace(f, label=f"{f.feature} {caption}")
                if (caption := captions[f.feature])
                else f
                for f in stage.features
            )
            stage = replace(stage, features=features)
        stages.append(stage)
    return replace(circuit, stages=tuple(stages))


def _looks(looks: pd.DataFrame, books: Mapping[Site, Catalogue]) -> Table:
    """With features called by when they are active, too."""

    def named(name: str) -> str:
        known = _FEATURE.fullmatch(name)
        book = None if known is None else books.get(Site.parse(known[2]))
        caption = "" if known is None or book is None else book.caption(int(known[1])).short
        return f"{name}: {caption}" if caption else name

    table = looks.assign(query=looks["query"].map(named), key=looks["key"].map(named))
    return Table.of(
        "looks", "What share of the contrast is gone with a head's pattern in each text at the "
        "mean of its minimal pair, or, where cases have none, of the texts that are as long, all "
        "other heads looking where they did. For heads with "
        f"{percent(DIRECT)} or more, why: how much higher its score is, before the softmax, in the "
        "texts where that adds to the contrast (in each frame at the place where it adds most), as "
        "a sum of pairs of what it looks from and at. A head's rows add up.", table, _LOOKS,
    )  # fmt: skip


def _links(circuit: LayeredCircuit) -> Table:
    labels = circuit.pair_labels
    table = pd.DataFrame({
        "from": [labels.get(pair, pair) for pair in circuit.links["from_pair"]],
        "into": [labels.get(pair, pair) for pair in circuit.links["pair"]],
        **{name: circuit.links[name] for name in ("contrast", "share")},
    })  # fmt: skip
    return Table.of(
        "links", "What pairs of earlier layers wrote into the features of later ones, with "
        "attention patterns and norm scales as they were: a part of what the later pair adds to "
        "the contrast, half of it through either feature. The rest was written by tokens, other "
        "pairs, MLPs that have no part in the circuit, and biases, or missed by a dictionary.",
        table, _LINKS,
    )  # fmt: skip


def _pairs(circuit: LayeredCircuit) -> pd.DataFrame:
    rows = [
        (layer, stage.label(pair.first), stage.label(pair.second), pair.weight, pair.contrast,
         pair.elsewhere, pair.computed, pair.inherited)
        for layer, stage in zip(circuit.layers, circuit.stages, strict=True)
        for pair in stage.interactions
    ]  # fmt: skip
    names = ["layer", "first", "second", "weight", "contrast", "elsewhere", "computed", "inherited"]
    return pd.DataFrame(rows, columns=names)


def _alone(proof: LayeredValidation, circuit: LayeredCircuit) -> pd.DataFrame:
    """Each pair removed alone, under the names of its features."""
    names = circuit.pair_labels
    table = proof.pair_table
    return table.assign(pair=[names.get(pair, pair) for pair in table["pair"]])


def _tests(proof: LayeredValidation, circuit: LayeredCircuit) -> list[Table]:
    n = f"n = {proof.n} held-out cases, seed {proof.seed}"
    random = {
        "free": "effect removed, free (median size)", "free_least": "least, free",
        "free_most": "most, free", "frozen": "effect removed, frozen (median size)",
        "frozen_least": "least, frozen", "frozen_most": "most, frozen",
    }  # fmt: skip
    return [
        Table.of("criteria", f"Criteria (bounds of {FIXED}), of the free network: causal, the "
                 "pairs carry the behaviour, and alone do in every class what these layers' MLPs "
                 "do there; beyond random pairs, others do not do it. What removing the circuit "
                 f"does to other classes is a side effect, and not judged; {n}.",
                 proof.criteria_table),
        Table.of("edits", "Edits of the running model, each made twice: free, as the network "
                 "really runs, where attention may look elsewhere; and frozen, with the attention "
                 "patterns and norm scales of the unedited run. Effect removed: share of the "
                 "margin of the affected classes that is gone; of keeping only the circuit, with "
                 "all else that these MLPs write at its mean, too. Side effect: largest relative "
                 f"change in another class; {n}.", proof.edit_table, _EFFECTS),
        Table.of("alone", "Each pair removed alone: the effect removed, in the first 8 cases of "
                 "each class. In the first 4 of those it is also predicted, from the weights, and "
                 "measured, in the frozen network; largest error: of any of these 4 of each class, "
                 f"relative to the largest margin; {n}.", _alone(proof, circuit), _EFFECTS),
        Table.of("random", "Control: random pairs of the same layers that are active together, "
                 "instead of the circuit's. Size: how much they write, relative to the circuit. "
                 "Judged is the size of what they do; least and most have its sign: below 0 the "
                 f"margin grows; {n}.", proof.random_table, random),
        Table.of("strata", "Every stratum, of the free network. Left: of its mean margin without "
                 "the circuit (below 0: the answer turns). Kept: of the effect of these layers' "
                 "MLPs, by the circuit alone; this is judged in every class. In a class that is "
                 "not affected a stratum is not judged where the model is wrong, or these MLPs add "
                 "less than a tenth of its margin.", proof.strata),
    ]  # fmt: skip
