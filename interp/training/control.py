"""Control fine-tunes: the training of a fine-tune repeated on neutral text, the null of most
analyzers.

1. The fine-tune's change of the base is read, with the configuration of its adapter.
2. For every random seed the same weights are trained from the base on neutral text.
3. The result is saved twice: unchanged (``raw``), and with the change of every module scaled to the
   norm of the fine-tune's change (``matched``), since equal steps and learning rates do not give
   equal sizes. A large factor leaves the path of training and gives a warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.atomic import complete_folder
from interp.errors import OptionError, OutOfMemory, VocabularyMismatch, reporting_os_errors
from interp.maths.memory import is_out_of_memory
from interp.models import load, preflight, text_models
from interp.models.sources import find
from interp.prompts import Documents, Tokenizer
from interp.provenance import software, to_json_value
from interp.training.changes import Change
from interp.training.fit import fit, text_loss
from interp.training.full_change import FullChange
from interp.training.lora_change import LoraChange
from interp.training.recipe import ASSUMED, Recipe, Setting, mean_rate
from interp.training.text import Row, Text, evenly_spaced, has_answers, read_text, shipped_text

FORMAT = 1
RECORD = "control.json"
SIMILAR_SIZE = (0.5, 2.0)
"""Range of the ratio of norms, control over fine-tune, within which scaling is a small correction.
"""
N_EVALUATED = 16
"""Passages on which each loss is measured."""


def make_controls(
    tuned: str,
    base: str | None,
    out: str | os.PathLike,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] = range(5),
    text: Path | None = None,
    device: str = "auto",
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train control fine-tunes: ``out/seed-N/raw``, ``out/seed-N/matched`` and
    ``out/seed-N/control.json`` for every seed; returns these records.

    ``tuned``: a LoRA adapter, or a full model of ``base``. The folder ``out`` appears when all
    controls are complete. ``text``: a file of documents instead of the shipped ones. ``log`` gets
    settings, progress and warnings as lines. Raises OptionError for an ``out`` that is not empty,
    ModelError or PairError for a model that cannot be trained or does not fit its base, PromptError
    for a file without text.
    """
    out, recipe = Path(out), recipe or Recipe()
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise OptionError(f"seeds {list(seeds)}: give different numbers from 0 on")
    _require_empty(out)
    path = text or shipped_text()
    Documents(path)
    source = find(tuned)
    source.require_no_delta("control fine-tunes are made of LoRA adapters and full models")
    base_source = text_models.match_language_model(source.base(base), source)
    settings = load.LoadSettings.resolve(device, "float32", "auto", False)
    for note in preflight.recorded_base_notes(source, base_source):
        log(f"note: {note}")
    change: Change
    if source.adapter is not None:
        # from files alone, so that an adapter of another base is refused before weights are loaded
        change = LoraChange.read(source, base_source)
        change.module, _ = load.module(base_source, settings)
        tokenizer = load.tokenizer([source.directory, base_source.directory], settings)
        change.tokenizer = tokenizer if load.has_tokenizer(source.directory) else None
    else:
        module, _ = load.module(base_source, settings)
        tokenizer = load.tokenizer([source.directory], settings)
        change = FullChange.read(source, base_source, module, tokenizer, settings)
    values, rows = _prepare(recipe, change, path, tokenizer)
    all_settings = change.settings | values
    log(
        f"{tuned}: {change.kind} on {base_source.name}; "
        + ", ".join(f"{name} {setting}" for name, setting in all_settings.items())
    )
    if (steps := values["steps"]).source == ASSUMED:
        log(
            f"note: {steps.value} steps a control follow from the size of the change at an assumed"
            " learning rate; where the fine-tune's own are known, give --steps and --learning-rate:"
            " fewer steps take less time in proportion"
        )
    common_record = {
        "format": FORMAT,
        "kind": change.kind,
        "of": {"name": tuned, "digest": load.weights_digest(source)},
        "base": {"name": base_source.name, "digest": load.weights_digest(base_source)},
        "text": rows.to_json(),
        "settings": {name: setting.to_json() for name, setting in all_settings.items()},
    }
    with reporting_os_errors("write", out, OptionError), complete_folder(out) as draft:
        parts = {
            "own": evenly_spaced(rows.train, N_EVALUATED),
            "held_out": evenly_spaced(rows.held_out, N_EVALUATED),
        }
        before: dict[str, float] = {}
        records = []
        for number, seed in enumerate(seeds, 1):
            model = change.begin(seed)
            # the first model at its start is the base
            before = before or _losses(model, parts, values)
            result = _train_one(
                change,
                model,
                rows,
                parts,
                before,
                values,
                seed,
                draft / f"seed-{seed}",
                settings,
                log,
                (number, len(seeds)),
            )
            change.end()
            record = to_json_value(common_record | result | {"software": software()})
            (draft / f"seed-{seed}" / RECORD).write_text(
                json.dumps(record, indent=1) + "\n", "utf-8"
            )
            records.append(record)
        _require_empty(out)  # another process may have written there
    return records


