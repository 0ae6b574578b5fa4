"""What a training leaves on disk, and gradients as a step clips them."""

import json
from pathlib import Path

import torch
from torch import Tensor


def files(out: Path) -> dict[str, object]:
    """All that a run leaves: bytes, but for the numbers that say how fast it was."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in r.items() if k != "tokens_per_second"} for r in rows]
        elif path.name == "training.json":
            rows = json.loads(path.read_text()).items()
            found[name] = {
                k: v for k, v in rows if k not in ("seconds", "metrics_sha256", "sha256")
            }
        else:
            found[name] = path.read_bytes()
    return found


def clipped(gradients: list[Tensor]) -> list[Tensor]:
    """All scaled down together, to a norm of at most one."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    return [gradient * (1 / (norm + 1e-6)).clamp(max=1) for gradient in gradients]
