"""Intruder dimensions: accuracy, speed and memory. ``python -m benchmarks.intruders [--write]``.

Cosines and counts beside a float64 decomposition; the time of a first and of a second child beside
two full decompositions by ``torch.linalg.svd`` in float32, matrices of GPT-2 small's shapes; peak
memory of the command on a pair of 2 GB in shards.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.page import CommandLine, machine, markdown, write_section
from interp.maths import subspaces
from interp.maths.subspaces import Basis
from interp.store.svd_cache import SvdCache

# (rows, columns) and how many of a block's matrices have this shape: q, k, v, o; in; out
SHAPES = {(768, 768): 4, (3072, 768): 1, (768, 3072): 1}
TOP_K, EPS, SEPARATED = 10, 0.5, 1e-3
# widths of TinyLlama 1.1B; a vocabulary that makes 2 GB of a pair of one block
WIDTH, INNER, LAYERS, VOCABULARY, CHANGED = 2048, 5632, 1, 49152, "mlp.gate_proj"
JOBS = 768, 3072, 1000, 1
"""Width, inner width, vocabulary and blocks of the pair by which ``--jobs`` is timed."""
SMALL = {
    "SHAPES": {(96, 64): 4},
    "WIDTH": 64,
    "INNER": 96,
    "VOCABULARY": 100,
    "JOBS": (64, 96, 100, 1),
    "rounds": 1,
}


def matrices(
    shape: tuple[int, int], spectrum: str, update: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A base with a flat (Gaussian) or a slowly falling spectrum, and its child by a low-rank or a
    dense update.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape
    base = torch.randn(rows, columns, generator=generator) / columns**0.5
    if spectrum == "slow":
        left, values, right = torch.linalg.svd(base.double(), full_matrices=False)
        values = 10 / torch.arange(1, len(values) + 1).double().sqrt() + 0.3
        base = ((left * values) @ right).float()
    strongest = torch.linalg.matrix_norm(base, 2)
    if update == "rank 8":
        change = torch.randn(rows, 8, generator=generator) @ torch.randn(
            8, columns, generator=generator
        )
        change = 1.2 * strongest * change / torch.linalg.matrix_norm(change, 2)
    else:
        change = (
            0.02
            * base.norm()
            * torch.randn(rows, columns, generator=generator)
            / (rows * columns) ** 0.5
        )
    return base, base + change


def accuracy() -> list[dict]:
    """Largest error of a cosine among separated vectors, and counts, by numpy in float64."""
    rows = []
    for spectrum in ("flat", "slow"):
        for update in ("rank 8", "dense"):
            errors, counts, theirs, left, seen = [], 0, 0, 0, 0
            for shape in SHAPES:
                base, tuned = matrices(shape, spectrum, update, 0)
                _, compared = subspaces.compare_leading_vectors(base, tuned, TOP_K, EPS)
                exact = [
                    np.linalg.svd(m.double().numpy(), full_matrices=False) for m in (tuned, base)
                ]
                cosines = np.abs(exact[0][0][:, :TOP_K].T @ exact[1][0])
                best = cosines.max(1)
                apart = _lonely(exact[0][1], range(TOP_K)) & _lonely(exact[1][1], cosines.argmax(1))
                clear = np.abs(best - EPS) > 1e-4
                errors += list(np.abs(compared.cosine.numpy() - best)[apart])
                counts += int(compared.intruder.numpy()[clear & apart].sum())
                theirs += int((best < EPS)[clear & apart].sum())
                left, seen = left + int((~apart).sum()), seen + TOP_K
            rows.append(
                {
                    "spectrum": spectrum,
                    "update": update,
                    "vectors": f"{seen - left} of {seen} separated",
                    "largest error of a cosine": f"{max(errors, default=float('nan')):.1e}",
                    "intruders": counts,
                    "by float64": theirs,
                }
            )
    return rows


def _lonely(values: np.ndarray, at) -> np.ndarray:
    """Whether a singular value is apart from all others by ``SEPARATED`` of the largest."""
    return np.array(
        [np.abs(np.delete(values, i) - values[i]).min() > SEPARATED * values[0] for i in at]
    )


def full(base: torch.Tensor, tuned: torch.Tensor) -> None:
    """What is done without this: two decompositions and all cosines."""
    one, other = (torch.linalg.svd(matrix, full_matrices=False)[0] for matrix in (base, tuned))
    (other[:, :TOP_K].T @ one).abs().max(1)


def first(base: torch.Tensor, tuned: torch.Tensor, kept: SvdCache) -> None:
    """A first child: all of the base's vectors, kept."""
    basis = subspaces.left_basis(base)
    kept.keep("base", {"vectors": basis.vectors.numpy(), "values": basis.values.numpy()})
    _compare(basis, tuned)


