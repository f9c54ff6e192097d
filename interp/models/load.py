"""Loading one model or tokenizer through Hugging Face, with a refusal of its own for each way a checkpoint is bad."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import MissingWeights, ModelError, NonFiniteWeights, OptionError, TruncatedWeights, UnsupportedModel
from interp.maths.host import to_host
from interp.models.sources import Source, read_json
from interp.provenance import directory_digest

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Settings:
    """Where and how models are loaded."""

    device: torch.device
    dtype: torch.dtype | str
    attention: str
    trust_remote_code: bool

    @classmethod
    def resolve(cls, device: str, dtype: str, attention: str, trust_remote_code: bool) -> "Settings":
        """Read the common options; raises OptionError for a device or dtype this machine does not have."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            where = torch.device(device)
        except RuntimeError as error:
            raise OptionError(f"--device {device} is no device; use auto, cpu, cuda or cuda:N") from error
        if where.type == "cuda" and not torch.cuda.is_available():
            raise OptionError(f"--device {device}: no CUDA device is visible to torch {torch.__version__}; use cpu")
        if dtype != "auto" and dtype not in _DTYPES:
            raise OptionError(f"--dtype {dtype} is unknown; use auto, {', '.join(_DTYPES)}")
        if dtype == "auto":
            return cls(where, torch.float32 if where.type == "cpu" else "auto", attention, trust_remote_code)
        return cls(where, _DTYPES[dtype], attention, trust_remote_code)


def module(source: Source, settings: Settings) -> PreTrainedModel:
    """A causal language model from a directory; raises a ModelError for whatever is wrong with it."""
    require_readable(source)
    try:
        config = AutoConfig.from_pretrained(source.directory, trust_remote_code=settings.trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise UnsupportedModel(
            f"{source.name}: transformers does not know this configuration ({_line(error)})"
        ) from error
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            source.directory,
            config=config,
            dtype=settings.dtype,
            attn_implementation=settings.attention,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, EOFError) as error:
        raise TruncatedWeights(f"{source.name}: weights cannot be read ({_line(error)}); copy them again") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{source.name} cannot be loaded as a causal language model ({_line(error)})") from error
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(item[0]) for item in report["mismatched_keys"])
    if missing or mismatched:
        bad = (missing or mismatched)[0]
        what = "lacks" if missing else "holds in another shape"
        raise MissingWeights(
            f"{source.name} {what} {len(missing) + len(mismatched)} of the tensors that "
            f"{type(loaded).__name__} needs, first {bad}; check that the checkpoint is complete"
        )
    require_finite(source.name, loaded)
    return loaded.to(settings.device).eval().requires_grad_(False)


def require_readable(source: Source) -> None:
    """Open every safetensors file's header and check its length; raises TruncatedWeights or MissingWeights."""
    for path in sorted(source.directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise TruncatedWeights(
                f"{path.name} of {source.name} is truncated or damaged ({_line(error)}); copy or download it again"
            ) from error
    index = source.directory / "model.safetensors.index.json"
    if index.exists():
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (source.directory / shard).exists():
                raise MissingWeights(f"{source.name} lacks the shard {shard} that its index names; download it again")


def require_finite(name: str, loaded: nn.Module) -> None:
    """Refuse NaN or infinity among the weights."""
    for key, parameter in loaded.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteWeights(f"{name}: {key} holds NaN or infinity; the checkpoint is damaged or diverged")


def tokenizer(directories: Sequence[Path], settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer of the first directory that has one; a padding token is chosen where none is named."""
    for directory in directories:
        if not any((directory / file).exists() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
            continue
        try:
            found = AutoTokenizer.from_pretrained(directory, trust_remote_code=settings.trust_remote_code)
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(f"{directory.name}: its tokenizer cannot be loaded ({_line(error)})") from error
        if found.pad_token_id is None:
            found.pad_token = found.eos_token or found.unk_token
        return found
    raise ModelError(f"no tokenizer files in {directories[0]}; a pair needs the tuned model's tokenizer")


def weights_digest(source: Source) -> str:
    """Content digest of a model's or adapter's weights and configuration."""
    return directory_digest(source.directory, ["*.safetensors", "config.json", "adapter_config.json"])


def memory_digest(loaded: nn.Module) -> str:
    """Content digest of a module in memory, over names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(loaded.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(to_host(value.contiguous().reshape(-1).view(torch.uint8)).tobytes())
    return digest.hexdigest()


def tokenizer_digests(found: PreTrainedTokenizerBase) -> dict[str, str]:
    """Digests of the vocabulary (with its merges, where the tokenizer is a fast one) and of the chat template."""
    backend = getattr(found, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(found.get_vocab(), sort_keys=True)
    template = found.chat_template if isinstance(found.chat_template, str) else json.dumps(found.chat_template)
    return {
        "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
        "template": hashlib.sha256(template.encode()).hexdigest(),
    }


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
