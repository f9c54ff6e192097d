"""Two published families of dictionaries, read only: Gemma Scope (``params.npz``) and Llama Scope
(``hyperparams.json``).
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp.errors import DictionaryError, OptionError
from interp.sae.core.config import DictionaryConfig
from interp.sae.core.files import dictionary_from_tensors, read_tensors
from interp.sae.formats.base import (
    Format,
    LoadedDictionary,
    describe,
    has_unit_rows,
    peek_json,
    read_json,
    renamed_tensors,
    required_field,
)

CONFIG = "config.json"
KINDS = ("transcoder", "embeddings")
PARAMS, PARAMS_2 = "params.npz", "params.safetensors"
HYPER, FINAL = "hyperparams.json", Path("checkpoints") / "final.safetensors"


def holds_gemma(path: Path) -> bool:
    """Whether a path is Gemma Scope's archive, or a folder that contains it."""
    if path.is_file():
        return path.name in (PARAMS, PARAMS_2)
    return (path / PARAMS).exists() or (path / PARAMS_2).exists()


def read_gemma(path: Path, kind: str | None = None) -> LoadedDictionary:
    """A jumprelu autoencoder (Lieberum et al. 2024, arXiv 2408.05147) that does not subtract its
    decoder bias.

    Files of Gemma Scope 1 contain weights only: a ``transcoder`` has to be named by ``kind``, and
    ``embeddings``, trained on embeddings times sqrt(D), are converted to read unscaled embeddings
    only under that kind. Gemma Scope 2 states it in the configuration; transcoders across layers
    are refused.
    """
    folder = path.parent if path.is_file() else path
    weights = (
        path if path.is_file() else next(p for p in (path / PARAMS, path / PARAMS_2) if p.exists())
    )
    tensors = _arrays(weights) if weights.suffix == ".npz" else read_tensors(weights)
    tensors = {
        ("W_" + key[2:] if key.startswith("w_") else key): value for key, value in tensors.items()
    }
    settings = peek_json(folder / CONFIG)
    if "affine_skip_connection" in tensors:
        tensors["W_skip.T"] = tensors.pop("affine_skip_connection")
    names = {key: key for key in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    parameters = renamed_tensors(
        {key.removesuffix(".T"): value for key, value in tensors.items()},
        names | ({"W_skip.T": "W_skip"} if "W_skip.T" in tensors else {}),
        weights,
    )
    if parameters["W_enc"].ndim != 2 or parameters["W_dec"].ndim != 2:
        raise DictionaryError(
            f"{weights}: transcoders across layers are not supported, only those of one layer"
        )
    d_in, width = parameters["W_enc"].shape
    if kind and settings:
        raise OptionError(
            f"{folder / CONFIG} already states what the dictionary is; leave --kind {kind} out"
        )
    if kind == "embeddings" and parameters["W_dec"].shape[1] != d_in:
        raise OptionError(
            f"{weights} reads width {d_in} and writes width {parameters['W_dec'].shape[1]}: it is a"
            " transcoder"
        )
    is_stated_transcoder = (
        "hf_hook_point_out" in settings
        or "W_skip" in parameters
        or parameters["W_dec"].shape[1] != d_in
    )
    transcoder, notes = kind == "transcoder" or is_stated_transcoder, []
    if not (kind or settings or is_stated_transcoder):
        notes.append(
            "the file does not state what it is and is read as an autoencoder; for a transcoder,"
            " or a dictionary of embeddings times sqrt(D), give interp sae convert --kind"
            " transcoder or embeddings"
        )
    if kind == "embeddings":
        parameters |= {
            "W_enc": parameters["W_enc"] / math.sqrt(d_in),
            "W_dec": parameters["W_dec"] * math.sqrt(d_in),
        }
        notes.append(
            "of embeddings: converted to read embeddings that are not multiplied by sqrt(D)"
        )
    config = DictionaryConfig(
        "jumprelu",
        d_in,
        width,
        d_out=parameters["W_dec"].shape[1] if transcoder else None,
        input_bias=False,
        skip="W_skip" in parameters,
    )
    dictionary = dictionary_from_tensors(config, parameters, str(path))
    about = describe(
        "gemma-scope",
        model=settings.get("model_name"),
        site=settings.get("hf_hook_point_in"),
        target=settings.get("hf_hook_point_out"),
        folded={"decoder_norm": has_unit_rows(dictionary), "scale": True},
        mask={"prepend_bos": True},
        notes=tuple(notes),
        source=settings,
    )
    return LoadedDictionary(dictionary, about)


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: torch.from_numpy(archive[key].astype(np.float32)) for key in archive.files}
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.error, KeyError) as error:
        raise DictionaryError(
            f"{path} is not a complete archive of arrays ({str(error)[:80]}); download it again"
        ) from error
    except ValueError as error:
        # numpy refuses pickled objects
        raise DictionaryError(
            f"{path} contains pickled objects or a truncated array and is not opened; download"
            " it again"
        ) from error


