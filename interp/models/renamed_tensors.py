"""Names of a checkpoint's tensors in the loaded model, which often differ from those in the files.

A multimodal checkpoint has its text model below ``language_model.model``, a model built from it
below ``model``. The mapping is transformers' own table, applied as transformers does when loading.
"""

import re
from collections.abc import Iterable, Iterator

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from interp.models.anatomy import Anatomy, Place
from interp.models.meta_model import LANGUAGE_MODEL_PREFIXES

_EXPERT = re.compile(r"(\d+)\.(.*experts)\.(\d+)\.(\w+)\.weight")
_EXPERT_PARTS = {
    "w1": "gate",
    "w2": "out",
    "w3": "in",
    "gate_proj": "gate",
    "down_proj": "out",
    "up_proj": "in",
}


def name_mappings(
    names: Iterable[str], skeleton: PreTrainedModel
) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Names in a checkpoint by names in the model: those that are only renamed, and those also
    converted.

    A converted tensor is joined with others, split or transposed during loading. The third result
    are names in the checkpoint that the model does not have.
    """
    # the files may be those of a multimodal model that contains this language model
    contains_language_model = any(
        "language_model" in path.split(".") for path, _ in skeleton.named_modules()
    )
    tables = get_model_conversion_mapping(
        skeleton, None if contains_language_model else LANGUAGE_MODEL_PREFIXES
    )
    renamings = [entry for entry in tables if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in tables if isinstance(entry, WeightConverter)]
    model_state, only_renamed, converted, unused = skeleton.state_dict(), {}, {}, set()
    for name in sorted(names, key=dot_natural_key):
        model_name, pattern = rename_source_key(
            name, renamings, converters, skeleton.base_model_prefix, model_state
        )
        if pattern is not None and model_name in model_state:
            converted[model_name] = name
        if model_name not in model_state:
            unused.add(name)
        only_renamed[
            rename_source_key(name, renamings, [], skeleton.base_model_prefix, model_state)[0]
        ] = name
    return only_renamed, converted, unused


def expert_matrices(
    names: Iterable[str], anatomy: Anatomy, prefix: str
) -> Iterator[tuple[int, str, Place]]:
    """Block, part and location of matrices of single experts, which checkpoints name and the
    architecture maps do not.
    """
    for name in names:
        _, separator, name_in_block = f"{prefix}.{name.removeprefix(prefix + '.')}".partition(
            f"{anatomy.blocks_path}."
        )
        match = _EXPERT.fullmatch(name_in_block) if separator else None
        if match and match[4] in _EXPERT_PARTS:
            part = f"mlp.expert{match[3]}.{_EXPERT_PARTS[match[4]]}"
            yield int(match[1]), part, Place(name.removesuffix(".weight"))
