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
from interp.maths.memory import is_out_of_memory
from interp.models.anatomy import TESTED_ARCHITECTURES
from interp.models.matrices import prevent_repacking
from interp.models.meta_model import LANGUAGE_MODEL_PREFIXES, configuration
from interp.models.offload import is_dispatched, named_tensors
from interp.models.quiet import error_text, quiet_libraries
from interp.models.sources import Source, find, missing_tensors_advice, read_json
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
class LoadSettings:
    """Device, dtype and other options with which models are loaded."""

    device: torch.device
    dtype: torch.dtype | str
    attention: str
    trust_remote_code: bool
    spread: bool = False

    @classmethod
    def resolve(
        cls, device: str, dtype: str, attention: str, trust_remote_code: bool
    ) -> "LoadSettings":
        """Parse the common options; raises OptionError for a device or dtype that this machine does
        not have.

        ``spread`` lets accelerate place the weights: on all accelerators, then in main memory, then
        on disk.
        """
        spread = device == "spread"
        if device == "auto" or spread:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch_device = torch.device(device)
        except RuntimeError as error:
            raise OptionError(
                f"--device {device} is unknown; use auto, spread, cpu, cuda or cuda:N"
            ) from error
        if torch_device.type not in ("cpu", "cuda"):
            raise OptionError(
                f"--device {device} is not supported; use auto, spread, cpu, cuda or cuda:N"
            )
        if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
            raise OptionError(
                f"--device {device}: {torch.cuda.device_count()} CUDA devices are visible to torch "
                f"{torch.__version__}; use cpu"
            )
        if dtype != "auto" and dtype not in _DTYPES:
            raise OptionError(f"--dtype {dtype} is unknown; use auto, {', '.join(_DTYPES)}")
        if dtype == "auto":
            auto_dtype = torch.float32 if torch_device.type == "cpu" else "auto"
            return cls(torch_device, auto_dtype, attention, trust_remote_code, spread)
        return cls(torch_device, _DTYPES[dtype], attention, trust_remote_code, spread)


def module(source: Source, settings: LoadSettings) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """A causal language model from a directory, and notes on it; raises a ModelError for any
    defect.
    """
    require_readable(source)
    config = configuration(source, settings.trust_remote_code)
    try:
        loaded, notes = _read(source, settings, config)
        return loaded, (*source.notes, *notes)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"{settings.device} has not enough memory for {source.name} ({error_text(error)}); use "
            "--dtype bfloat16, --device spread or another --device"
        ) from error


