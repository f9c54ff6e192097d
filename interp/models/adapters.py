"""PEFT adapters, attached to a base that is loaded once, with a check that all tensors were loaded.

PEFT matches adapter weights by name and leaves unmatched ones at their identity initialisation, so
a comparison of base and adapter can silently compare the base with itself. Therefore every tensor
of the file must be found in the model.
"""

import json
from dataclasses import replace
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import TrainableTokensWrapper
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import (
    AdapterNotLanded,
    MissingWeights,
    NonFiniteWeights,
    UnsupportedModel,
    WrongBase,
)
from interp.maths.host import to_host
from interp.models.anatomy import Anatomy, read_anatomy
from interp.models.load import memory_digest, require_readable
from interp.models.model import AdapterSwitch, Model
from interp.models.preflight import probe_logits, require_switched
from interp.models.quiet import error_text, quiet_libraries
from interp.models.sources import Source, read_json
from interp.models.vocabularies import (
    SharedIds,
    adapter_rows,
    base_tensor_name,
    n_embedding_rows,
    resize_vocabulary,
)

_INCIDENTAL = ("base_model_name_or_path", "inference_mode", "revision", "peft_version")
Tensors = dict[str, torch.Tensor]


def attach(source: Source, base: Model) -> tuple[Model, Model]:
    """The base and the fine-tuned model over the module of ``base``, with a switchable adapter.

    Raises WrongBase or AdapterNotLanded.
    """
    require_readable(source)
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        raise MissingWeights(
            f"{source.name} contains no adapter_model.safetensors; save the adapter as safetensors"
        )
    file_tensors = _without_duplicates(load_file(file))
    for key, value in file_tensors.items():
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(
                f"{source.name}: {key} contains NaN or infinity; the adapter is damaged or its "
                "training diverged"
            )
    if any(parameter.is_meta for parameter in base.module.parameters()):
        raise UnsupportedModel(
            f"{base.name} is partly offloaded to main memory or disk, where peft cannot attach "
            f"{source.name}; use a device with enough memory, or merge the adapter and give the "
            "merged model"
        )
    equal_keys, changed_keys = _base_tensor_keys(file_tensors, base)
    peft_model = _load_peft_model(source, base)
    loaded_tensors = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    if overwritten := sorted(changed_keys - set(loaded_tensors)):
        raise UnsupportedModel(
            f"{source.name} contains a changed copy of the base's {overwritten[0]}, which cannot be"
            " switched off; merge it, save the merged model, and give that with --base"
        )
    _require_loaded(
        source,
        loaded_tensors,
        {
            key: value
            for key, value in file_tensors.items()
            if key in loaded_tensors or key not in equal_keys
        },
    )
    return _switchable_models(peft_model, base.anatomy, source.name, base.name)


def attach_resized(
    source: Source,
    name: str,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    new_tokens: str,
) -> tuple[Model, Model, SharedIds, list[str]]:
    """Base and fine-tuned model over ``module``, the token ids for which both have rows, and notes.

    Switching the adapter is checked. An adapter trained on a resized base is attached to a base
    resized in the same way, and the extra rows are cut off afterwards. Raises the errors of
    ``attach``.
    """
    n_rows = n_embedding_rows(module)
    n_adapter_rows, saved_rows = _adapter_rows(source, module)
    ids = SharedIds.from_rows(n_rows, n_adapter_rows, tokenizer, new_tokens)
    if ids.tuned != n_rows:
        resize_vocabulary(module, ids.tuned, saved_rows)
    unadapted = Model.wrap(name, module)
    base_logits = probe_logits(unadapted)
    base, tuned = attach(source, unadapted)
    require_switched(base_logits, base, tuned)
    if ids.count != ids.tuned:
        _require_trained_tokens_kept(tuned, ids)
        resize_vocabulary(base.module, ids.count)
    anatomy = replace(base.anatomy, vocabulary=ids.count)
    base, tuned = (
        replace(model, anatomy=anatomy, resized=ids.count != n_rows) for model in (base, tuned)
    )
    row_origins = []
    if saved_rows or ids.rows_from_base:
        row_origins = [
            (
                "the rows stored in the adapter's file"
                if saved_rows
                else "the mean of the existing rows, in both models"
            )
        ]
    return base, tuned, ids, ids.notes(tokenizer, module, *row_origins)


