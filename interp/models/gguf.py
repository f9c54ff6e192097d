"""A ``.gguf`` file as a Hugging Face directory: dequantised to float32 by transformers, once, in
the user's cache.
"""

import io
import json
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from interp import organisms
from interp.errors import ModelError, ModelNotFound, TruncatedWeights, UnsupportedModel
from interp.models.quiet import error_text, quiet_libraries
from interp.provenance import file_digest

FORMAT_VERSION = (
    1  # version of the dequantised directories; increase it when the same file gives other weights
)
_MAGIC = b"GGUF"


def gguf_file_in(directory: Path) -> Path | None:
    """The ``.gguf`` file of a directory without safetensors; None if there is none.

    Raises ModelNotFound if there are several.
    """
    files = sorted(directory.glob("*.gguf"))
    if not files or any(directory.glob("*.safetensors")):
        return None
    if len(files) > 1:
        raise ModelNotFound(
            f"{directory} contains {len(files)} .gguf files, first {files[0].name} and "
            f"{files[1].name}; give one of them"
        )
    return files[0]


def directory(file: Path) -> Path:
    """The directory of a ``.gguf`` file, with weights in float32, stored under the file's sha256.

    Raises UnsupportedModel if the package ``gguf`` is missing or transformers does not support the
    architecture, and TruncatedWeights for an incomplete file.
    """
    target = (
        organisms.cache_root() / "gguf" / f"{file_digest(file)[:20]}-{FORMAT_VERSION}" / file.stem
    )
    return organisms.write_once(target, lambda place: _write(file, place))


def _write(file: Path, target: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise TruncatedWeights(
                f"{file} does not start like a .gguf file; copy or download it again"
            )
    if find_spec("gguf") is None:
        raise UnsupportedModel(
            f"{file.name} cannot be read without the package gguf, which is not installed here; "
            "run: pip install '.[real]'"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        with quiet_libraries(), redirect_stderr(io.StringIO()):  # a progress bar of its own
            tokenizer = AutoTokenizer.from_pretrained(**location)
            model: Any = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
            # the written model contains plain numbers and must not be declared as quantised
            vars(model.config).pop("quantization_config", None)
            model.hf_quantizer = None
            model.config.name_or_path = model.name_or_path = ""
            tokenizer.save_pretrained(target)
            model.save_pretrained(target)
            _drop_unembedded(
                target / "tokenizer.json", model.get_input_embeddings().weight.shape[0]
            )
    except (ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, ValueError) and "supported" not in str(error):
            raise _damaged(file, error) from error
        raise UnsupportedModel(
            f"transformers cannot dequantise {file.name} ({error_text(error)}); give the model as a"
            " Hugging Face directory"
        ) from error
    except (EOFError, IndexError) as error:
        raise _damaged(file, error) from error
    except Exception as error:  # errors of the reader, or a full disk
        raise ModelError(
            f"{file.name} cannot be dequantised into {target.parent} ({error_text(error)})"
        ) from error


def _drop_unembedded(path: Path, rows: int) -> None:
    """Remove special tokens that transformers adds by itself (GPT-2's end of text) and the model
    has no row for.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    kept = [token for token in tokenizer["added_tokens"] if token["id"] < rows]
    if len(kept) < len(tokenizer["added_tokens"]):
        path.write_text(
            json.dumps(tokenizer | {"added_tokens": kept}, ensure_ascii=False), encoding="utf-8"
        )


def _damaged(file: Path, error: Exception) -> TruncatedWeights:
    return TruncatedWeights(
        f"{file.name} is truncated or damaged ({error_text(error)}); copy or download it again"
    )
