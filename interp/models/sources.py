"""Resolve the name of a model to a directory: local directory, Hub id, adapter directory, or
organism.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from interp import organisms
from interp.errors import (
    ModelNotFound,
    OptionError,
    PickledWeights,
    TruncatedWeights,
    UnsupportedModel,
)
from interp.models import four_bit, gguf
from interp.provenance import file_digest

_NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WRAPPERS = re.compile(
    r"(?:^module\.|^base_model\.model\.|"
    r"_orig_mod\.|_forward_module\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.)+"
)
_CONFIG = "config.json"
DELTA, DELTA_KEY, DELTA_FORMAT = "delta.safetensors", "interp-sparse-delta", "1"
"""Name of the file of a sparse delta, see ``interp.models.sparse_delta``, the one key of its
metadata, whose value is JSON, and the format that this states.
"""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """A model on disk: ``name`` as typed, its directory, and its adapter configuration if it is
    one.

    ``origin`` is the ``.gguf`` file, or the directory of 4-bit codes, from which the directory was
    dequantised; None if nothing was converted. ``text`` is the type of the language model as which
    a multimodal model is loaded, empty otherwise. ``delta``: what the file of a sparse delta states
    about it, None for anything else.
    """

    name: str
    directory: Path
    adapter: Mapping[str, Any] | None = field(default=None)
    origin: Path | None = None
    text: str = ""
    delta: Mapping[str, str] | None = field(default=None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the origin of the weights that a reader of results needs."""
        notes = []
        if self.text:
            notes.append(
                f"{self.name} is multimodal and the fine-tuned model is not: only its language "
                "model is used"
            )
        if self.origin is not None and self.origin.is_file():
            notes.append(f"{self.origin.name} is dequantised to float32")
        elif self.origin is not None:
            dtype = four_bit.compute_dtype(read_json(self.origin / _CONFIG))
            notes.append(f"{self.name} contains 4-bit codes, dequantised to {dtype}")
            if not four_bit.is_installed():
                notes[-1] += (
                    ": bitsandbytes, which computes with the codes, is not installed, so results "
                    "differ from those of peft by rounding errors"
                )
        return tuple(notes)

    @property
    def base_name(self) -> str | None:
        """The base named in an adapter's configuration or in the file of a sparse delta, or None."""
        if self.delta is not None:
            return self.delta["base"]
        return None if self.adapter is None else self.adapter.get("base_model_name_or_path") or None

    def base(self, requested: str | None = None) -> Source:
        """The base ``requested``, or the one an adapter names; raises OptionError or ModelNotFound."""
        base_name = requested or self.base_name
        if base_name is None:
            problem = (
                "has to be compared with its base"
                if self.adapter is None
                else "is an adapter whose configuration names no base"
            )
            raise OptionError(f"{self.name} {problem}; add --base MODEL")
        try:
            source = find(base_name)
        except ModelNotFound as error:
            if requested is not None:
                raise
            raise ModelNotFound(
                f"the base {base_name!r} named in {self._stated_in} of {self.name} was not found;"
                " give the model it was trained on with --base MODEL"
            ) from error
        if source.changes_base:
            raise OptionError(
                f"the base {base_name} is itself an adapter; give the model that was fine-tuned"
            )
        return source

    @property
    def changes_base(self) -> bool:
        """Whether it is only a change of some base: an adapter or a sparse delta."""
        return self.adapter is not None or self.delta is not None

    @property
    def _stated_in(self) -> str:
        return DELTA if self.delta is not None else "adapter_config.json"

    def require_no_delta(self, what: str) -> None:
        """Raise UnsupportedModel for a sparse delta, where ``what`` cannot be done with one."""
        if self.delta is not None:
            raise UnsupportedModel(
                f"{self.name} is a sparse delta, and {what}; use a command that loads both models,"
                " such as interp compare"
            )