def second(tuned: torch.Tensor, kept: SvdCache) -> None:
    """A second child: the base's vectors recalled from disk."""
    found = kept.recall("base")
    assert found is not None
    _compare(Basis(torch.from_numpy(found["vectors"]), torch.from_numpy(found["values"])), tuned)


def _compare(basis: Basis, tuned: torch.Tensor) -> None:
    found = subspaces.leading_triplets(tuned, TOP_K, basis.vectors[:, :TOP_K])
    subspaces.compare_with_basis(basis, found.left, found.values)


def one_random(base: torch.Tensor, tuned: torch.Tensor, basis: Basis) -> None:
    """One random update with the singular values of a dense one."""
    generator = torch.Generator().manual_seed(0)
    update = subspaces.random_rotation(
        subspaces.random_rotation(tuned - base, generator).T, generator
    ).T
    found = subspaces.leading_triplets(base + update, TOP_K, basis.vectors[:, :TOP_K], 1e-5)
    subspaces.compare_with_basis(basis, found.left, found.values)


def seconds(work, *given) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def speed(rounds: int) -> list[dict]:
    """Medians of interleaved rounds, by shape and for a whole block."""
    rows = []
    for spectrum in ("flat", "slow"):
        total: dict[str, float] = dict.fromkeys(
            ("two svd", "first", "second", "rank", "random"), 0.0
        )
        for shape, count in SHAPES.items():
            base, tuned = matrices(shape, spectrum, "rank 8", 1)
            basis, taken = subspaces.left_basis(base), {name: [] for name in total}
            with tempfile.TemporaryDirectory() as folder:
                kept = SvdCache(folder)
                for _ in range(rounds):
                    taken["two svd"].append(seconds(full, base, tuned))
                    taken["first"].append(seconds(first, base, tuned, kept))
                    taken["second"].append(seconds(second, tuned, kept))
                    taken["rank"].append(seconds(subspaces.singular_values, tuned - base))
                    taken["random"].append(seconds(one_random, base, tuned, basis))
            middle = {name: float(np.median(values)) for name, values in taken.items()}
            total = {name: total[name] + count * middle[name] for name in total}
            rows.append(_row(spectrum, f"{shape[0]} x {shape[1]}", middle))
        rows.append(_row(spectrum, "a block", total))
    return rows


def _row(spectrum: str, what: str, took: dict[str, float]) -> dict:
    whole = took["two svd"]
    return {
        "spectrum": spectrum,
        "matrix": what,
        "two full svd, s": f"{whole:.3f}",
        "first child": f"{took['first']:.3f} ({whole / took['first']:.1f} times faster)",
        "second child": f"{took['second']:.3f} ({whole / took['second']:.1f} times faster)",
        "effective rank, dense": f"{took['rank']:.3f}",
        "a random update, dense": f"{took['random']:.3f}",
    }


def _table(rows: list[dict]) -> str:
    return markdown(rows, list(rows[0]))


def write_pair(
    root: Path, width: int, inner: int, vocabulary: int, layers: int, changed: Callable[[str], bool]
) -> None:
    """Two Llama checkpoints of random weights in shards; the child differs in matrices of the first
    block.
    """
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=vocabulary,
        architectures=["LlamaForCausalLM"],
    )
    sizes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    for name in ("base", "child"):
        generator, where = torch.Generator().manual_seed(0), {}
        (root / name).mkdir()
        config.save_pretrained(root / name)
        for layer in range(layers + 1):
            prefix, held = f"model.layers.{layer}.", {}
            for part, size in sizes.items() if layer < layers else ():
                held[f"{prefix}{part}.weight"] = (
                    torch.randn(size, generator=generator) / size[1] ** 0.5
                )
            if layer == layers:
                held = {
                    key: torch.randn(vocabulary, width, generator=generator) * 0.02
                    for key in ("model.embed_tokens.weight", "lm_head.weight")
                }
            if name == "child" and layer == 0:
                for key in filter(changed, held):
                    held[key] += 0.001 * torch.randn(held[key].shape, generator=generator)
            file = f"model-{layer + 1:05}-of-{layers + 1:05}.safetensors"
            save_file(held, root / name / file, {"format": "pt"})
            where |= dict.fromkeys(held, file)
        index = {"metadata": {}, "weight_map": where}
        (root / name / "model.safetensors.index.json").write_text(json.dumps(index))