def holds_llama(path: Path) -> bool:
    """Whether a folder has Llama Scope's hyperparameters and final checkpoint."""
    return (path / HYPER).exists() and (path / FINAL).exists()


def read_llama(path: Path) -> LoadedDictionary:
    """A jumprelu autoencoder of Llama Scope (He et al. 2024, arXiv 2410.20526), with the scale of
    its inputs.

    Its single threshold is in units of the model's activations, and is multiplied by the scale if
    inputs are scaled. Codes are those of scaled inputs.
    """
    settings = read_json(path / HYPER)
    d_in, width = (required_field(settings, key, int, path / HYPER) for key in ("d_model", "d_sae"))
    activation, kind = (
        settings.get("act_fn", "relu"),
        settings.get("norm_activation", "dataset-wise"),
    )
    if activation not in ("jumprelu", "relu") or settings.get("use_glu_encoder"):
        raise DictionaryError(
            f"{path}: act_fn {activation!r} (or a gated encoder) is not supported, only jumprelu"
            " and relu"
        )
    if kind not in ("dataset-wise", "inference"):
        raise DictionaryError(
            f"{path}: norm_activation {kind!r} is not supported, only dataset-wise and inference"
        )
    names = {
        "encoder.weight.T": "W_enc",
        "encoder.bias": "b_enc",
        "decoder.weight.T": "W_dec",
        "decoder.bias": "b_dec",
    }
    parameters = {
        key: value.float()
        for key, value in renamed_tensors(read_tensors(path / FINAL), names, path / FINAL).items()
    }
    scale = output_scale = 1.0
    if kind == "dataset-wise":
        norms = settings.get("dataset_average_activation_norm")
        if not isinstance(norms, dict) or not {"in", "out"} <= set(norms):
            raise DictionaryError(
                f"{path / HYPER} lacks dataset_average_activation_norm, which scales inputs"
            )
        scale, output_scale = math.sqrt(d_in) / norms["in"], math.sqrt(d_in) / norms["out"]
        # the dictionary has one scale for inputs and outputs; fold the difference into the decoder
        parameters |= {
            "W_dec": parameters["W_dec"] * (scale / output_scale),
            "b_dec": parameters["b_dec"] * (scale / output_scale),
        }
        parameters["scale"] = torch.tensor([scale])
    transcoder = settings.get("hook_point_out", settings.get("hook_point_in")) != settings.get(
        "hook_point_in"
    )
    config = DictionaryConfig(
        "jumprelu" if activation == "jumprelu" else "standard",
        d_in,
        width,
        d_out=d_in if transcoder else None,
        input_bias=bool(settings.get("apply_decoder_bias_to_pre_encoder")) and not transcoder,
        normalisation="scale" if kind == "dataset-wise" else "none",
    )
    if activation == "jumprelu":
        parameters["threshold"] = torch.full(
            (width,), float(settings.get("jump_relu_threshold", 0.0)) * scale
        )
    dictionary = dictionary_from_tensors(config, parameters, str(path))
    about = describe(
        "llama-scope",
        site=settings.get("hook_point_in"),
        target=settings.get("hook_point_out") if transcoder else None,
        folded={
            "decoder_norm": has_unit_rows(dictionary, torch.bfloat16),
            "scale": kind != "dataset-wise",
        },
        mask={"prepend_bos": True},
        source=settings,
    )
    return LoadedDictionary(dictionary, about)


GEMMA = Format("gemma-scope", f"{PARAMS} (or {PARAMS_2})", holds_gemma, read_gemma, kinds=KINDS)
LLAMA = Format("llama-scope", f"{HYPER} and {FINAL}", holds_llama, read_llama)
