"""SAELens 6 (and files of versions 3 to 5): ``cfg.json`` and ``sae_weights.safetensors``, in the
same parameter layout as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import DictionaryError, OptionError
from interp.maths.host import in_host_memory, to_host
from interp.sae.core.config import BATCHTOPK_ARCHITECTURES, DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import dictionary_from_tensors, read_tensors
from interp.sae.core.fold_weights import fold_decoder_norm
from interp.sae.formats.base import (
    Format,
    LoadedDictionary,
    describe,
    has_unexpected_norms,
    has_unit_rows,
    least_precise_dtype,
    norm_range,
    peek_json,
    ranked_by_value,
    read_json,
    renamed_parameters,
    required_field,
    simplified,
    write_json,
)

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
VERSION = "6.54.12"
"""The SAELens version that files are written for."""

ARCHITECTURES = {
    "standard": "standard",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "topk": "topk",
    "matching_pursuit": "matching_pursuit",
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "matryoshka",
}
NORMALISATIONS = {
    "none": "none",
    "expected_average_only_in": "scale",
    "layer_norm": "layer-norm",
    "constant_norm_rescale": "constant-norm",
}
_MASK = (
    "prepend_bos",
    "exclude_special_tokens",
    "seqpos_slice",
    "context_size",
    "disable_concat_sequences",
)


def holds(path: Path) -> bool:
    """Whether a folder has this format."""
    return (path / WEIGHTS).exists() and (path / CONFIG).exists()


def read(path: Path) -> LoadedDictionary:
    """A dictionary of SAELens, of any version since 3."""
    settings = _renamed(path, read_json(path / CONFIG))
    meta = settings.get("metadata") or {}
    name = settings.get("architecture", "standard")
    if name not in ARCHITECTURES:
        raise DictionaryError(
            f"{path}: unknown SAELens architecture {name!r}; supported are"
            f" {', '.join(ARCHITECTURES)}"
        )
    tensors = read_tensors(path / WEIGHTS)
    stored_dtype = least_precise_dtype(tensors)
    doubts: list[str] = []
    scale = _scale(path, settings, doubts)
    config = _config(path, name, settings, meta)
    dictionary = dictionary_from_tensors(config, _tensors(path, config, tensors, scale), str(path))
    if settings.get("reshape_activations", "none") not in ("none", "hook_z"):
        raise DictionaryError(
            f"{path}: reshape_activations {settings['reshape_activations']!r} is not supported"
        )
    checkpoint = any(
        key in settings for key in ("aux_loss_coefficient", "decoder_init_norm", "l1_coefficient")
    )
    doubts += _doubts(path, dictionary, meta, stored_dtype, checkpoint)
    needs_folding = (
        not has_unit_rows(dictionary, stored_dtype)
        and config.architecture == "topk"
        and config.rank_by == "norm"
    )
    if needs_folding:
        # SAELens multiplies codes by the norms
        dictionary = fold_decoder_norm(dictionary)
    has_drifted = config.architecture == "matching_pursuit" and not has_unit_rows(
        dictionary, stored_dtype
    )
    atoms = (
        [
            f"atoms have norm {norm_range(dictionary.decoder_norms)}, which SAELens allows to drift"
            " from 1"
        ]
        if has_drifted
        else []
    )
    notes = (
        ["inputs are all heads concatenated"]
        if settings.get("reshape_activations") == "hook_z"
        else []
    )
    trained = meta.get("training_architecture")
    about = describe(
        "saelens",
        model=meta.get("model_name"),
        site=meta.get("hook_name"),
        target=meta.get("hook_name_out"),
        layer=meta.get("hook_layer"),
        folded={
            "decoder_norm": has_unit_rows(dictionary, stored_dtype),
            "scale": config.normalisation != "scale",
        },
        mask={key: meta[key] for key in _MASK if meta.get(key) is not None},
        notes=(
            *notes,
            *atoms,
            *(["decoder norms were folded on reading"] if needs_folding else []),
        ),
        source=settings,
        **({"trained_as": trained} if trained and trained != name else {}),
    )
    return LoadedDictionary(dictionary, about, tuple(doubts))


def _renamed(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A configuration of versions 3 to 5 with the names of version 6."""
    meta = settings.get("metadata") or {}
    version = str(settings.get("sae_lens_version") or meta.get("sae_lens_version") or "0")
    if version.split(".")[0].isdecimal() and int(version.split(".")[0]) >= 6:
        return settings
    new = {"apply_b_dec_to_input": True, **settings}
    old = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    new = {old.get(key, key): value for key, value in new.items()}
    other_arguments = {
        key: value for key, value in (new.get("activation_fn_kwargs") or {}).items() if key != "k"
    }
    if any(value not in (None, "relu", "ReLU", "ReLU()") for value in other_arguments.values()):
        raise DictionaryError(
            f"{path}: activation_fn_kwargs {other_arguments} are not supported, only k of topk with"
            " relu"
        )
    if new.get("activation_fn") == "topk":
        new |= {"architecture": "topk", "k": (new.get("activation_fn_kwargs") or {}).get("k")}
    elif new.get("activation_fn") not in (None, "relu"):
        raise DictionaryError(
            f"{path}: activation_fn {new['activation_fn']!r} is not supported; use relu, topk or"
            " a supported architecture"
        )
    scaled = new.get("normalize_activations")
    if scaled is None or isinstance(scaled, bool):
        new["normalize_activations"] = "expected_average_only_in" if scaled else "none"
    heads = "hook_z" in str(new.get("hook_name", ""))
    new.setdefault("reshape_activations", "hook_z" if heads else "none")
    keys = ("model_name", "hook_name", "hook_layer", "hook_head_index", "dataset_path", *_MASK)
    return new | {"metadata": {key: new[key] for key in keys if key in new} | meta}