def run(root: Path, jobs: int = 1) -> tuple[int, int, float]:
    """Peak memory after importing the libraries and at the end, in bytes, and seconds of the
    command.
    """
    words = ["intruders", str(root / "child"), "--base", str(root / "base"), "--jobs", str(jobs)]
    # VmHWM and not ru_maxrss, which a process inherits from the one that started it
    program = (
        "import sys, time; from pathlib import Path; from interp.cli import main\ndef peak():"
        " return Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\nimport"
        " interp.analyzers.intruders, interp.models.weights, interp.store; before = peak()\nstart ="
        " time.perf_counter(); code = main(sys.argv[1:]); took = time.perf_counter() -"
        " start\nprint('peak', before, peak(), took, file=sys.stderr); sys.exit(code)"
    )
    with tempfile.TemporaryDirectory() as store:
        done = subprocess.run(
            [sys.executable, "-c", program, *words, "--store", store],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"INTERP_CACHE": store},
        )
    imports, peak, took = done.stderr.split("peak")[1].split()[:3]
    return int(imports) * 1024, int(peak) * 1024, float(took)


def memory() -> str:
    """Peak resident memory of the command on a pair of 2 GB, and its size on disk."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pair(root, WIDTH, INNER, VOCABULARY, LAYERS, lambda name: CHANGED in name)
        size = sum(file.stat().st_size for file in root.glob("*/*.safetensors"))
        imports, peak, took = run(root)
    return (
        f"Peak memory of `interp intruders` on a pair of {size / 1e9:.2f} GB (Llama, one block of"
        f" width {WIDTH} and a vocabulary of {VOCABULARY}, which is not analysed; float32,"
        f" {2 * (LAYERS + 1)} shards; seven matrices, of which one of {INNER} x {WIDTH} changed,"
        f" with 20 random updates): {peak / 1e6:.0f} MB, of which importing the libraries takes"
        f" {imports / 1e6:.0f} MB; {took:.0f} s."
    )


def jobs(rounds: int) -> str:
    """Seconds and peak memory by ``--jobs``, in turn, on one changed block of GPT-2 small's widths."""
    taken = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder), *JOBS, lambda name: True)
        for _ in range(rounds):
            for count, found in taken.items():
                found.append(run(Path(folder), count))
    middle = {count: np.median(np.array(found), axis=0) for count, found in taken.items()}
    ratio = np.median([one[2] / two[2] for one, two in zip(taken[1], taken[2], strict=True)])
    return _table(
        [
            {
                "--jobs": count,
                "seconds": f"{found[2]:.1f}",
                "faster": f"{ratio if count == 2 else 1:.2f} times",
                "peak memory, MB": f"{found[1] / 1e6:.0f}",
                "beyond the libraries, MB": f"{(found[1] - found[0]) / 1e6:.0f}",
            }
            for count, found in middle.items()
        ]
    )


def main() -> None:
    """Measure all; with ``--write`` into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL)
    parser.add_argument("--only", choices=("accuracy", "speed", "memory", "jobs"), help="one part")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.read()
    work = {
        "accuracy": lambda: _table(accuracy()),
        "speed": lambda: _table(speed(options.rounds)),
        "memory": memory,
        "jobs": lambda: jobs(options.rounds),
    }
    for name, measure in work.items():
        if options.only in (None, name):
            text = measure()
            print(text, flush=True)
            if options.write:
                command = f"`python -m benchmarks.intruders --only {name} --write`"
                write_section(f"intruders-{name}", f"{command}. {machine()}\n\n{text}")


if __name__ == "__main__":
    main()