def _adapter_rows(source: Source, module: PreTrainedModel) -> tuple[int | None, Tensors]:
    """Vocabulary rows for which an adapter was trained, if its file shows it, and its copies of the
    base's embedding and head.
    """
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        return None, {}
    require_readable(source)
    saved = read_json(source.directory / "adapter_config.json").get("modules_to_save") or []
    return adapter_rows(load_file(file), saved, module)


def _require_trained_tokens_kept(tuned: Model, ids: SharedIds) -> None:
    """Raise UnsupportedModel if a token trained by the adapter would lose its row: peft writes that
    row at each pass.
    """
    layers: list[Any] = [
        part for part in tuned.module.modules() if isinstance(part, TrainableTokensWrapper)
    ]
    trained = {
        int(index)
        for part in layers
        for indices in part.token_adapter.token_indices.values()
        for index in indices
    }
    if trained and max(trained) >= ids.count:
        mean_remedy = "" if ids.mean else "add --new-tokens mean, or "
        raise UnsupportedModel(
            f"{tuned.name} trains the single token {max(trained)} (trainable_token_indices), and"
            f" {ids.count} ids are compared; {mean_remedy}merge it, save the merged model, and give"
            " that with --base"
        )


def from_peft_model(peft_model: PeftModel, tuned: str, base: str) -> tuple[Model, Model]:
    """The base and the fine-tuned model of a PEFT model in memory; raises UnsupportedModel if it
    cannot be switched.
    """
    for config in (peft_model.peft_config[name] for name in peft_model.active_adapters):
        _require_changes_weights(tuned, config)
        if (bias := getattr(config, "bias", "none")) != "none":
            raise UnsupportedModel(
                f"{tuned} trained biases of its base (bias={bias!r}), which cannot be switched off;"
                " merge it, and give the base separately"
            )
    layers = [layer for layer in peft_model.modules() if isinstance(layer, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise UnsupportedModel(
            f"{tuned} is merged into its base, and unmerging it rounds the base's weights; load "
            "base and adapter again, or give the base separately"
        )
    if any(layer.disable_adapters for layer in layers):
        raise UnsupportedModel(
            f"{tuned} has its adapter switched off; call enable_adapter_layers() first"
        )
    return _switchable_models(peft_model, read_anatomy(inner_model(peft_model)), tuned, base)


def inner_model(peft_model: PeftModel) -> PreTrainedModel:
    """The Hugging Face model inside, with the adapters in its layers."""
    return cast(PreTrainedModel, peft_model.get_base_model())


def memory_digests(peft_model: PeftModel) -> dict[str, str]:
    """Content digests of a PEFT model in memory and of its base; the latter equals the digest of
    the bare base.
    """
    inner = inner_model(peft_model)
    prefixes = [
        (f"{path}.", f"{path}.{part}.")
        for path, layer in inner.named_modules()
        for kind, part in (
            (BaseTunerLayer, "base_layer"),
            (AuxiliaryTrainingWrapper, "original_module"),
        )
        if isinstance(layer, kind)
    ]

    def base_key(key: str) -> str | None:
        for module_prefix, original_prefix in prefixes:
            if key.startswith(original_prefix):
                key = module_prefix + key.removeprefix(original_prefix)
            elif key.startswith(module_prefix):
                return None
        return key

    # how the adapter's tensors are applied (scaling, for example) is known only from its
    # configuration
    adapters = {
        name: {
            key: value
            for key, value in peft_model.peft_config[name].to_dict().items()
            if key not in _INCIDENTAL
        }
        for name in peft_model.active_adapters
    }
    return {
        "tuned": memory_digest(
            inner, extra=json.dumps(adapters, sort_keys=True, default=_json_default)
        ),
        "base": memory_digest(inner, base_key),
    }


def _json_default(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _switchable_models(
    peft_model: PeftModel, anatomy: Anatomy, tuned: str, base: str
) -> tuple[Model, Model]:
    inner = inner_model(peft_model)
    inner.eval().requires_grad_(False)
    switch = AdapterSwitch(inner)
    return (
        Model(base, inner, anatomy, switch, adapter_on=False),
        Model(tuned, inner, anatomy, switch, adapter_on=True),
    )


def _require_changes_weights(name: str, config: PeftConfig) -> None:
    if config.is_prompt_learning:
        kind: Any = config.peft_type  # by peft's annotations it could be a string or None
        raise UnsupportedModel(
            f"{name} is a {kind.value} adapter, which changes no weights; give an adapter that does"
            " (such as LoRA)"
        )


def _load_peft_model(source: Source, base: Model) -> PeftModel:
    with quiet_libraries():
        try:
            config = PeftConfig.from_pretrained(str(source.directory))
        # peft raises errors of many classes for a bad configuration
        except Exception as error:
            raise UnsupportedModel(
                f"{source.name}: peft {peft.__version__} does not accept its adapter_config.json"
                f" ({error_text(error)}); check the file, or use a version of peft that supports"
                " this adapter"
            ) from error
        _require_changes_weights(source.name, config)
        try:
            return PeftModel.from_pretrained(
                base.module, str(source.directory), config=config, is_trainable=False
            )
        # peft raises errors of many classes if an adapter does not fit its base
        except Exception as error:
            reason = (
                error_text(error)
                .removeprefix("Error(s) in loading state_dict for PeftModel: ")
                .replace("torch.Size", "")
            )
            raise WrongBase(
                f"{source.name} does not fit the base {base.name} ({reason}); give the base it was "
                "trained on"
            ) from error


def _without_duplicates(tensors: Tensors) -> Tensors:
    """Without the second copies that peft saves, under their names in memory, of a resized
    embedding.
    """

    def is_duplicate(key: str) -> bool:
        first_copy = tensors.get(key.replace(".modules_to_save.", "."))
        return (
            ".modules_to_save." in key
            and first_copy is not None
            and torch.equal(first_copy, tensors[key])
        )

    return {key: value for key, value in tensors.items() if not is_duplicate(key)}


def _base_tensor_keys(file_tensors: Tensors, base: Model) -> tuple[set[str], set[str]]:
    """Keys of the file that are tensors of the base itself (saved with a trained embedding): equal
    ones, and changed ones.
    """
    base_tensors, equal_keys, changed_keys = base.module.state_dict(), set(), set()
    for key, value in file_tensors.items():
        name = base_tensor_name(key)
        if name in base_tensors:
            equal = base_tensors[name].shape == value.shape and torch.equal(
                value.to(base_tensors[name]), base_tensors[name]
            )
            (equal_keys if equal else changed_keys).add(key)
    return equal_keys, changed_keys


def _require_loaded(source: Source, loaded: Tensors, expected: Tensors) -> None:
    unmatched = sorted(key for key in expected if key not in loaded)
    if unmatched:
        raise AdapterNotLanded(
            f"{source.name}: {len(unmatched)} of {len(expected)} adapter tensors matched no module,"
            f" first {unmatched[0]}; the adapter's names do not match this base: give the base it"
            " was trained on"
        )
    missing = sorted(key for key in loaded if key not in expected)
    if missing:
        raise AdapterNotLanded(
            f"{source.name}: {len(missing)} adapter tensors are missing from its file and stay at "
            f"their initial values, first {missing[0]}; the file is incomplete: copy it again"
        )
    for key, value in expected.items():
        if value.shape != loaded[key].shape or not torch.equal(value.to(loaded[key]), loaded[key]):
            raise AdapterNotLanded(
                f"{source.name}: {key} was not loaded as it was saved, because names collide; save "
                "the adapter again"
            )