def _scale(path: Path, settings: Mapping[str, Any], doubts: list[str]) -> float:
    """The input scale: folded in a finished file, stored in a separate file in a checkpoint."""
    kind = settings.get("normalize_activations", "none")
    if kind not in NORMALISATIONS:
        raise DictionaryError(
            f"{path}: normalize_activations {kind!r} is not supported; fold it in SAELens first"
            " (save the inference model)"
        )
    stored_scale = peek_json(path / SCALER).get("scaling_factor")
    if kind != "expected_average_only_in":
        if kind == "none" and stored_scale not in (None, 1, 1.0):
            doubts.append(
                f"{path}: {CONFIG} says that inputs are not scaled (folded), but {SCALER} has a"
                f" factor of {stored_scale:.4g}: it is half-folded, or would be scaled twice"
            )
        return 1.0
    if stored_scale is None:
        doubts.append(
            f"{path}: inputs should be scaled to an average norm of sqrt(d_in), but the factor"
            f" is neither folded nor in {SCALER}: it is half-folded"
        )
    return 1.0 if stored_scale is None else float(stored_scale)


def _config(
    path: Path, name: str, settings: Mapping[str, Any], meta: Mapping[str, Any]
) -> DictionaryConfig:
    architecture = ARCHITECTURES[name]
    transcoder = name.endswith("transcoder")
    options: dict[str, Any] = {}
    if architecture in ("topk", *BATCHTOPK_ARCHITECTURES):
        k = settings.get("k")
        if not isinstance(k, int | float) or k != int(k):
            raise DictionaryError(f"{path}: k is {k!r}, expected a whole number of codes per input")
        options |= {
            "k": int(k),
            "rank_by": "norm" if settings.get("rescale_acts_by_decoder_norm") else "value",
        }
    if architecture == "matryoshka":
        widths = list(settings.get("matryoshka_widths") or [])
        options["prefixes"] = (
            *widths,
            *([] if widths[-1:] == [settings.get("d_sae")] else [settings.get("d_sae")]),
        )
    if architecture == "matching_pursuit":
        if (
            settings.get("stop_on_duplicate_support") is False
            or settings.get("apply_b_dec_to_input") is False
        ):
            raise DictionaryError(
                f"{path}: a matching pursuit is supported only with apply_b_dec_to_input and"
                " stop_on_duplicate_support true"
            )
        options |= {
            "residual_threshold": settings.get("residual_threshold", 1e-2),
            "steps": settings.get("max_iterations"),
        }
    try:
        return DictionaryConfig(
            architecture,
            required_field(settings, "d_in", int, path / CONFIG),
            required_field(settings, "d_sae", int, path / CONFIG),
            d_out=required_field(settings, "d_out", int, path / CONFIG) if transcoder else None,
            input_bias=not transcoder and bool(settings.get("apply_b_dec_to_input", True)),
            normalisation=NORMALISATIONS[settings.get("normalize_activations", "none")],
            skip="skip" in name,
            **options,
        )
    except OptionError as error:
        raise DictionaryError(f"{path / CONFIG}: {error}") from error


def _tensors(
    path: Path, config: DictionaryConfig, tensors: dict[str, Tensor], scale: float
) -> dict[str, Tensor]:
    tensors = dict(tensors)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    if "topk_threshold" in tensors:
        tensors["threshold"] = tensors.pop("topk_threshold").double()
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not bool(
        torch.allclose(factor.float(), torch.ones_like(factor.float()))
    ):
        raise DictionaryError(
            f"{path}: a separate scaling_factor of codes is not supported; fold it first"
        )
    return {**tensors, "scale": torch.full((1,), scale)}


