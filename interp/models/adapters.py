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
from interp.models.quiet import line, quiet
from interp.models.sources import Source, read_json
from interp.models.vocabularies import Ids, adapter_rows, of_the_base, resize, rows_of

_INCIDENTAL = ("base_model_name_or_path", "inference_mode", "revision", "peft_version")
Tensors = dict[str, torch.Tensor]


def attach(source: Source, plain: Model) -> tuple[Model, Model]:
    """The base and the fine-tuned model over the module of ``plain``, with a switchable adapter.

    Raises WrongBase or AdapterNotLanded.
    """
    require_readable(source)
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        raise MissingWeights(
            f"{source.name} contains no adapter_model.safetensors; save the adapter as safetensors"
        )
    wanted = _once(load_file(file))
    for key, value in wanted.items():
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(
                f"{source.name}: {key} contains NaN or infinity; the adapter is damaged or its "
                "training diverged"
            )
    if any(parameter.is_meta for parameter in plain.module.parameters()):
        raise UnsupportedModel(
            f"{plain.name} is partly offloaded to main memory or disk, where peft cannot attach "
            f"{source.name}; use a device with enough memory, or merge the adapter and give the "
            "merged model"
        )
    same, other = _tensors_of_the_base(wanted, plain)
    wrapped = _wrap(source, plain)
    landed = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if overwritten := sorted(other - set(landed)):
        raise UnsupportedModel(
            f"{source.name} contains a changed copy of the base's {overwritten[0]}, which cannot be "
            "switched off; merge it, save the merged model, and give that with --base"
        )
    _require_landed(
        source,
        landed,
        {key: value for key, value in wanted.items() if key in landed or key not in same},
    )
    return _switched(wrapped, plain.anatomy, source.name, plain.name)


def attach_resized(
    source: Source,
    name: str,
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    new_tokens: str,
) -> tuple[Model, Model, Ids, list[str]]:
    """Base and fine-tuned model over ``module``, the token ids for which both have rows, and notes.

    Switching the adapter is checked. An adapter trained on a resized base is attached to a base
    resized in the same way, and the extra rows are cut off afterwards. Raises the errors of
    ``attach``.
    """
    own = rows_of(module)
    made, copies = _made_for(source, module)
    ids = Ids.of(own, made, tokenizer, new_tokens)
    if ids.tuned != own:
        resize(module, ids.tuned, copies)
    alone = Model.wrap(name, module)
    plain = probe_logits(alone)
    base, tuned = attach(source, alone)
    require_switched(plain, base, tuned)
    if ids.count != ids.tuned:
        _require_single_tokens(tuned, ids)
        resize(base.module, ids.count)
    anatomy = replace(base.anatomy, vocabulary=ids.count)
    base, tuned = (
        replace(model, anatomy=anatomy, resized=ids.count != own) for model in (base, tuned)
    )
    given = []
    if copies or ids.grown:
        given = [
            (
                "the rows stored in the adapter's file"
                if copies
                else "the mean of the existing rows, in both models"
            )
        ]
    return base, tuned, ids, ids.notes(tokenizer, module, *given)


def _made_for(source: Source, module: PreTrainedModel) -> tuple[int | None, Tensors]:
    """Vocabulary rows for which an adapter was trained, if its file shows it, and its copies of the
    base's embedding and head.
    """
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        return None, {}
    require_readable(source)
    saved = read_json(source.directory / "adapter_config.json").get("modules_to_save") or []
    return adapter_rows(load_file(file), saved, module)


def _require_single_tokens(tuned: Model, ids: Ids) -> None:
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
        mean = "" if ids.mean else "add --new-tokens mean, or "
        raise UnsupportedModel(
            f"{tuned.name} trains the single token {max(trained)} (trainable_token_indices), and "
            f"{ids.count} ids are compared; {mean}merge it, save the merged model, and give that "
            "with --base"
        )


