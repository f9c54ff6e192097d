"""Two file formats of crosscoders between models, both read into one layout with models
concatenated.

``crosscoder``: the dictionary_learning fork of Minder et al. (2025), ``encoder.weight`` [L, D, F].
Of its code normalisations, the sum of norms becomes ranking by norm, others become thresholds per
latent, and decoupled codes are refused. ``kissane-crosscoder``: ``cc_weights.pt`` of Kissane et al.
(2024), ``W_enc`` [2, D, F] and ``W_dec`` [F, 2, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import DictionaryError, OptionError, required
from interp.maths.host import to_host
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.dictionary import Dictionary
from interp.sae.core.files import dictionary_from_tensors, read_tensors
from interp.sae.formats.base import (
    Format,
    LoadedDictionary,
    describe,
    peek_json,
    read_json,
    read_pickle,
)

CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
CONFIGS = ("config.json", "trainer_config.json")
WEIGHTS = ("model.safetensors", "model_final.pt", "ae.pt", "ae_final.pt")
NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
NORMS = {1: "crosscoder", 2: "sae", 3: "mixed", 4: "none", 5: "decoupled"}


def _weights(path: Path) -> Path | None:
    if path.is_file():
        return path
    return next((path / name for name in WEIGHTS if (path / name).exists()), None)


def _settings(path: Path) -> dict[str, Any]:
    """The merged contents of all configuration files in the folder."""
    folder = path if path.is_dir() else path.parent
    merged: dict[str, Any] = {}
    for name in CONFIGS:
        value = peek_json(folder / name)
        merged |= value | (value["trainer"] if isinstance(value.get("trainer"), dict) else {})
    return merged


def holds(path: Path) -> bool:
    """Whether a folder has the configuration of a crosscoder (its class, or a number of layers with
    a code normalisation).
    """
    config = _settings(path)
    is_crosscoder = config.get("dict_class") in CLASSES or {
        "num_layers",
        "activation_dim",
        "dict_size",
    } <= set(config)
    return is_crosscoder and _weights(path) is not None


def read(path: Path) -> LoadedDictionary:
    """A crosscoder of the fork; of two models, 0 is the base and 1 the fine-tuned model."""
    weights, settings = required(_weights(path), "a file of weights"), _settings(path)
    tensors = read_tensors(weights) if weights.suffix == ".safetensors" else read_pickle(weights)
    tensors = dict(tensors)
    if missing := sorted(set(NAMES) - set(tensors)):
        raise DictionaryError(
            f"{weights} lacks {', '.join(missing)}; it is truncated or not a crosscoder"
        )
    encoder, decoder = tensors.pop("encoder.weight"), tensors.pop("decoder.weight")
    b_enc, b_dec = tensors.pop("encoder.bias"), tensors.pop("decoder.bias")
    if encoder.ndim != 3 or decoder.ndim != 3 or b_dec.ndim != 2:
        raise DictionaryError(
            f"{weights}: a crosscoder's weights have an axis of models, but the encoder has"
            f" shape {list(encoder.shape)}"
        )
    models, d_in, width = encoder.shape
    if settings.get("encoder_layers") not in (None, list(range(models))) or len(decoder) != models:
        raise DictionaryError(
            f"{weights}: it encodes {models} models and decodes {len(decoder)}; only equal"
            " numbers are supported"
        )
    norm = NORMS.get(
        int(to_host(tensors.pop("code_normalization_id", torch.tensor(1))).item()), "unknown"
    )
    by_batch = "k" in tensors
    k = int(to_host(tensors.pop("k", torch.tensor(0))).item())
    threshold = tensors.pop("threshold", torch.tensor(-1.0))
    scale, mean, doubts = _normalisation(weights, tensors, models)
    if tensors:
        raise DictionaryError(
            f"{weights} has {', '.join(sorted(tensors))}, which a crosscoder does not have"
        )
    if by_batch and (norm in ("decoupled", "unknown") or threshold.ndim):
        raise DictionaryError(
            f"{weights}: its codes are {norm}, one per model, which is not supported"
        )
    is_shared = norm in ("crosscoder", "none")
    architecture = ("batchtopk" if is_shared else "jumprelu") if by_batch else "standard"
    try:
        config = DictionaryConfig(
            architecture,
            d_in,
            width,
            models=models,
            k=k if architecture == "batchtopk" else None,
            input_bias=False,
            rank_by="norm" if architecture == "batchtopk" and norm == "crosscoder" else "value",
            normalisation="none" if scale is None else "scale",
        )
    except OptionError as error:
        raise DictionaryError(f"{weights}: {error}") from error
    parameters = _concatenated(
        encoder.float(), decoder.float().transpose(0, 1), b_enc.float(), b_dec.float()
    )
    if scale is not None:
        # fold the mean into biases, but keep each model's scale, so that decoder norms stay
        # comparable
        parameters["scale"] = scale
        shift = (required(mean, "a mean for the scale") * scale[:, None]).flatten().double()
        parameters["b_enc"] = (
            parameters["b_enc"].double() - shift @ parameters["W_enc"].double()
        ).float()
        parameters["b_dec"] = (parameters["b_dec"].double() + shift).float()
    is_unset = by_batch and float(to_host(threshold)) < 0
    if architecture == "batchtopk":
        parameters["threshold"] = torch.tensor(torch.nan) if is_unset else threshold.double()
    elif architecture == "jumprelu":
        if is_unset:
            raise DictionaryError(
                f"{weights}: its threshold was never set; train it further before converting it"
            )
        parameters["threshold"] = threshold / _norms(decoder.float(), norm, settings)
    dictionary = dictionary_from_tensors(config, parameters, str(path))
    notes = (
        ["no threshold was set in training; one has to be set before it can encode"]
        if is_unset
        else []
    )
    extra: dict[str, Any] = {"k": k} if by_batch else {}
    about = describe(
        "crosscoder",
        model=settings.get("lm_name"),
        site=settings.get("submodule_name"),
        layer=settings["layer"] if isinstance(settings.get("layer"), int) else None,
        folded={"decoder_norm": False, "scale": scale is None},
        notes=tuple(notes),
        source=settings,
        code_normalisation=norm,
        **extra,
    )
    return LoadedDictionary(dictionary, about, tuple(doubts))


def _normalisation(
    path: Path, tensors: dict[str, Tensor], models: int
) -> tuple[Tensor | None, Tensor | None, list]:
    """Scale and mean of each model's activations, removed from the buffers; None if there are
    none.
    """
    mean, deviation = tensors.pop("activation_mean", None), tensors.pop("activation_std", None)
    scale, target = (
        tensors.pop("activation_global_scale", None),
        tensors.pop("target_rms", torch.tensor(1.0)),
    )
    if (
        mean is None
        or deviation is None
        or bool(to_host(mean.isnan().any()))
        or bool(to_host(deviation.isnan().any()))
    ):
        return None, None, []
    expected = target / (deviation.square().sum(1) + 1e-8).sqrt()
    if scale is None:
        return expected.float(), mean.float(), []
    error = to_host((scale / expected - 1).abs())
    if (error > 1e-2).any():
        first, stored, expected_values = int(error.argmax()), to_host(scale), to_host(expected)
        return (
            scale.float(),
            mean.float(),
            [
                f"{path}: model {first}'s activations are scaled by {stored[first]:.4g}, while"
                f" their deviations and target_rms give {expected_values[first]:.4g}: the scale was"
                " folded twice, or is half-folded"
            ],
        )
    return scale.float(), mean.float(), []


def _norms(decoder: Tensor, norm: str, settings: Mapping[str, Any]) -> Tensor:
    joint_norm, summed_norm = decoder.norm(dim=(0, 2)), decoder.norm(dim=2).sum(0)
    if norm == "sae":
        return joint_norm
    alpha = (
        settings.get("code_normalization_alpha_sae", 1.0),
        settings.get("code_normalization_alpha_cc", 0.1),
    )
    return joint_norm * alpha[0] + summed_norm * alpha[1]


def _concatenated(
    encoder: Tensor, decoder: Tensor, b_enc: Tensor, b_dec: Tensor
) -> dict[str, Tensor]:
    """Convert ``encoder`` [M, D, F], ``decoder`` [F, M, D], ``b_dec`` [M, D] to our layout."""
    return {
        "W_enc": encoder.flatten(0, 1),
        "W_dec": decoder.flatten(1),
        "b_enc": b_enc,
        "b_dec": b_dec.flatten(),
    }


# ---------------------------------------------------------------------- Kissane et al.


def holds_kissane(path: Path) -> bool:
    """Whether a folder has ``cc_weights.pt`` and its configuration."""
    return (path / "cc_weights.pt").exists() and (path / "cfg.json").exists()


def read_kissane(path: Path) -> LoadedDictionary:
    """A crosscoder of Kissane et al.: the relu of a sum over both models, for inputs scaled
    beforehand.
    """
    settings, tensors = read_json(path / "cfg.json"), read_pickle(path / "cc_weights.pt")
    if set(tensors) != {"W_enc", "W_dec", "b_enc", "b_dec"}:
        raise DictionaryError(
            f"{path}: expected W_enc, W_dec, b_enc, b_dec, found {', '.join(sorted(tensors))}"
        )
    if tensors["W_enc"].ndim != 3 or tensors["W_dec"].ndim != 3:
        raise DictionaryError(
            f"{path}: a crosscoder's weights have an axis of models, but W_enc has shape"
            f" {list(tensors['W_enc'].shape)}"
        )
    models, d_in, width = tensors["W_enc"].shape
    for key, size in (("d_in", d_in), ("dict_size", width)):
        if settings.get(key, size) != size:
            raise DictionaryError(
                f"{path}: W_enc is {list(tensors['W_enc'].shape)}, cfg.json says {key}"
                f" {settings[key]}"
            )
    config = DictionaryConfig("standard", d_in, width, models=models, input_bias=False)
    parameters = _concatenated(
        *(tensors[key].float() for key in ("W_enc", "W_dec", "b_enc", "b_dec"))
    )
    dictionary: Dictionary = dictionary_from_tensors(config, parameters, str(path))
    about = describe(
        "kissane-crosscoder",
        model=settings.get("model_name"),
        site=settings.get("hook_point"),
        folded={"decoder_norm": False, "scale": None},
        notes=(
            (
                "in training each model's activations were scaled to an average norm of"
                " sqrt(d_in), by factors that the file does not record; scale inputs likewise,"
                " unless they were folded"
            ),
        ),
        source=settings,
    )
    return LoadedDictionary(dictionary, about)


FORMAT = Format(
    "crosscoder", "config.json of a CrossCoder, and model.safetensors or ae.pt", holds, read
)
KISSANE = Format("kissane-crosscoder", "cfg.json and cc_weights.pt", holds_kissane, read_kissane)
