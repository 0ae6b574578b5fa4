"""Timings that mean something on a busy machine: alternating runs, medians, ratios."""

from __future__ import annotations

import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def side_by_side(runs: Mapping[str, Callable[[], object]], times: int = 7) -> dict[str, float]:
    """Median seconds of each, the runs taking turns so that a slow moment meets them all."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def fastest(run: Callable[[], object], times: int = 25) -> float:
    """Seconds of the quickest of many runs: what the machine can do, for shares of its peak."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def gemm_peak(device: torch.device | str = "cpu") -> float:
    """The most float32 operations per second that a square product reaches here."""
    peak = 0.0
    for size in (512, 1024, 2048, 4096):
        a, b = torch.randn(2, size, size, device=device)
        out = torch.empty_like(a)
        seconds = fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
        peak = max(peak, 2 * size**3 / seconds)
    return peak


def extra_memory(run: Callable[[], object]) -> int:
    """The most bytes that were resident during the run above those before it (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return -1
    result = run()  # allocators and libraries settle
    del result
    before = _status("VmRSS")
    clear.write_text("5")  # the peak starts afresh
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024


def peak_memory() -> int:
    """The most bytes this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> str:
    """What this ran on, for the line above the table."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text())
        name = found[1] if found else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}"


def table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(value: object) -> str:
    """A number at four digits; what a row does not have is a dash."""
    if isinstance(value, str):
        return value
    return "-" if value != value else f"{value:.4g}"