def _read(
    source: Source, settings: LoadSettings, config: PreTrainedConfig
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, complete, finite and on its device."""
    try:
        with quiet_libraries():
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
                key_mapping=LANGUAGE_MODEL_PREFIXES if source.text else None,
                device_map="auto" if settings.spread else None,
            )
            loaded, report = model_and_report
    except (SafetensorError, EOFError) as error:
        raise TruncatedWeights(
            f"{source.name}: weights cannot be read ({error_text(error)}); copy them again"
        ) from error
    except OSError as error:
        raise MissingWeights(
            f"{source.name} lacks a file ({error_text(error)}); check that it is complete"
        ) from error
    except ImportError as error:  # a quantisation's library, or an attention kernel's
        raise UnsupportedModel(
            f"{source.name} cannot be loaded as a causal language model without a library that is"
            f" not installed here ({error_text(error)}); install it"
        ) from error
    except ValueError as error:
        raise UnsupportedModel(
            f"{source.name} cannot be loaded as a causal language model ({error_text(error)});"
            f" tested: {', '.join(TESTED_ARCHITECTURES)}"
        ) from error
    except Exception as error:  # the model's code may raise errors of any class
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{source.name} cannot be loaded as a causal language model ({error_text(error)});"
            " check the checkpoint"
        ) from error
    if source.text:
        # otherwise it would be saved under the names of the multimodal model
        vars(loaded).pop("_weight_conversions", None)
    prevent_repacking(source.name, loaded)
    notes = _require_complete(source, loaded, report)
    _require_known_quantisation(source, loaded)
    require_finite(source.name, loaded)
    return (loaded if is_dispatched(loaded) else loaded.to(settings.device)).eval().requires_grad_(
        False
    ), notes


def _require_complete(
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
        problem = "lacks" if missing else "stores in another shape"
        saved_class = (read_json(source.directory / "config.json").get("architectures") or [None])[
            0
        ]
        saved_as = (
            f" (it was saved as {saved_class})"
            if saved_class not in (None, type(loaded).__name__)
            else ""
        )
        raise MissingWeights(
            f"{source.name} {problem} {len(missing) + len(mismatched)} of the tensors that"
            f" {type(loaded).__name__} needs{saved_as}, first {(missing or mismatched)[0]};"
            f" {missing_tensors_advice(missing, report['unexpected_keys'])}"
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


def _require_known_quantisation(source: Source, loaded: PreTrainedModel) -> None:
    """Refuse quantised weights without a known quantisation: their codes would be read as numbers."""
    if getattr(loaded, "hf_quantizer", None) is not None:
        return
    if quantisation := read_json(source.directory / "config.json").get("quantization_config"):
        raise UnsupportedModel(
            f"{source.name}: transformers {transformers.__version__} does not support the"
            f" quantisation {quantisation.get('quant_method')!r} of its config.json; give the"
            " unquantised model"
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
                f"{path.name} of {source.name} is truncated or damaged ({error_text(error)}); copy"
                " or download it again"
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
    for key, value in named_tensors(loaded):
        if (
            value.is_floating_point()
            and value.itemsize > 1
            and not to_host(torch.isfinite(value).all())
        ):
            raise NonFiniteWeights(
                f"{name}: {key} contains NaN or infinity; the checkpoint is damaged or its training"
                " diverged"
            )


def tokenizer(directories: Sequence[Path], settings: LoadSettings) -> Tokenizer:
    """The tokenizer of the first directory that has one, with a padding token chosen if none is
    set.
    """
    for directory in directories:
        if not has_tokenizer(directory):
            continue
        try:
            with quiet_libraries():
                result = AutoTokenizer.from_pretrained(
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
                f"{directory.name}: its tokenizer cannot be loaded ({error_text(error)}); copy its"
                " files again"
            ) from error
        if result.pad_token_id is None:
            result.pad_token = result.eos_token or result.unk_token
        return result
    raise ModelError(
        f"no tokenizer files in {directories[0]}; copy the fine-tuned model's tokenizer there"
    )


def save_tokenizer(name: str, directory: Path) -> None:
    """Write a model's tokenizer, with its chat template, to a directory."""
    settings = LoadSettings.resolve("cpu", "auto", "auto", False)
    with quiet_libraries():
        tokenizer([find(name).directory], settings).save_pretrained(directory)


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
    loaded: PreTrainedModel, digest_name: Callable[[str], str | None] = str, extra: str = ""
) -> str:
    """Content digest of a model in memory: configuration, and names, shapes, dtypes and bytes of
    tensors.

    ``digest_name`` maps a tensor's name to the one used in the digest, or None to exclude it;
    ``extra`` is anything else that determines what the model computes. The device of the tensors
    does not matter.
    """
    config = {
        key: value for key, value in loaded.config.to_dict().items() if key not in _INCIDENTAL
    }
    tensor_digests = {}
    for key, value in named_tensors(loaded):
        if (name := digest_name(key)) is not None:
            tensor_digests[name] = (
                f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(raw_bytes(value)).hexdigest()}"
            )
    return hashlib.sha256(
        (json.dumps([config, tensor_digests], sort_keys=True, default=str) + extra).encode()
    ).hexdigest()


def tokenizer_digests(tokenizer: Tokenizer) -> dict[str, str]:
    """Digests of the vocabulary and of the chat template, each with other settings that affect ids
    or answers.

    The vocabulary includes its merges (of a fast tokenizer), the ids skipped in answers, and the
    clean-up of spaces; the template includes the special tokens that it can write.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    if backend is not None:
        # the backend remembers padding and truncation of the last call, which are not tokenizer
        # settings
        backend_state = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        text = json.dumps(backend_state, sort_keys=True)
    cleans_up_spaces = getattr(tokenizer, "clean_up_tokenization_spaces", None)
    special = {index for index in getattr(tokenizer, "all_special_ids", ()) if index is not None}
    text += json.dumps([sorted(special), cleans_up_spaces])
    template = (
        tokenizer.chat_template
        if isinstance(tokenizer.chat_template, str)
        else json.dumps(tokenizer.chat_template)
    )
    template += json.dumps(
        getattr(tokenizer, "special_tokens_map", {}), sort_keys=True, default=str
    )
    return {
        "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
        "template": hashlib.sha256(template.encode()).hexdigest(),
    }