def _prepare(
    recipe: Recipe, change: Change, path: Path, tokenizer: Tokenizer
) -> tuple[dict[str, Setting], Text]:
    values = recipe.settings(change.kind, has_answers(path, tokenizer), change.size)
    rows = read_text(path, tokenizer, values["length"].value, values["loss"].value)
    largest = max(max(row.ids) for row in (*rows.train, *rows.held_out))
    if largest >= change.vocabulary:
        raise VocabularyMismatch(
            f"the tokenizer gives the token {largest}, and the base has {change.vocabulary} tokens;"
            " give the base that was fine-tuned"
        )
    return values, rows


def _losses(
    model, parts: Mapping[str, Sequence[Row]], values: Mapping[str, Setting]
) -> dict[str, float]:
    return {name: text_loss(model, rows, 2 * values["batch"].value) for name, rows in parts.items()}


def _train_one(
    change: Change,
    model,
    rows: Text,
    parts: Mapping[str, Sequence[Row]],
    before: Mapping[str, float],
    values: Mapping[str, Setting],
    seed: int,
    directory: Path,
    settings: load.LoadSettings,
    log: Callable[[str], None],
    position: tuple[int, int],
) -> dict[str, Any]:
    """Train, measure and save one control, scale it, measure and save again; returns its record.

    ``position``: its number and how many there are.
    """
    number, count = position
    title = f"control {number} of {count}, seed {seed}"
    try:
        trained = fit(model, rows.train, values, seed, settings.device, log, title, count - number)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{settings.device} has no memory for a step; use --batch 1 or a smaller --length"
        ) from error
    log(f"{title}: trained; measuring its loss on text")
    norms, size = change.trained_norms()
    raw = _losses(model, parts, values)
    if not np.isfinite([*raw.values(), *norms.values()]).all():
        raise OptionError(
            f"seed {seed}: the training diverged, its loss is not finite; give a lower"
            " --learning-rate"
        )
    change.save(directory / "raw")
    factors = {
        name: target / norms[name] if norms[name] else 0.0 for name, target in change.norms.items()
    }
    change.scale(factors)
    matched = _losses(model, parts, values)
    change.save(directory / "matched")
    ratios = norm_ratios(change.norms, norms)
    checks = {f"{name}_loss_fell": raw[name] < before[name] for name in parts}
    checks["size_is_near"] = (
        ratios["whole"] is not None and SIMILAR_SIZE[0] <= ratios["whole"] <= SIMILAR_SIZE[1]
    )
    unmatched = sorted(name for name, target in change.norms.items() if target and not norms[name])
    checks["every_module_matched"] = not unmatched
    for warning in check_warnings(checks, ratios, int(values["steps"].value), unmatched):
        log(f"warning: seed {seed}: {warning}")
    return {
        "seed": seed,
        "seconds": trained["seconds"],
        "loss": {
            name: {"base": before[name], "raw": raw[name], "matched": matched[name]}
            for name in parts
        },
        "norm_ratio": ratios,
        "checks": checks,
        "movement": size / (mean_rate(dict(values)) * values["steps"].value),
        "modules": {
            name: {"fine_tuned": target, "control": norms[name], "scale": factors[name]}
            for name, target in change.norms.items()
        },
    }


def norm_ratios(
    target: Mapping[str, float], control: Mapping[str, float]
) -> dict[str, float | None]:
    """Ratios of the control's norms to the fine-tune's: minimum, median and maximum over modules,
    and of the whole change; None where the fine-tune changed nothing.
    """
    ratios = [control[name] / norm for name, norm in target.items() if norm]
    if not ratios:
        return dict.fromkeys(("min", "median", "max", "whole"))
    total = np.linalg.norm(list(control.values())) / np.linalg.norm(list(target.values()))
    return {
        "min": float(np.min(ratios)),
        "median": float(np.median(ratios)),
        "max": float(np.max(ratios)),
        "whole": float(total),
    }


def check_warnings(
    checks: Mapping[str, bool],
    ratios: Mapping[str, float | None],
    steps: int,
    unmatched: Sequence[str],
) -> list[str]:
    """One line for every check that failed."""
    warnings = []
    if not (checks["own_loss_fell"] and checks["held_out_loss_fell"]):
        warnings.append(
            "the loss on its text did not decrease: it learned nothing; give another learning rate"
            " or more steps"
        )
    ratio = ratios["whole"]
    if ratio is None:
        warnings.append("the fine-tune changed nothing, and so does the matched control")
    elif not checks["size_is_near"]:
        longer = "train longer" if ratio < SIMILAR_SIZE[0] else "train shorter"
        steps = max(1, round(steps / ratio)) if ratio else 2 * steps
        warnings.append(
            f"its change is {ratio:.2f} times as large as the fine-tune's before scaling, outside"
            f" {SIMILAR_SIZE[0]:g} to {SIMILAR_SIZE[1]:g}: scaling leaves the path of training;"
            f" {longer}, with --steps {steps}"
        )
    if unmatched:
        warnings.append(
            f"{len(unmatched)} modules did not change and cannot be scaled, first {unmatched[0]}"
        )
    return warnings


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(
            f"--out {out} exists already and is not an empty folder; give another, or remove it"
        )
