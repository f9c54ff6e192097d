"""Loading one model or tokenizer through Hugging Face, with a specific error for each defect of a
checkpoint.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from interp.errors import (
    MissingWeights,
    ModelError,
    NonFiniteWeights,
    OptionError,
    OutOfMemory,
    TruncatedWeights,
    UnsupportedModel,
)
from interp.maths.host import raw_bytes, to_host
from interp.maths.memory import ran_out_of_memory
from interp.models.anatomy import PROVEN
from interp.models.matrices import keep_codes
from interp.models.meta_model import LANGUAGE_MODEL, configuration
from interp.models.offload import spread, tensors
from interp.models.quiet import line, quiet
from interp.models.sources import Source, about_missing, read_json
from interp.provenance import directory_digest, file_digest

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_FLOATS = ("F64", "F32", "F16", "BF16")
_INCIDENTAL = ("_name_or_path", "name_or_path", "transformers_version")


@dataclass(frozen=True)
class Settings:
    """Device, dtype and other options with which models are loaded."""

    device: torch.device
    dtype: torch.dtype | str
    attention: str
    trust_remote_code: bool
    spread: bool = False

    @classmethod
    def resolve(
        cls, device: str, dtype: str, attention: str, trust_remote_code: bool
    ) -> "Settings":
        """Parse the common options; raises OptionError for a device or dtype that this machine does
        not have.

        ``spread`` lets accelerate place the weights: on all accelerators, then in main memory, then
        on disk.
        """
        spread = device == "spread"
        if device == "auto" or spread:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            where = torch.device(device)
        except RuntimeError as error:
            raise OptionError(
                f"--device {device} is unknown; use auto, spread, cpu, cuda or cuda:N"
            ) from error
        if where.type not in ("cpu", "cuda"):
            raise OptionError(
                f"--device {device} is not supported; use auto, spread, cpu, cuda or cuda:N"
            )
        if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
            raise OptionError(
                f"--device {device}: {torch.cuda.device_count()} CUDA devices are visible to torch "
                f"{torch.__version__}; use cpu"
            )
        if dtype != "auto" and dtype not in _DTYPES:
            raise OptionError(f"--dtype {dtype} is unknown; use auto, {', '.join(_DTYPES)}")
        if dtype == "auto":
            chosen = torch.float32 if where.type == "cpu" else "auto"
            return cls(where, chosen, attention, trust_remote_code, spread)
        return cls(where, _DTYPES[dtype], attention, trust_remote_code, spread)


def module(source: Source, settings: Settings) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """A causal language model from a directory, and notes on it; raises a ModelError for any
    defect.
    """
    require_readable(source)
    config = configuration(source, settings.trust_remote_code)
    try:
        loaded, notes = _read(source, settings, config)
        return loaded, (*source.notes, *notes)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{settings.device} has not enough memory for {source.name} ({line(error)}); use "
            "--dtype bfloat16, --device spread or another --device"
        ) from error


def _read(
    source: Source, settings: Settings, config: PreTrainedConfig
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, complete, finite and on its device."""
    try:
        with quiet():
            # with output_loading_info a model and a report are returned, unlike the annotation
            model_and_report: Any = AutoModelForCausalLM.from_pretrained(
                source.directory,
                config=config,
                dtype=settings.dtype,
                attn_implementation=None if settings.attention == "auto" else settings.attention,
                trust_remote_code=settings.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                key_mapping=LANGUAGE_MODEL if source.text else None,
                device_map="auto" if settings.spread else None,
            )
            loaded, report = model_and_report
    except (SafetensorError, EOFError) as error:
        raise TruncatedWeights(
            f"{source.name}: weights cannot be read ({line(error)}); copy them again"
        ) from error
    except OSError as error:
        raise MissingWeights(
            f"{source.name} lacks a file ({line(error)}); check that it is complete"
        ) from error
    except ImportError as error:  # a quantisation's library, or an attention kernel's
        raise UnsupportedModel(
            f"{source.name} cannot be loaded as a causal language model without a library that is"
            f" not installed here ({line(error)}); install it"
        ) from error
    except ValueError as error:
        raise UnsupportedModel(
            f"{source.name} cannot be loaded as a causal language model ({line(error)}); tested: "
            f"{', '.join(PROVEN)}"
        ) from error
    except Exception as error:  # the model's code may raise errors of any class
        if ran_out_of_memory(error):
            raise
        raise ModelError(
            f"{source.name} cannot be loaded as a causal language model ({line(error)}); check the"
            " checkpoint"
        ) from error
    if source.text:
        # otherwise it would be saved under the names of the multimodal model
        vars(loaded).pop("_weight_conversions", None)
    keep_codes(source.name, loaded)
    notes = _require_whole(source, loaded, report)
    _require_numbers(source, loaded)
    require_finite(source.name, loaded)
    return (loaded if spread(loaded) else loaded.to(settings.device)).eval().requires_grad_(
        False
    ), notes