def find(name: str, ask_hub: bool = True) -> Source:
    """Resolve a model name to a directory; raises ModelNotFound, PickledWeights or
    TruncatedWeights.

    ``name`` is a local Hugging Face or PEFT directory, a ``.gguf`` file or a directory with one
    (which is dequantised), ``organism:family/name``, or a Hub id, ``id`` or ``id@revision``. 4-bit
    codes are dequantised if bitsandbytes is not installed. A Hub id is downloaded through
    ``huggingface_hub`` (safetensors only) and honours ``HF_HOME``, ``HF_TOKEN`` and
    ``HF_HUB_OFFLINE``. With ``ask_hub`` False nothing is downloaded: a Hub id that cannot be
    resolved from the cache is then not found.
    """
    if name.startswith("organism:"):
        organism = name.removeprefix("organism:")
        directory, packaged = organisms.directory(organism), organisms.packaged(organism)
        source = _inspect(name, directory)
        return (
            source
            if packaged is None or organisms.base_of(organism)
            else replace(source, origin=packaged.path())
        )
    try:
        path = Path(name).expanduser()
        path_exists, is_directory = path.exists(), path.is_dir()
    # the name is too long for a path, or names an unknown user's home
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(
            f"{name[:80]} is not a valid path ({error.__class__.__name__}); check the spelling"
        ) from error
    file = (
        gguf.gguf_file_in(path)
        if name and is_directory
        else path
        if name and path.suffix == ".gguf" and path_exists
        else None
    )
    if file is not None:
        return replace(_inspect(name, gguf.directory(file)), origin=file)
    if name and is_directory:
        return _inspect(name, path)
    if name and path_exists and path.name == DELTA:
        return _inspect(name, path.parent)
    if name and path_exists:
        raise ModelNotFound(
            f"{name} is a file, not a model directory or a .gguf file; give the directory that "
            "contains config.json"
        )
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        raise ModelNotFound(
            f"no model directory at {name!r}, and it cannot be a Hub id (organization/name); check"
            " the spelling"
        )
    return _inspect(name, _download(name) if ask_hub else _cached(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=_NEEDED)
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        first_line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        reason = first_line.partition(". ")[0].rstrip(".")[:160]
        raise ModelNotFound(
            f"{name} is not a local directory, and the Hub did not provide it ({reason}); check the"
            " spelling, the network, or HF_TOKEN"
        ) from error


def _cached(name: str) -> Path:
    """The snapshot that ``_download`` would find in the Hub's cache, if the network could not
    return another one.
    """
    from huggingface_hub import constants

    repository, _, revision = name.partition("@")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    commit = revision
    # a branch can change, so its commit can be read from the disk only in offline mode
    if not _COMMIT.fullmatch(revision) and constants.is_offline_mode():
        try:
            commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            commit = ""
    if not _COMMIT.fullmatch(commit):
        raise ModelNotFound(
            f"{name} is a Hub id whose revision is not in the local cache; go "
            "online, or give a full commit hash"
        )
    return folder / "snapshots" / commit


def file_digests(source: Source) -> dict[str, str]:
    """Digest of every file of the directory that loading may read, by name; pickles are never read."""
    files = [*source.directory.glob("*"), *source.directory.glob("additional_chat_templates/*")]
    read = [
        path
        for path in files
        if path.is_file() and not any(path.match(pattern) for pattern in _PICKLES)
    ]
    return {
        path.relative_to(source.directory).as_posix(): file_digest(path) for path in sorted(read)
    }


def _conversion(directory: Path, pickles: Sequence[str], adapter: bool) -> str:
    """A command that converts pickled weights to safetensors in the same directory."""
    if adapter:
        source, target = directory / pickles[0], directory / "adapter_model.safetensors"
        code = (
            f"import torch, safetensors.torch as s; s.save_file(torch.load('{source}',"
            f" weights_only=True), '{target}')"
        )
    else:
        code = (
            "from transformers import AutoModelForCausalLM as M; "
            f"M.from_pretrained('{directory}').save_pretrained('{directory}')"
        )
    return f'python -c "{code}"'


def template_reads_clock(source: Source) -> bool:
    """Whether a chat template of the directory can read the clock."""
    files = [
        source.directory / name
        for name in ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")
    ]
    files += source.directory.glob("additional_chat_templates/*")
    return any(
        "strftime_now" in path.read_text(encoding="utf-8", errors="replace")
        for path in files
        if path.is_file()
    )


def _inspect(name: str, directory: Path) -> Source:
    adapter_file, config_file = directory / "adapter_config.json", directory / "config.json"
    adapter = read_json(adapter_file) if adapter_file.exists() else None
    if (directory / "model_index.json").exists():
        raise UnsupportedModel(f"{name} is a diffusers pipeline; give a causal language model")
    delta = None if adapter or config_file.exists() else _delta_metadata(name, directory)
    if delta is not None:
        return Source(name, directory, delta=delta)
    if adapter is None and not config_file.exists():
        raise ModelNotFound(
            f"{name} contains neither config.json nor adapter_config.json, so it is not a model "
            f"directory; {_directory_advice(directory)}"
        )
    if (
        adapter is not None
        and not any(directory.glob("adapter_model.*"))
        and _is_whole_model(directory)
    ):
        raise UnsupportedModel(
            f"{name} contains a complete model next to an adapter_config.json and no adapter "
            "weights: if the adapter was merged into it, remove adapter_config.json, else give the "
            "adapter's own directory"
        )
    if not any(directory.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
        if pickles:
            raise PickledWeights(
                f"{name} contains its weights only as a pickle ({pickles[0]}), and reading a pickle"
                " runs code; if you trust it, convert it:"
                f" {_conversion(directory, pickles, adapter is not None)}"
            )
        raise ModelNotFound(
            f"{name} contains a configuration and no .safetensors weights; copy the weights there"
        )
    source = Source(name, directory, adapter)
    return source if four_bit.is_installed() else dequantised(source)


def _delta_metadata(name: str, directory: Path) -> dict[str, str] | None:
    """What the file of a sparse delta states; None if there is none."""
    path = directory / DELTA
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(DELTA_KEY, "{}")
        stated = json.loads(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise TruncatedWeights(
            f"{DELTA} of {name} is truncated or damaged ({error}); copy it again"
        ) from error
    if not isinstance(stated, dict) or stated.get("format") != DELTA_FORMAT:
        raise UnsupportedModel(
            f"{DELTA} of {name} is not of the format that this version reads; give a file that"
            " interp tune wrote"
        )
    return {key: str(stated.get(key, "")) for key in ("base", "base_digest", "mode")}


def dequantised(source: Source) -> Source:
    """The same model dequantised if it contains 4-bit bitsandbytes codes, else unchanged."""
    if source.changes_base or not four_bit.is_four_bit(
        config := read_json(source.directory / "config.json")
    ):
        return source
    return replace(
        source,
        directory=four_bit.directory(source.name, source.directory, config),
        origin=source.directory,
    )


def _is_whole_model(directory: Path) -> bool:
    return (directory / "config.json").exists() and any(
        path
        for pattern in ("model*.safetensors", "pytorch_model*.bin")
        for path in directory.glob(pattern)
    )


def _directory_advice(directory: Path) -> str:
    """What to do about a directory that is not a model: the model directories in it, if there are
    any.
    """
    directories: list[str] = []
    for below in ("*", "*/*"):
        config_files = [
            path
            for name in ("config.json", "adapter_config.json")
            for path in directory.glob(f"{below}/{name}")
        ]
        directories = directories or sorted(
            {path.parent.relative_to(directory).as_posix() for path in config_files}, key=_by_length
        )
    if not directories:
        return "check the path"
    more = f" (and {len(directories) - 3} more)" if len(directories) > 3 else ""
    return f"give one of the directories in it: {', '.join(directories[-3:])}{more}"


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def missing_tensors_advice(missing: Iterable[str], stored: Iterable[str]) -> str:
    """What to do about missing tensors; they may be present under the names that a wrapper gives
    them.
    """
    stored = list(stored)
    name_with_wrapper = {_WRAPPERS.sub("", name): name for name in stored}
    for name in missing:
        if (wrapped_name := name_with_wrapper.get(name, name)) != name:
            return (
                f"it contains {wrapped_name}, named by a wrapper (torch.compile,"
                " DistributedDataParallel, FSDP or PEFT); save the model inside the wrapper, or"
                " remove these prefixes from the names"
            )
        if prefixed := [name_stored for name_stored in stored if name_stored.endswith(f".{name}")]:
            prefix = prefixed[0].removesuffix(name)
            return (
                f"it contains {prefixed[0]}; remove {prefix} from the names to get those of "
                "transformers"
            )
    return "check that the checkpoint is complete"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory; raises TruncatedWeights if it cannot be parsed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TruncatedWeights(
            f"{path} is not readable JSON ({error}); copy or download the model again"
        ) from error
    if not isinstance(value, dict):
        raise TruncatedWeights(f"{path} is not a JSON object; copy or download the model again")
    return value