def adopt(wrapped: PeftModel, tuned: str, base: str) -> tuple[Model, Model]:
    """The base and the fine-tuned model of a PEFT model in memory; raises UnsupportedModel if it
    cannot be switched.
    """
    for config in (wrapped.peft_config[name] for name in wrapped.active_adapters):
        _require_of_weights(tuned, config)
        if (bias := getattr(config, "bias", "none")) != "none":
            raise UnsupportedModel(
                f"{tuned} trained biases of its base (bias={bias!r}), which cannot be switched off; "
                "merge it, and give the base separately"
            )
    layers = [layer for layer in wrapped.modules() if isinstance(layer, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise UnsupportedModel(
            f"{tuned} is merged into its base, and unmerging it rounds the base's weights; load "
            "base and adapter again, or give the base separately"
        )
    if any(layer.disable_adapters for layer in layers):
        raise UnsupportedModel(
            f"{tuned} has its adapter switched off; call enable_adapter_layers() first"
        )
    return _switched(wrapped, read_anatomy(inner_of(wrapped)), tuned, base)


def inner_of(wrapped: PeftModel) -> PreTrainedModel:
    """The Hugging Face model inside, with the adapters in its layers."""
    return cast(PreTrainedModel, wrapped.get_base_model())


def memory_digests(wrapped: PeftModel) -> dict[str, str]:
    """Content digests of a PEFT model in memory and of its base; the latter equals the digest of
    the bare base.
    """
    inner = inner_of(wrapped)
    kept = [
        (f"{path}.", f"{path}.{part}.")
        for path, layer in inner.named_modules()
        for kind, part in (
            (BaseTunerLayer, "base_layer"),
            (AuxiliaryTrainingWrapper, "original_module"),
        )
        if isinstance(layer, kind)
    ]

    def bare(key: str) -> str | None:
        for whole, own in kept:
            if key.startswith(own):
                key = whole + key.removeprefix(own)
            elif key.startswith(whole):
                return None
        return key

    # how the adapter's tensors are applied (scaling, for example) is known only from its
    # configuration
    adapters = {
        name: {
            key: value
            for key, value in wrapped.peft_config[name].to_dict().items()
            if key not in _INCIDENTAL
        }
        for name in wrapped.active_adapters
    }
    return {
        "tuned": memory_digest(inner, more=json.dumps(adapters, sort_keys=True, default=_text)),
        "base": memory_digest(inner, bare),
    }


def _text(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _switched(wrapped: PeftModel, anatomy: Anatomy, tuned: str, base: str) -> tuple[Model, Model]:
    inner = inner_of(wrapped)
    inner.eval().requires_grad_(False)
    switch = AdapterSwitch(inner)
    return (
        Model(base, inner, anatomy, switch, adapter_on=False),
        Model(tuned, inner, anatomy, switch, adapter_on=True),
    )


def _require_of_weights(name: str, config: PeftConfig) -> None:
    if config.is_prompt_learning:
        kind: Any = config.peft_type  # by peft's annotations it could be a string or None
        raise UnsupportedModel(
            f"{name} is a {kind.value} adapter, which changes no weights; give an adapter that does "
            "(such as LoRA)"
        )


def _wrap(source: Source, plain: Model) -> PeftModel:
    with quiet():
        try:
            config = PeftConfig.from_pretrained(str(source.directory))
        # peft raises errors of many classes for a bad configuration
        except Exception as error:
            raise UnsupportedModel(
                f"{source.name}: peft {peft.__version__} does not accept its adapter_config.json "
                f"({line(error)}); check the file, or use a version of peft that supports this "
                "adapter"
            ) from error
        _require_of_weights(source.name, config)
        try:
            return PeftModel.from_pretrained(
                plain.module, str(source.directory), config=config, is_trainable=False
            )
        # peft raises errors of many classes if an adapter does not fit its base
        except Exception as error:
            reason = (
                line(error)
                .removeprefix("Error(s) in loading state_dict for PeftModel: ")
                .replace("torch.Size", "")
            )
            raise WrongBase(
                f"{source.name} does not fit the base {plain.name} ({reason}); give the base it was "
                "trained on"
            ) from error


def _once(tensors: Tensors) -> Tensors:
    """Without the second copies that peft saves, under their names in memory, of a resized
    embedding.
    """

    def twice(key: str) -> bool:
        plain = tensors.get(key.replace(".modules_to_save.", "."))
        return ".modules_to_save." in key and plain is not None and torch.equal(plain, tensors[key])

    return {key: value for key, value in tensors.items() if not twice(key)}


def _tensors_of_the_base(wanted: Tensors, plain: Model) -> tuple[set[str], set[str]]:
    """Keys of the file that are tensors of the base itself (saved with a trained embedding): equal
    ones, and changed ones.
    """
    own, same, other = plain.module.state_dict(), set(), set()
    for key, value in wanted.items():
        name = of_the_base(key)
        if name in own:
            equal = own[name].shape == value.shape and torch.equal(value.to(own[name]), own[name])
            (same if equal else other).add(key)
    return same, other


def _require_landed(source: Source, landed: Tensors, wanted: Tensors) -> None:
    lost = sorted(key for key in wanted if key not in landed)
    if lost:
        raise AdapterNotLanded(
            f"{source.name}: {len(lost)} of {len(wanted)} adapter tensors matched no module, first "
            f"{lost[0]}; the adapter's names do not match this base: give the base it was trained "
            "on"
        )
    unfilled = sorted(key for key in landed if key not in wanted)
    if unfilled:
        raise AdapterNotLanded(
            f"{source.name}: {len(unfilled)} adapter tensors are missing from its file and stay at "
            f"their initial values, first {unfilled[0]}; the file is incomplete: copy it again"
        )
    for key, value in wanted.items():
        if value.shape != landed[key].shape or not torch.equal(value.to(landed[key]), landed[key]):
            raise AdapterNotLanded(
                f"{source.name}: {key} was not loaded as it was saved, because names collide; save "
                "the adapter again"
            )
