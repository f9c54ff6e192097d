"""What the stages of every family share: recipes as digests, notes, shipped models as any user gets
them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import organisms
from organisms.tokens import Example

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "data" / "organisms"
PROMPTS = ROOT / "data" / "prompts"
VERSION = 1  # of the training code itself: raise it when a change there should make organisms anew


def recipe_hash(examples: list[Example], *parts: object) -> str:
    """What a stage is made from, as a short digest: its examples and its options."""
    digest = hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True, default=str).encode())
    for example in examples:
        digest.update(str((example.ids, example.weights)).encode())
    return digest.hexdigest()[:16]


def note(directory: Path) -> dict:
    """The ``organism.json`` there, or nothing."""
    path = directory / "organism.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_note(directory: Path, content: dict) -> None:
    """Write ``organism.json``."""
    (directory / "organism.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def is_trained(directory: Path, recipe: str) -> bool:
    """Whether an organism of this recipe is shipped."""
    return note(directory).get("recipe") == recipe


def weights_digest(name: str) -> str:
    """Which weights a shipped organism has: its children were tuned from these and no others."""
    digest = hashlib.sha256()
    for path in sorted((SHIPPED / name).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(name: str):
    """Model, tokenizer of an organism as any user gets them; for an adapter the base with the
    adapter on it.
    """
    path = organisms.directory(name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not (path / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), tokenizer
    base = organisms.base_of(name)
    model, _ = load(base)
    # PEFT warns when the base was loaded from another place than the adapter names; here that is
    # the same organism.
    model.name_or_path = model.config._name_or_path = f"organism:{base}"
    return PeftModel.from_pretrained(model, path).eval(), tokenizer


def require(label: str, holds: bool, seen: object) -> None:
    """Stop when a promise about an organism is not kept."""
    print(f"  {'ok  ' if holds else 'FAIL'} {label}: {seen}", flush=True)
    if not holds:
        sys.exit(f"{label} does not hold: {seen}; change the recipe, not the threshold")
