"""`circuits trace`: one text through the whole network."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from analysis.attribution.traced import AttributionGraph
from analysis.cli.answers import Answer, aligned
from analysis.cli.commands.inputs import opened_run
from analysis.runs.folder import check_not_of_a_run
from analysis.runs.traces import PAGE, run_trace
from circuits.model.known_text import check_spelt

_MOST_ROWS = 16


def trace(options: Namespace) -> Answer:
    """How a text's answer is made, from its logits to its tokens."""
    if options.attribution is not None:
        check_not_of_a_run(Path(options.attribution))
    run = opened_run(options)
    check_spelt(run.model, options.prompt)
    found, file = run_trace(
        run,
        options.prompt,
        options.targets,
        against=options.against or (),
        name=options.name,
        n_nodes=options.nodes,
        n_gates=options.gates,
        n_followed=options.followed,
    )
    page = str(file.with_suffix(PAGE))
    files = [str(file)]
    if options.attribution is not None:
        path = found.write_attribution(options.attribution, force=options.force)
        files.append(str(path))
    graph = str(file.with_suffix(".graphml"))
    rows = {
        "file": files[0],
        "graphml": graph,
        "page": page,
        "attribution": files[1:],
        **found.as_dict(),
    }
    return Answer("\n\n".join([_text(found), "\n".join([*files, graph, page])]), rows)


def _text(found: AttributionGraph) -> str:
    """For a person: how much is kept, where influence ends, the strongest nodes and gates."""
    kept = found.kept
    ends = ", ".join(f"{kind} {share:.1%}" for kind, share in found.shares.items() if share)
    targets = ", ".join(found.nodes["node"][found.nodes["kind"] == "logit"])
    chances = zip(found.about["targets"], found.about["probabilities"].values(), strict=True)
    likely = ", ".join(f"{word} {chance:.3f}" for word, chance in chances)
    off_by = found.nodes["off_by"].max()
    named = found.gates[found.gates["kind"] != "rest"]
    nodes = ["node", "token", "value", "influence", "effect", "promotes"]
    columns = ["node", "kind", "first", "second", "value"]
    return "\n\n".join(
        [
            f"{len(found.nodes)} nodes hold {kept['influence of nodes']:.0%} of the influence on "
            f"{targets};\n{kept['through nodes alone']:.0%} of it flows "
            f"to where it ends through these nodes alone. {len(named)} gates hold "
            f"{kept['influence of gates']:.0%}\nof what the nodes read.\nIt ends at: {ends}.\n"
            f"Probability as the next token: {likely}.",
            f"Of the influence, at each layer's MLP\n{aligned(found.layers)}",
            f"Nodes of most influence\n{aligned(found.nodes[nodes].head(_MOST_ROWS))}",
            f"Gates of most influence\n{aligned(named[columns].head(_MOST_ROWS))}",
            *(f"note: {note}." for note in found.notes),
            "influence: split at each node by the size of what it reads; a pair counts half for "
            "either of its nodes.\neffect: what the targets' mean loses without the node, with "
            "these patterns and scales.\nvalue: a logit, or a feature's activation; a gate's part "
            "of its node's. error share: of the influence at\nthe MLP, what ends at the "
            "dictionary's error. Every node's gates sum to its value, off by at most "
            f"{off_by:.1e}\nof the largest. Attention patterns and norm scales are this run's.",
        ]
    )