def _require_whole(
    source: Source, loaded: PreTrainedModel, report: Mapping[str, Any]
) -> tuple[str, ...]:
    """Every tensor that the architecture needs must exist in its shape; returns a note on unused
    tensors.
    """
    missing = sorted(report["missing_keys"])
    mismatched = sorted(
        f"{key} ({tuple(shape)}, needed {tuple(expected)})"
        for key, shape, expected in report["mismatched_keys"]
    )
    if missing or mismatched:
        what = "lacks" if missing else "stores in another shape"
        saved = (read_json(source.directory / "config.json").get("architectures") or [None])[0]
        other = f" (it was saved as {saved})" if saved not in (None, type(loaded).__name__) else ""
        raise MissingWeights(
            f"{source.name} {what} {len(missing) + len(mismatched)} of the tensors that"
            f" {type(loaded).__name__} needs{other}, first {(missing or mismatched)[0]};"
            f" {about_missing(missing, report['unexpected_keys'])}"
        )
    if not report["unexpected_keys"]:
        return ()
    unused = sorted(report["unexpected_keys"])
    return (
        (
            f"{source.name} contains {len(unused)} tensors that {type(loaded).__name__} does not "
            f"use, first {unused[0]}: they were ignored"
        ),
    )


def _require_numbers(source: Source, loaded: PreTrainedModel) -> None:
    """Refuse quantised weights without a known quantisation: their codes would be read as numbers."""
    if getattr(loaded, "hf_quantizer", None) is not None:
        return
    if named := read_json(source.directory / "config.json").get("quantization_config"):
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not support the "
            f"quantisation {named.get('quant_method')!r} of its config.json; give the unquantised "
            "model"
        )
    for path in sorted(source.directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                if key.endswith(".weight") and file.get_slice(key).get_dtype() not in _FLOATS:
                    raise UnsupportedModel(
                        f"{source.name} stores {key} as {file.get_slice(key).get_dtype()}, and its "
                        "config.json names no quantisation; give the unquantised model"
                    )


def require_readable(source: Source) -> None:
    """Open the header of every safetensors file and check its length.

    Raises TruncatedWeights or MissingWeights.
    """
    for path in sorted(source.directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise TruncatedWeights(
                f"{path.name} of {source.name} is truncated or damaged ({line(error)}); copy or"
                " download it again"
            ) from error
    index = source.directory / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(shard, str) for shard in shards.values()
        ):
            raise TruncatedWeights(
                f"{index.name} of {source.name} maps no tensors to files; download it again"
            )
        for shard in sorted(set(shards.values())):
            if not (source.directory / shard).exists():
                raise MissingWeights(
                    f"{source.name} lacks the shard {shard} listed in its index; download it again"
                )


def require_finite(name: str, loaded: nn.Module) -> None:
    """Raise NonFiniteWeights for NaN or infinity among the weights."""
    for key, value in tensors(loaded):
        if (
            value.is_floating_point()
            and value.itemsize > 1
            and not to_host(torch.isfinite(value).all())
        ):
            raise NonFiniteWeights(
                f"{name}: {key} contains NaN or infinity; the checkpoint is damaged or its training "
                "diverged"
            )


def tokenizer(directories: Sequence[Path], settings: Settings) -> Tokenizer:
    """The tokenizer of the first directory that has one, with a padding token chosen if none is
    set.
    """
    for directory in directories:
        if not has_tokenizer(directory):
            continue
        try:
            with quiet():
                found = AutoTokenizer.from_pretrained(
                    directory, trust_remote_code=settings.trust_remote_code
                )
        except Exception as error:  # a damaged tokenizer file may raise errors of any class
            if not settings.trust_remote_code and "trust_remote_code" in str(error):
                raise UnsupportedModel(
                    f"the tokenizer of {directory} needs its own Python code, which the command "
                    "line does not run; read that code, then use Pair.load(..., "
                    "trust_remote_code=True) in Python"
                ) from error
            raise ModelError(
                f"{directory.name}: its tokenizer cannot be loaded ({line(error)}); copy its files"
                " again"
            ) from error
        if found.pad_token_id is None:
            found.pad_token = found.eos_token or found.unk_token
        return found
    raise ModelError(
        f"no tokenizer files in {directories[0]}; copy the fine-tuned model's tokenizer there"
    )


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory contains tokenizer files."""
    return any(
        (directory / file).exists()
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    )


def weights_digest(source: Source) -> str:
    """Content digest of a model's or adapter's weights and configuration, or of its ``.gguf`` file."""
    if source.origin is not None and source.origin.is_file():
        return file_digest(source.origin)
    return directory_digest(
        source.directory, ["*.safetensors", "config.json", "adapter_config.json"]
    )


def memory_digest(
    loaded: PreTrainedModel, named: Callable[[str], str | None] = str, more: str = ""
) -> str:
    """Content digest of a model in memory: configuration, and names, shapes, dtypes and bytes of
    tensors.

    ``named`` maps a tensor's name to the one used in the digest, or None to exclude it; ``more`` is
    anything else that determines what the model computes. The device of the tensors does not
    matter.
    """
    config = {
        key: value for key, value in loaded.config.to_dict().items() if key not in _INCIDENTAL
    }
    found = {}
    for key, value in tensors(loaded):
        if (name := named(key)) is not None:
            found[name] = (
                f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(raw_bytes(value)).hexdigest()}"
            )
    return hashlib.sha256(
        (json.dumps([config, found], sort_keys=True, default=str) + more).encode()
    ).hexdigest()


def tokenizer_digests(found: Tokenizer) -> dict[str, str]:
    """Digests of the vocabulary and of the chat template, each with other settings that affect ids
    or answers.

    The vocabulary includes its merges (of a fast tokenizer), the ids skipped in answers, and the
    clean-up of spaces; the template includes the special tokens that it can write.
    """
    backend = getattr(found, "backend_tokenizer", None)
    text = json.dumps(found.get_vocab(), sort_keys=True)
    if backend is not None:
        # the backend remembers padding and truncation of the last call, which are not tokenizer
        # settings
        parts = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        text = json.dumps(parts, sort_keys=True)
    cleans = getattr(found, "clean_up_tokenization_spaces", None)
    special = {index for index in getattr(found, "all_special_ids", ()) if index is not None}
    text += json.dumps([sorted(special), cleans])
    template = (
        found.chat_template
        if isinstance(found.chat_template, str)
        else json.dumps(found.chat_template)
    )
    template += json.dumps(getattr(found, "special_tokens_map", {}), sort_keys=True, default=str)
    return {
        "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
        "template": hashlib.sha256(template.encode()).hexdigest(),
    }
