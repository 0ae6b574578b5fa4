"""`circuits demo` from several seeds as a user runs it: a process of its own, then once more.

Times and peak memory are of the whole process, imports included. The steps' seconds are between
the lines that the command writes as it goes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from benchmarks.measure import machine, table

SEEDS = range(10)


def demonstrated(folder: Path, seed: int, device: str) -> tuple[dict, float, int, dict[str, int]]:
    """One run: its answer, its seconds, peak bytes, and the seconds of each of its steps."""
    circuits = "import sys; from analysis.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", circuits, "demo", str(folder), "--json"]
    errors = folder.with_suffix(".log")
    start = time.perf_counter()
    with errors.open("w") as log:
        process = subprocess.Popen(
            [*command, "--seed", str(seed), "--device", device], stdout=subprocess.PIPE, stderr=log
        )
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    said = errors.read_text()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    begun = [(int(at), step) for at, step in re.findall(r"\[ *(\d+) s\] (.*)", said)]
    ends = [at for at, _ in begun[1:]] + [round(seconds)]
    steps: Counter[str] = Counter()  # `find` is of three behaviours
    for (at, step), end in zip(begun, ends, strict=True):
        steps[step.partition(":")[0]] += end - at
    return json.loads(answer), seconds, usage.ru_maxrss * 1024, steps


_CHECKS = """
import cProfile, pstats, sys, time
from analysis.cli import main
profile, began = cProfile.Profile(), time.perf_counter()
profile.enable()
status = main(sys.argv[2:])
profile.disable()
whole, names = time.perf_counter() - began, set(sys.argv[1].split(","))
stats = pstats.Stats(profile).stats
print(sum(row[3] for (_, _, name), row in stats.items() if name in names), whole, file=sys.stderr)
sys.exit(status)
"""
_HASHING = "content_hash,_hash,fingerprint,tokenizer_hash,_sha256,states,manifest_of,check_finite"


def checking(device: str) -> str:
    """What hashing and checking take of a first and a second run, in a profile of both. (A hash
    within another one counts twice, so that the share is at least what it is.)"""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        command = ["demo", str(Path(temporary) / "run"), "--json", "--device", device]
        for run_of in ("first", "second", "third"):
            done = subprocess.run(
                [sys.executable, "-c", _CHECKS, _HASHING, *command], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            checks, whole = map(float, done.stderr.split("\n")[-2].split())
            rows.append((run_of, f"{checks:.2f} s", f"{whole:.1f} s", f"{checks / whole:.1%}"))
    head = ("run", "hashing and checking", "whole command, profiled", "share")
    return f"{machine()}, seed 0.\n\n" + table(rows, head)


def run(device: str, seeds: Iterable[int] = SEEDS) -> str:
    """A row a seed."""
    rows, numbers, parts = [], [], []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            found, first, memory, steps = demonstrated(folder, seed, device)
            again, second, _, _ = demonstrated(folder, seed, device)
            page = folder / "report"
            size = sum(file.stat().st_size for file in page.rglob("*") if file.is_file())
        assert again["circuits"] == found["circuits"], "the second run gives another answer"
        answer = found["circuits"]["negation"]
        numbers.append((first, second, memory, "negation" in found["proofs"]))
        parts.append(steps)
        rows.append((str(seed), answer, found["proofs"].get("negation", "none").partition(":")[0],
                     f"{first:.0f} s", f"{second:.1f} s", f"{memory / 2**30:.2f} GiB",
                     f"{size / 1e6:.1f} MB"))  # fmt: skip
    heads = (
        "seed",
        "of negation",
        "its claims",
        "first run",
        "second run",
        "peak memory",
        "report",
    )
    firsts, seconds, memories, there = zip(*numbers, strict=True)
    median_of = {step: median(steps.get(step, 0) for steps in parts) for step in parts[0]}
    by_step = ", ".join(f"{step} {value:.0f}" for step, value in median_of.items())
    return (
        f"`circuits demo`, {len(rows)} seeds. {machine()}.\n\n{table(rows, heads)}\n\n"
        f"- found on {sum(there)} of {len(rows)}; first run at most {max(firsts):.0f} s "
        f"(wanted < 180), second at most {max(seconds):.1f} s (wanted < 20), peak memory at most "
        f"{max(memories) / 2**30:.2f} GiB (wanted < 4)\n- median seconds of each step: {by_step}"
    )
