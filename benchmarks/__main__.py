"""Tables of ratios measured side by side in one run, as Markdown.

core: the exact core. models: training and reading. twins: losses of models with other activations.
seeds: the default model from ten seeds. saes: a training step of dictionaries against sae-lens.
dictionaries: the default dictionaries from ten seeds. graphs: interaction graphs on planted layers.
transcoders: one of an MLP beside autoencoders of its size: a step's speed, what it cannot show.
load: time and memory of every command's work at 1k, 4k and 16k features, beside the ideal rise.
shapes: pairs found in dictionaries of every shape (--folder: and in a run's own).
recovery: known features recovered, beside sae-lens. digits: the image case study (--data).
digits-more: its widths and other decompositions. digits-settings: the effect of regularisation.
lowrank: how well two eigenvectors stand in for features, by width and reader.
circuits: circuits of three behaviours from ten seeds (--seeds 1000:1050), with their controls.
layers: circuits through two layers from ten seeds, and what one layer learns of the same stories.
precision: a wide model trained in bfloat16 beside float32.
pretrained: a pretrained gated model made bilinear, layer by layer (--model, --data, --folder).
rank-real: two eigenvectors in a real model, three widths, untrained models (--data, --folder).
twins-real: what a pretrained model's twin loses, and other ways (--model, --data, --folder).
report: a large report: writing it, its size, opening it in Chromium.
claims: what README's table says, beside what these print today (hours; --folder, --data).
demo: `circuits demo` for ten seeds (--seeds), first and second run: time, memory, answers.
behaviours: kinds of behaviour that a model shows in words of its own (--model, --seeds).
behaviour-circuits: circuits through all layers of the kinds that are shown (--model, --seeds).
reviews: a language model of film reviews beside regressions (--data: their CSV; --folder).
traces: what removing one node does, predicted by a trace and by gradients (--model, --data).
rivals: which features a behaviour hangs on, by weights and data and by gradients (--seeds; with
--model in every layer of a deeper model).
rules: rules read from a polynomial transformer's weights, and removed (--data: a folder; --json).
checking: what hashing and checking take of `circuits demo`.
"""

import argparse

import torch

from benchmarks import (
    behaviours,
    circuits,
    claims,
    core,
    demo,
    digits,
    graphs,
    layers,
    load,
    lowrank,
    models,
    pretrained,
    rank_real,
    recovery,
    report,
    reviews,
    rivals,
    rules,
    saes,
    shapes,
    traces,
    twins_real,
)
from circuits.errors import CircuitsError

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("parts", nargs="*", help="parts of the above (default: core models)")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
parser.add_argument("--all-outputs", action="store_true", help="core, graphs: pairs of all outputs")
parser.add_argument(
    "--data",
    metavar="PATH",
    help="digits: images (default: scikit-learn's); claims: mnist.npz; pretrained, rank-real, "
    "traces, twins-real: text; reviews: a table of them; rules: a model's folder with its rules "
    "(default: a small one written by hand)",
)
parser.add_argument(
    "--model",
    metavar="FOLDER",
    help="behaviours, pretrained, rank-real, rivals, traces, twins-real: a model",
)
parser.add_argument(
    "--folder",
    help="circuits, layers, reviews, rivals, claims: where models and dictionaries are kept; "
    "shapes: a run",
)
parser.add_argument(
    "--seeds",
    metavar="FROM:TO",
    default="0:10",
    help="behaviours, circuits, layers, demo, rivals: the last is not included",
)
parser.add_argument("--json", action="store_true", help="rules: one JSON object, nothing else")
options = parser.parse_args()
if options.json and options.parts != ["rules"]:
    parser.error("--json: only the part rules prints JSON, so ask for that part alone")
try:
    first, last = map(int, options.seeds.split(":"))
    seeds = range(first, last)
    _ = seeds[0]  # there is one
except (ValueError, TypeError, IndexError):
    parser.error(f"--seeds {options.seeds}: give two numbers, the second larger, as 1000:1050")
torch.set_num_threads(options.threads)
tables = {
    "core": lambda: core.run(options.device, options.all_outputs),
    "models": lambda: models.speed(options.device),
    "precision": lambda: models.precisions(options.device),
    "twins": lambda: models.losses(options.device),
    "seeds": lambda: models.seed_table(options.device),
    "saes": lambda: saes.speed(options.device),
    "dictionaries": lambda: saes.seed_table(options.device),
    "transcoders": lambda: saes.transcoders(options.device),
    "recovery": lambda: recovery.run(),
    "digits": lambda: digits.run(options.data),
    "digits-more": lambda: digits.widths_and_parts(options.data),
    "digits-settings": lambda: digits.settings(options.data),
    "graphs": lambda: graphs.run(options.device, options.all_outputs),
    "load": lambda: load.run(),
    "shapes": lambda: shapes.run(options.folder),
    "circuits": lambda: circuits.run(options.device, options.folder, seeds),
    "layers": lambda: layers.run(options.device, options.folder, seeds),
    "claims": lambda: claims.run(folder=options.folder, images=options.data),
    "demo": lambda: demo.run(options.device, seeds),
    "checking": lambda: demo.checking(options.device),
    "pretrained": lambda: pretrained.run(
        options.device, options.model, options.data, options.folder
    ),
    "rank-real": lambda: rank_real.run(options.device, options.model, options.data, options.folder),
    "twins-real": lambda: twins_real.run(
        options.device, options.model, options.data, options.folder, seeds
    ),
    "behaviours": lambda: behaviours.run(options.device, options.model, seeds),
    "behaviour-circuits": lambda: behaviours.circuits(options.device, options.model, seeds),
    "reviews": lambda: reviews.run(options.device, options.data, options.folder),
    "traces": lambda: traces.run(options.device, options.model, options.data),
    "rivals": lambda: (
        rivals.run(options.device, options.folder, seeds)
        if options.model is None
        else rivals.in_words_of_its_own(options.device, options.model, seeds)
    ),
    "rules": lambda: rules.run(options.data, options.json),
    "report": lambda: report.run(options.device),
    "lowrank": lambda: lowrank.run(options.device),
}
unknown = set(options.parts) - set(tables)
if unknown:
    parser.error(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(tables)}")
for part in options.parts or ["core", "models"]:
    try:
        print(tables[part]() + "\n" * (not options.json), flush=True)
    except CircuitsError as error:
        parser.exit(2, f"{error}\n")
