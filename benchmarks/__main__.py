"""`python -m benchmarks`: the table of the exact core, as Markdown."""

import argparse

import torch

from benchmarks import core

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--threads", type=int, default=2, help="processor threads (default 2)")
parser.add_argument("--all-outputs", action="store_true", help="strongest pairs of all outputs")
options = parser.parse_args()
torch.set_num_threads(options.threads)
print(core.run(options.device, options.all_outputs))
