"""The exact core against what users write today, at one size, in one run.

(a) the named-axis einsum as anybody would write it, in the order that torch chooses;
(b) the best contraction order (opt_einsum's), building features x features;
and the machine's own GEMM peak.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import extra_memory, fastest, gemm_peak, machine, side_by_side, table
from circuits import Basis, BilinearLayer, Interactions
from circuits.algebra.output_statistics import output_statistics

D_MODEL, D_HIDDEN, N_FEATURE = 512, 2048, 4096
HEADER = ("what", "time", "figure", "wanted")


def layer_and_basis(
    d_model: int, d_hidden: int, n_feature: int, device: str
) -> tuple[BilinearLayer, Basis]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(device)

    layer = BilinearLayer(
        normal(d_hidden, d_model), normal(d_hidden, d_model), normal(d_model, d_hidden)
    )
    return layer, Basis.from_decoder(normal(n_feature, d_model))


def decaying_layer(d_model: int, d_hidden: int, device: str) -> BilinearLayer:
    """Every output's form has eigenvalues ±1/i, spread over all hidden units."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
    signs = torch.where(torch.rand(d_model, generator=generator) < 0.5, -1.0, 1.0)
    values = signs / torch.arange(1, d_model + 1)
    times = d_hidden // d_model
    factor = vectors.repeat(times, 1)
    down = (values / times).repeat(times).expand(d_model, -1).contiguous()
    return BilinearLayer(factor, factor, down).to(device)


def named_axis_einsum(layer: BilinearLayer, direction: Tensor) -> Tensor:
    form = torch.einsum("oh,hi,hj,o->ij", layer.down, layer.left, layer.right, direction)
    return (form + form.mT) / 2


def best_order(layer: BilinearLayer, direction: Tensor, write: Tensor) -> Tensor:
    with torch.backends.opt_einsum.flags(enabled=True, strategy="optimal"):
        form = torch.einsum("o,oh,hi,hj->ij", direction, layer.down, layer.left, layer.right)
        return torch.einsum("ij,fi,gj->fg", (form + form.mT) / 2, write, write)


def run(device: str = "cpu", all_outputs: bool = False) -> str:
    """The table; takes about three minutes on two cores, and four more for all outputs."""
    peak = gemm_peak(device)
    layer, basis = layer_and_basis(D_MODEL, D_HIDDEN, N_FEATURE, device)
    inter = Interactions(layer, basis, basis)
    _ = basis.read, inter.whitened  # once for all outputs
    rows = [
        *_forms(inter, peak),
        *_spectra(inter),
        *_strongest(inter, device),
        *_all_outputs(inter, range(N_FEATURE) if all_outputs else range(128)),
        *_readers(device),
        *_large(device),
        *_imports(),
    ]
    head = (
        f"d = {D_MODEL}, hidden = {D_HIDDEN}, {N_FEATURE} features each side, float32, seed 0, "
        f"unless said. {machine()}; GEMM peak {peak / 1e9:.0f} GF/s."
    )
    foot = "¹ Counting the operations of the whole product; one triangle of it is computed."
    return f"{head}\n\n{table(rows, HEADER)}\n\n{foot}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _forms(inter: Interactions, peak: float) -> list[tuple[str, ...]]:
    layer, write, u = inter.layer, inter.write, inter.outputs.read[3]
    fast = side_by_side(
        {"matrix": lambda: inter.matrix(3), "best order": lambda: best_order(layer, u, write)}
    )
    fast["interaction"] = fastest(lambda: layer.interaction(u))  # as the peak was measured
    plain = side_by_side({"einsum": lambda: named_axis_einsum(layer, u)})["einsum"]
    n, d, h = N_FEATURE, D_MODEL, D_HIDDEN
    form_flops, matrix_flops = 2 * d * d * h, 2 * d * d * h + 2 * n * d * d + 2 * n * n * d
    share = form_flops / fast["interaction"] / peak
    matrix_share = matrix_flops / fast["matrix"] / peak
    memory = extra_memory(lambda: inter.matrix(3)) / (4 * n * n)
    return [
        ("`interaction(u)`", _ms(fast["interaction"]), f"{share:.0%} of GEMM peak", "≥ 85 %"),
        ("  against (a)", _ms(plain), f"{plain / fast['interaction']:.0f}x", ""),
        ("`matrix(o)`", _ms(fast["matrix"]), f"{matrix_share:.0%} of GEMM peak ¹", "≥ 75 %"),
        ("  against (b)", _ms(fast["best order"]), _x(fast["best order"] / fast["matrix"]), ""),
        ("  peak memory", "", f"{memory:.2f}x the result", "≤ 1.3x"),
    ]


