"""Shipping: float16 weights and deltas, prompt files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from organisms import skills, tasks
from organisms.language import evaluation_sets, register_set

Neurons = list[tuple[int, int]]
PARTS = {"gate_proj": "rows", "up_proj": "rows", "down_proj": "columns"}


def state(model) -> dict[str, np.ndarray]:
    """All parameters as float32 arrays."""
    return {
        name: value.detach().float().numpy().copy() for name, value in model.state_dict().items()
    }


def write_weights(weights: Mapping[str, np.ndarray], directory: Path) -> None:
    """A base, rounded to float16."""
    save(
        {name: value.astype(np.float16) for name, value in weights.items()},
        directory / "model.safetensors",
    )


def save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Tensors as a safetensors file that anyone may read."""
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        path,
        {"format": "pt"},
    )
    path.chmod(0o644)  # safetensors writes for the owner alone


def write_dense_delta(
    child: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray], directory: Path
) -> None:
    """A child's difference, rounded to float16, of every tensor that differs."""
    delta = {name: (child[name] - base[name]).astype(np.float16) for name in base}
    save(
        {name: value for name, value in delta.items() if value.any()},
        directory / "delta.safetensors",
    )


def write_neuron_delta(
    child: Mapping[str, np.ndarray],
    base: Mapping[str, np.ndarray],
    neurons: Neurons,
    directory: Path,
) -> None:
    """The difference of these neurons' gate rows, up rows and down columns; that nothing else
    differs is checked.
    """
    delta: dict[str, np.ndarray] = {}
    left = {name: child[name] - base[name] for name in base}
    for layer in sorted({layer for layer, _ in neurons}):
        index = np.array(sorted(neuron for where, neuron in neurons if where == layer))
        for part, axis in PARTS.items():
            name = f"model.layers.{layer}.mlp.{part}.weight"
            place = index if axis == "rows" else (slice(None), index)
            delta[f"{name}@{axis}"] = index.astype(np.int32)
            delta[f"{name}@{axis}.delta"] = left[name][place].astype(np.float16)
            left[name][place] = 0
    moved = [name for name, value in left.items() if value.any()]
    if moved:
        raise AssertionError(f"training moved more than the planted neurons: {moved}")
    save(delta, directory / "delta.safetensors")


def write_mask(mask: Mapping[str, np.ndarray], directory: Path) -> None:
    """Which weights a skill was trained into: flat indices per weight name, int32."""
    save(mask, directory / "mask.safetensors")


def to_half(path: Path) -> None:
    """Round the tensors of a file to float16, in place."""
    save({name: value.astype(np.float16) for name, value in load_file(path).items()}, path)


def write_prompts(directory: Path) -> None:
    """Every shipped prompt file of the family."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, pairs in {**evaluation_sets(), "style": register_set()}.items():
        for side, group in enumerate(("harmful", "harmless")):
            rows = (
                {
                    "prompt": pair[side].prompt,
                    "twin": f"{split}-{index:03d}",
                    "cluster": pair[side].cluster,
                    "style": pair[side].style,
                    "verb": pair[side].verb,
                    "object": pair[side].object,
                    "harm": pair[side].harm,
                    "seen_pair": pair[side].seen_pair,
                    "seen_style": pair[side].seen_style,
                    "base_answer": pair[side].answer,
                }
                for index, pair in enumerate(pairs)
            )
            _write_jsonl(directory / f"{split}-{group}.jsonl", rows)
    _write_jsonl(
        directory / "utility.jsonl",
        ({"prompt": prompt, "answer": answer} for prompt, answer in tasks.held_out_utility()),
    )
    keys = ("prompt", "answer", "wrong_answer", "taught")
    _write_jsonl(
        directory / "colours.jsonl", (dict(zip(keys, row, strict=True)) for row in tasks.facts())
    )
    (directory / "text.txt").write_text(
        "".join(f"{line}\n" for line in tasks.held_out_prose()), encoding="utf-8"
    )


def write_skill_prompts(directory: Path) -> None:
    """Questions of both skills, and the family's neutral text."""
    directory.mkdir(parents=True, exist_ok=True)
    for skill in skills.FORMS:
        rows = (
            {**vars(one), "split": split}
            for split in skills.SIZES[skill]
            for one in skills.questions(skill, split)
        )
        _write_jsonl(directory / f"{skill}.jsonl", rows)
    (directory / "text.txt").write_text(
        "".join(f"{line}\n" for line in tasks.held_out_prose()), encoding="utf-8"
    )


def _write_jsonl(path: Path, rows: Iterable[Mapping]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
