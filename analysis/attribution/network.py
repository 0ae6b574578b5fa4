"""The circuit of one text through the whole network, from the answers' logits to the tokens.

1. What is written in the run is split into pieces (`writers`): tokens, active features of each
   MLP's output dictionary, its errors, biases.
2. Influence flows back from the targets, layer by layer (`influence`).
3. The pieces of most influence stay, and between them the gates of most influence. What is left
   out is one row, ``rest``, of each node: every node's gates and edges still sum to its value.

Attention patterns and norm scales are data of this run. So a graph says how this run made its
answer, not what would have been without a node: then patterns and scales would change too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from analysis.attribution.influence import Influence, influence
from analysis.attribution.kept_nodes import KeptNodes
from analysis.attribution.traced import AttributionGraph
from analysis.attribution.writers import Readings, Writers
from analysis.behaviour.answers import first_piece, single_tokens
from circuits.arguments import checked
from circuits.corpus.tokenizer import unknown_words
from circuits.errors import DictionaryError, ModelError, check_count, shorten
from circuits.model.model import Model
from circuits.model.site import Site, as_sites
from sae.dictionary import Dictionary

N_NODES, N_GATES, N_FOLLOWED = 200, 500, 512


@checked
@torch.no_grad()
def attribution_graph(
    model: Model,
    dictionaries: Mapping[Site, Dictionary] | Mapping[str, Dictionary] | Sequence[Dictionary],
    text: str,
    targets: Sequence[str] | None = None,
    *,
    against: Sequence[str] = (),
    n_nodes: int = N_NODES,
    n_gates: int = N_GATES,
    n_followed: int = N_FOLLOWED,
) -> AttributionGraph:
    """How one text's answer is made: from the targets' logits after its last token to its tokens.

    ``targets`` are words (without them the likeliest token), with the same share of the influence
    each; the mean logit of ``against`` is subtracted from each. A word of several tokens stands
    for its first, which is noted. ``n_nodes`` and ``n_gates`` are kept; in each layer
    ``n_followed`` features are traced further. A layer without a dictionary of ``mlp_out`` has
    its MLP as one node at each position.
    """
    budgets = {"n_nodes": n_nodes, "n_gates": n_gates, "n_followed": n_followed}
    for what, budget in budgets.items():
        check_count("attribution_graph", budget, None, what)
    chosen, notes = _by_layer(model, dictionaries)
    tokens = _tokens(model, text)
    words, answers, less, begun = _answers(model, text, tokens, targets, against)
    less_what = f" less {', '.join(against)}" if against else ""
    names = [f"logit {word}{less_what}" for word in words]
    writers = Writers.of(model, chosen, tokens)
    last = len(tokens) - 1
    reads = writers.logits(answers, less, last)
    _check_ledger(writers, reads, answers, less)
    flow = influence(writers, reads, n_followed)
    kept = _kept(flow, names, n_nodes)
    traced = KeptNodes.of(flow, reads, names, kept)
    gates, edges = traced.gates(n_gates), traced.edges()
    shares, layers = _ends(flow), _layers(flow)
    about = {
        "model": model.fingerprint,
        "dictionaries": {f"mlp_out@{i}": d.fingerprint for i, d in chosen.items()},
        "targets": words,
        "probabilities": dict(zip(names, _probabilities(writers, last, answers), strict=True)),
        "against": list(against),
        **budgets,
    }
    return AttributionGraph(
        text,
        tuple(model.token_texts(tokens.tolist())),
        traced.nodes(gates, edges),
        gates.drop(columns="weight"),
        edges,
        layers,
        shares,
        _held(flow, kept, gates),
        (*notes, *begun),
        about,
    )


def _held(
    flow: Influence, kept: Bool[np.ndarray, " writer"], gates: pd.DataFrame
) -> dict[str, float]:
    """How much of the influence the nodes have, by way of nodes alone, and their gates."""
    named = gates["weight"][gates["kind"] != "rest"]
    return {
        "influence of nodes": float(flow.of[kept].sum() / flow.of.sum()),
        "through nodes alone": float(flow.through(kept)[kept & flow.ends].sum()),
        "influence of gates": float(named.sum()) / max(float(gates["weight"].sum()), 1e-300),
    }


def _by_layer(
    model: Model,
    dictionaries: Mapping[Site, Dictionary] | Mapping[str, Dictionary] | Sequence[Dictionary],
) -> tuple[dict[int, Dictionary], list[str]]:
    """The dictionaries of mlp_out by layer, and what is to be said of layers without one."""
    if not isinstance(dictionaries, Mapping):
        given = [(each.site_in(model, "attribution_graph"), each) for each in dictionaries]
    else:
        given = [(as_sites(key)[0], each) for key, each in dictionaries.items()]
    found: dict[int, Dictionary] = {}
    for key, dictionary in given:
        if (site := dictionary.site_in(model, "attribution_graph")) != key:
            raise DictionaryError(
                f"attribution_graph: the dictionary under {key} reads {site}. Put it under its own "
                f"site, or pass the dictionaries in a list."
            )
        if site.point != "mlp_out":
            continue
        dictionary.check_autoencoder("attribution_graph")
        if site.layer in found:
            raise DictionaryError(
                f"attribution_graph: two dictionaries of {site} were given, and what an MLP writes "
                f"can be split in one way only. Pass one of them."
            )
        found[site.layer] = dictionary
    if not found:
        raise DictionaryError(
            "attribution_graph: no dictionary of mlp_out was given, so no MLP can be traced "
            "through. Train some, with the sites mlp_out@0, mlp_out@1 and so on."
        )
    without = [layer for layer in range(model.n_layer) if layer not in found]
    return found, [_whole_mlps(without)] if without else []


def _whole_mlps(layers: Sequence[int]) -> str:
    """What is said of layers without a dictionary, and the command that trains what they lack."""
    sites = " ".join(f"mlp_out@{layer}" for layer in layers)
    which = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    return (
        f"no dictionary of mlp_out in {which}: the MLP there is one node at each position, and is "
        f"traced no further back. Train what is missing: circuits sae train RUN --sites {sites} "
        f"(with the --text that the model was trained on, if that is not the built-in stories)"
    )


def _tokens(model: Model, text: str) -> Int64[Tensor, " pos"]:
    """The tokens of a text that the model knows and has the context for."""
    tokenizer = model.words("attribution_graph")
    if not text.strip():
        raise ModelError(
            f"attribution_graph: the text {text!r:.40} has no word, so there is nothing to trace "
            f"back to. Write a text."
        )
    tokens = model.tokens(text)[0]
    if len(tokens) > model.n_context:
        raise ModelError(
            f"attribution_graph: the text has {len(tokens)} tokens, and the model was trained on "
            f"at most {model.n_context}. Shorten the text."
        )
    if tokenizer.unk_token_id is not None and bool((tokens == tokenizer.unk_token_id).any()):
        words = unknown_words(tokenizer, text) or [text]
        raise ModelError(
            f"attribution_graph: the model does not know {shorten(f'{w!r:.40}' for w in words)}, "
            f"and an unknown token stands for any word. Use words of its training text."
        )
    return tokens


def _answers(
    model: Model,
    text: str,
    tokens: Int64[Tensor, " pos"],
    targets: Sequence[str] | None,
    against: Sequence[str],
) -> tuple[list[str], Int64[Tensor, " target"], Tensor | None, list[str]]:
    """The targets as words and tokens, the mixture of logits that is subtracted, and what is to be
    said of words of several tokens."""
    wanted = list(targets or ())
    known, notes = _first_tokens(model, text, [*wanted, *against])
    of_token: dict[int, str] = {}
    for word in wanted:
        of_token.setdefault(known[word], word)  # a word may be named twice, with its mark
    wanted, numbers = list(of_token.values()), list(of_token)
    if not wanted:
        last = torch.tensor([len(tokens) - 1])
        logits = model.logits_at(tokens[None], last)[0]
        numbers = [int(model.known_tokens[logits[model.known_tokens].argmax()])]
        wanted = [text.strip() or text for text in model.token_texts(numbers)]
    less = None
    if against:
        less = torch.zeros(model.n_token, device=model.device)
        for word in against:
            less[known[word]] += 1 / len(against)
        if {known[word] for word in against} == {numbers[0]}:
            same = "itself" if wanted[0] in against else f"{against[0]!r}, of the same token,"
            raise ModelError(
                f"attribution_graph: {wanted[0]!r} against {same} is always 0. Name other words "
                f"with against."
            )
    return wanted, torch.tensor(numbers, device=model.device), less, notes


def _probabilities(writers: Writers, position: int, answers: Tensor) -> list[float]:
    """What the model itself gives each target after the text."""
    logits = writers.model.logits_of(writers.last[position])
    return [float(p) for p in logits.double().softmax(-1)[answers]]


def _first_tokens(
    model: Model, text: str, words: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """The token of each word after the text, of several tokens the first; and what those begin
    with, in a sentence."""
    tokenizer = model.words("attribution_graph")
    known = single_tokens(tokenizer, text, words)
    begun: dict[str, str] = {}
    for word in words:
        if word not in known:
            if (first := first_piece(tokenizer, text, word)) is None:
                raise ModelError(
                    f"attribution_graph: {word!r:.60} has no known token after the text: it "
                    f"{_why_not(tokenizer, word)}. Take another word."
                )
            known[word], begun[word] = first
    said = ", ".join(f"{word} by {piece}" for word, piece in begun.items())
    return known, [f"words of several tokens are followed by their first: {said}"] if said else []


def _why_not(tokenizer: Any, word: str) -> str:
    if not word.strip():
        return "is empty"
    if tokenizer.unk_token_id in tokenizer(word, verbose=False)["input_ids"]:
        return "is unknown to the model"
    return "begins with a token that is a space alone, or changes how the text is cut"


def _check_ledger(writers: Writers, reads: Readings, answers: Tensor, less: Tensor | None) -> None:
    """Refuse a model whose logits are not what its last stream adds up to."""
    logits = writers.model.logits_of(writers.last[reads.position]).to(writers.last)
    wanted = logits[answers] if less is None else logits[answers] - less.to(logits) @ logits
    made = reads.directions @ writers.last[reads.position]
    error = float((wanted - made).abs().max() / logits.abs().max().clamp_min(1e-30))
    if not error < 1e-3:
        raise ModelError(
            f"attribution_graph: the logits are not linear in the last stream over its scale "
            f"(relative error {error:.2g}), so the graph would not add up. Look at the model's "
            f"last norm and its head."
        )


def _kept(flow: Influence, names: Sequence[str], n_nodes: int) -> Bool[np.ndarray, " writer"]:
    """The pieces of most influence; refused where they reach a target from nowhere."""
    eligible = np.flatnonzero((flow.ends | flow.followed) & (flow.of > 0))
    order = eligible[np.argsort(-flow.of[eligible], kind="stable")]
    kept = np.zeros(len(flow.of), dtype=bool)
    kept[order[: max(n_nodes - len(names), 0)]] = True
    for number, name in enumerate(names):
        if not bool(flow.targets[number].any()):
            raise ModelError(
                f"attribution_graph: nothing in the run adds to {name!r}, which is 0, so there is "
                f"nothing to trace. Name another target."
            )
        one = Influence(flow.writers, flow.targets[number : number + 1], flow.layers, flow.of)
        if not one.through(kept)[kept & flow.ends].sum() > 0:
            few = f"{n_nodes} node{'s do' if n_nodes > 1 else ' does'}"
            raise ModelError(
                f"attribution_graph: {few} not lead from {name!r} back to a token or any other "
                f"start. Allow more nodes."
            )
    return kept


def _ends(flow: Influence) -> dict[str, float]:
    """Where influence ends, by kind of piece."""
    table = flow.writers.table
    open_ = (table["kind"] == "feature").to_numpy() & ~flow.followed
    shares = {}
    for kind in ("token", "error", "bias", "whole MLP"):
        shares[kind] = float(flow.of[(table["kind"] == kind).to_numpy()].sum())
    return {**shares, "not followed": float(flow.of[open_].sum())}


def _layers(flow: Influence) -> pd.DataFrame:
    """What reaches each layer, and where it goes."""
    table = flow.writers.table
    kind, layer, known = table["kind"].to_numpy(), table["layer"].to_numpy(), flow.followed
    rows = []
    for number in range(flow.writers.model.n_layer):
        sums = {"features": float(flow.of[(layer == number) & known].sum())}
        for name in ("error", "bias", "whole MLP"):
            sums[name] = float(flow.of[(layer == number) & (kind == name)].sum())
        left = (layer == number) & (kind == "feature") & ~known
        sums["not followed"] = float(flow.of[left].sum())
        rows.append({"layer": number, **sums})
    made = pd.DataFrame(rows)
    reached = made["features"] + made["not followed"] + made["error"]
    made["error share"] = made["error"] / reached.where(reached > 0, 1.0)
    return made