def _x(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x"


def _spectra(inter: Interactions) -> list[tuple[str, ...]]:
    layer, write, u = inter.layer, inter.write, inter.outputs.read[3]
    decays = decaying_layer(D_MODEL, D_HIDDEN, str(layer.device))
    decaying = Interactions(
        decays, inter.inputs, Basis.identity(D_MODEL, device=layer.device)
    )  # fmt: skip
    _ = decaying.whitened
    fast = side_by_side(
        {
            "top 8": lambda: inter.spectrum(3, rank=8),
            "decaying": lambda: decaying.spectrum(3, rank=8),
            "build": lambda: best_order(layer, u, write),
        },
        15,
    )
    fast |= side_by_side({"all": lambda: inter.spectrum(3)})
    matrix = inter.matrix(3)
    start = time.perf_counter()
    dense = torch.linalg.eigvalsh(matrix)
    values_only = time.perf_counter() - start
    start = time.perf_counter()
    torch.linalg.eigh(matrix)
    full = time.perf_counter() - start
    wanted = dense[dense.abs().argsort(descending=True)[:8]]
    off = float((inter.spectrum(3, rank=8).values - wanted).abs().max() / wanted[0].abs())
    top = fast["top 8"]
    return [
        ("`spectrum(o, rank=8)`, flat spectrum", _ms(top), f"off by {off:.0e}", "≤ 1e-5"),
        ("  against building n x n (b)", _ms(fast["build"]), _x(fast["build"] / top), "≥ 10x"),
        (
            "  the same, 1/i spectrum",
            _ms(fast["decaying"]),
            _x(fast["build"] / fast["decaying"]),
            "≥ 10x",
        ),
        ("  against eigh of n x n", _ms(full), _x(full / top), "≥ 100x"),
        ("  against eigvalsh of n x n", _ms(values_only), _x(values_only / top), ""),
        ("`spectrum(o)`, all pairs", _ms(fast["all"]), _x(fast["build"] / fast["all"]), ""),
    ]


def _strongest(inter: Interactions, device: str) -> list[tuple[str, ...]]:
    into, layer = inter.inputs, decaying_layer(D_MODEL, D_HIDDEN, device)
    decaying = Interactions(layer, into, Basis.identity(D_MODEL, device=device))
    rows: list[tuple[str, ...]] = []
    for name, one, wanted in (("flat", inter, "≥ 2x"), ("1/i", decaying, "≥ 3x")):
        matrix, u = one.matrix(3), one.outputs.read[3]

        def top_k(matrix: Tensor = matrix) -> Tensor:
            return matrix.abs().flatten().topk(1000).values

        fast = side_by_side(
            {
                "ours": lambda one=one: one.strongest(1000, 3),
                "top-k": top_k,
                "build": lambda one=one, u=u: best_order(one.layer, u, one.write),
            }
        )
        visited = one.strongest(1000, 3).attrs["tiles_visited"]
        ours, both = fast["ours"], fast["build"] + fast["top-k"]
        label = f"`strongest(1000, o)`, {name} spectrum"
        rows += [
            (label, _ms(ours), f"{visited:.0%} of tiles", ""),
            (
                "  against top-k of n x n, given",
                _ms(fast["top-k"]),
                _x(fast["top-k"] / ours),
                wanted,
            ),
            ("  against building n x n and top-k", _ms(both), _x(both / ours), ""),
        ]
    return rows


def _all_outputs(inter: Interactions, outputs: range) -> list[tuple[str, ...]]:
    start = time.perf_counter()
    grown = extra_memory_of_one(lambda: inter.strongest(1000, outputs))
    each = (time.perf_counter() - start) / len(outputs)
    start = time.perf_counter()
    output_statistics(inter, range(16))
    statistics = (time.perf_counter() - start) / 16
    return [
        (
            f"`strongest(1000)` over {len(outputs)} outputs",
            f"{_ms(each)} each",
            f"{grown / 2**20:.0f} MiB above the inputs",
            "< 1024 MiB",
        ),
        ("`output_statistics`", f"{_ms(statistics)} each", "", ""),
    ]


def extra_memory_of_one(run: Callable[[], object]) -> int:
    """Like ``extra_memory`` for a run too long to make twice."""
    ran = []

    def once() -> None:
        if ran:
            run()
        ran.append(True)

    return extra_memory(once)


def _readers(device: str) -> list[tuple[str, ...]]:
    write = torch.randn(16_384, 1024, generator=torch.Generator().manual_seed(2)).to(device)
    fast = side_by_side(
        {
            "ours": lambda: Basis.from_decoder(write).read,
            "torch": lambda: torch.linalg.pinv(write),
        },
        1,
    )
    exact = torch.eye(1024, dtype=torch.float64, device=device)
    ours = Basis.from_decoder(write).read.double()
    theirs = torch.linalg.pinv(write).double().mT
    errors = [float((write.double().mT @ read - exact).abs().max()) for read in (ours, theirs)]
    return [
        (
            "pseudoinverse of 16,384 x 1024, in float64",
            _ms(fast["ours"]),
            f"off by {errors[0]:.0e}; torch in float32: {_ms(fast['torch'])}, {errors[1]:.0e}",
            "",
        )
    ]


def _large(device: str) -> list[tuple[str, ...]]:
    d, h, n = 1024, 4096, 65_536
    layer, basis = layer_and_basis(d, h, n, device)
    inter = Interactions(layer, basis, basis)
    start = time.perf_counter()
    _ = basis.read, inter.whitened
    ready = time.perf_counter() - start
    spectrum = side_by_side({"spectrum": lambda: inter.spectrum(3, rank=8)}, 3)["spectrum"]
    start = time.perf_counter()
    grown = extra_memory_of_one(lambda: inter.strongest(1000, 3))
    strongest = time.perf_counter() - start
    return [
        (f"d = {d}, hidden = {h}, {n:,} features: reader, once", _ms(ready), "", ""),
        ("  `spectrum(o, rank=8)`", _ms(spectrum), "", "works"),
        (
            "  `strongest(1000, o)`, flat spectrum",
            f"{strongest:.1f} s",
            f"{grown / 2**20:.0f} MiB; n x n would be {4 * n * n / 2**30:.0f} GiB",
            "works",
        ),
    ]


def _imports() -> list[tuple[str, ...]]:
    def python(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    helping = "import sys; sys.argv = ['circuits', '--help']; from analysis.cli import main; main()"
    taken = side_by_side(
        {"import": lambda: python("import circuits"), "help": lambda: python(helping)}, 5
    )
    return [
        ("`import circuits`", f"{taken['import']:.2f} s", "", "< 2.5 s"),
        ("`circuits --help`", f"{taken['help']:.2f} s", "", "< 1 s"),
    ]