def _doubts(
    path: Path,
    dictionary: Dictionary,
    meta: Mapping,
    stored_dtype: torch.dtype,
    is_checkpoint: bool,
) -> list[str]:
    """Contradictions in a finished file; a training checkpoint is not folded yet and is read as it
    is.
    """
    config, norms = dictionary.config, dictionary.decoder_norms.sum(1)
    is_unit = has_unit_rows(dictionary, stored_dtype)
    if config.architecture == "matching_pursuit" and (
        has_unexpected_norms(dictionary) or float(to_host(norms.max())) ** 2 >= 2
    ):
        # from a norm of sqrt(2) on a step increases the residual
        return [
            f"{path}: a matching pursuit's atoms start at norm 1, these have norm"
            f" {norm_range(norms)}: it is half-folded"
        ]
    if (
        config.architecture == "topk"
        and config.rank_by == "norm"
        and not is_checkpoint
        and not is_unit
    ):
        return [
            f"{path}: codes are ranked by decoder norm (rescale_acts_by_decoder_norm), and a"
            f" finished file then has rows of norm 1; these have norm {norm_range(norms)}: it is"
            " half-folded"
        ]
    details = meta.get("training_architecture_details") or {}
    by_batch = meta.get("training_architecture") in ("batchtopk", "matryoshka_batchtopk")
    if (
        config.architecture == "jumprelu"
        and by_batch
        and details.get("rescale_acts_by_decoder_norm")
    ):
        level = dictionary.threshold.detach()
        equal_thresholds = bool(to_host(((level - level[0]).abs() <= 1e-2 * level[0].abs()).all()))
        if not is_unit or not equal_thresholds:
            observed = (
                f"rows of norm {norm_range(norms)}"
                if not is_unit
                else f"thresholds of {norm_range(level)}"
            )
            diagnosis = "half-folded" if not is_unit else "folded twice"
            return [
                f"{path}: a {meta['training_architecture']} ranked by decoder norm has rows of"
                f" norm 1 and a single threshold, this has {observed}: it is {diagnosis}"
            ]
    return []


# ---------------------------------------------------------------------- writing


def write(dictionary: Dictionary, about: Mapping[str, Any], folder: Path) -> None:
    """Files that ``SAE.load_from_disk`` reads."""
    converted = simplified(dictionary, "saelens", per_input=True, transcoder=True)
    config = converted.config
    settings: dict[str, Any] = {}
    training, details = config.architecture, {}
    transcoder = config.is_transcoder or config.skip
    if config.skip and not config.is_transcoder:
        raise OptionError(
            "saelens has skip connections for transcoders only; use --to sparsify or --to interp"
        )
    if transcoder and config.architecture not in ("standard", "jumprelu", *BATCHTOPK_ARCHITECTURES):
        raise OptionError(
            f"saelens has no {config.architecture} transcoders; use --to sparsify (topk) or --to"
            " interp"
        )
    names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
    name = config.architecture
    if config.architecture in BATCHTOPK_ARCHITECTURES:
        if bool(to_host(converted.threshold.isnan())):
            raise OptionError(
                "saelens stores a batchtopk with its threshold, and this one has none yet; train"
                " it further"
            )
        converted, name = ranked_by_value(converted), "jumprelu"
        training = {"batchtopk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}[
            config.architecture
        ]
        details = {"k": config.k, "rescale_acts_by_decoder_norm": config.rank_by == "norm"}
        details |= {"matryoshka_widths": list(config.prefixes)} if config.prefixes else {}
    elif config.architecture == "topk":
        converted = fold_decoder_norm(converted) if config.rank_by == "norm" else converted
        settings = {"k": config.k, "rescale_acts_by_decoder_norm": config.rank_by == "norm"}
    elif config.architecture == "gated":
        names = {key: key for key in ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")}
    elif config.architecture == "matching_pursuit":
        names = {"W_dec": "W_dec", "b_dec": "b_dec"}
        settings = {
            "residual_threshold": config.residual_threshold,
            "max_iterations": config.steps,
            "stop_on_duplicate_support": True,
        }
    tensors = renamed_parameters(converted, names | ({"W_skip": "W_skip"} if config.skip else {}))
    if name == "jumprelu":
        tensors["threshold"] = (
            in_host_memory(converted.threshold.float()).clamp_min(0).expand(config.width).clone()
        )
    if transcoder:
        name = (
            ("jumprelu_" if name == "jumprelu" else "")
            + ("skip_" if config.skip else "")
            + "transcoder"
        )
        settings["d_out"] = config.d_out
    saelens_names = {ours: theirs for theirs, ours in NORMALISATIONS.items()}
    meta = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": about.get("model"),
        "hook_name": about.get("site"),
        "hook_layer": about.get("layer"),
        "training_architecture": training,
        "training_architecture_details": details,
        **(about.get("mask") or {}),
    }
    meta |= {"hook_name_out": about.get("target")} if transcoder else {}
    settings |= {
        "architecture": name,
        "d_in": config.d_in,
        "d_sae": config.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.input_bias or name == "matching_pursuit",
        "normalize_activations": saelens_names[converted.config.normalisation],
        "reshape_activations": "none",
        "metadata": meta,
    }
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, settings)


FORMAT = Format("saelens", f"{CONFIG} and {WEIGHTS}", holds, read, write)
