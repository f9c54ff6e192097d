"""PEFT adapters, attached to a base that is held once, and proven to have landed.

PEFT places adapter weights by name and leaves whatever does not match at its identity start, so
that a comparison of base and adapter can silently be one of base and base. Every tensor of the file
must therefore be found in the model.
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
from interp.models.load import line, memory_digest, quiet, require_readable
from interp.models.model import AdapterSwitch, Model
from interp.models.preflight import probe_logits, require_switched
from interp.models.sources import Source, read_json
from interp.models.vocabularies import Ids, adapter_rows, of_the_base, resize, rows_of

_INCIDENTAL = ("base_model_name_or_path", "inference_mode", "revision", "peft_version")
Tensors = dict[str, torch.Tensor]


def attach(source: Source, plain: Model) -> tuple[Model, Model]:
    """The base and the tuned model over ``plain``'s module, switched; raises WrongBase or
    AdapterNotLanded.
    """
    require_readable(source)
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        raise MissingWeights(
            f"{source.name} holds no adapter_model.safetensors; save the adapter as safetensors"
        )
    wanted = _once(load_file(file))
    for key, value in wanted.items():
        if not to_host(torch.isfinite(value).all()):
            raise NonFiniteWeights(
                f"{source.name}: {key} holds NaN or infinity; the adapter is damaged or diverged"
            )
    if any(parameter.is_meta for parameter in plain.module.parameters()):
        raise UnsupportedModel(
            f"{plain.name} is kept partly in main memory or on disk, and peft cannot put"
            f" {source.name} there; give a device that holds all of it, or merge the adapter and"
            " give the whole model"
        )
    same, other = _tensors_of_the_base(wanted, plain)
    wrapped = _wrap(source, plain)
    landed = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    if overwritten := sorted(other - set(landed)):
        raise UnsupportedModel(
            f"{source.name} holds a changed copy of the base's {overwritten[0]}, which cannot be"
            " switched off; merge it, save the whole model, and give that with --base"
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
    """Base and tuned model over ``module``, proven to switch, over the ids that both have rows for;
    and notes.

    An adapter that was made on a resized base is put on one with as many rows, which are cut
    afterwards. Raises what ``attach`` does.
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
                "the rows that the adapter's file has"
                if copies
                else "the mean of its rows, in both models"
            )
        ]
    return base, tuned, ids, ids.notes(tokenizer, module, *given)


def _made_for(source: Source, module: PreTrainedModel) -> tuple[int | None, Tensors]:
    """Rows of tokens that an adapter was made for, where its file says so, and its copies of the
    base's ends.
    """
    file = source.directory / "adapter_model.safetensors"
    if not file.exists():
        return None, {}
    require_readable(source)
    saved = read_json(source.directory / "adapter_config.json").get("modules_to_save") or []
    return adapter_rows(load_file(file), saved, module)


def _require_single_tokens(tuned: Model, ids: Ids) -> None:
    """Raise UnsupportedModel where a token that the adapter trains would lose its row: peft writes
    it at each pass.
    """
    layers: list[Any] = [
        part for part in tuned.module.modules() if isinstance(part, TrainableTokensWrapper)
    ]
    trained = {
        int(index)
        for part in layers
        for each in part.token_adapter.token_indices.values()
        for index in each
    }
    if trained and max(trained) >= ids.count:
        mean = "" if ids.mean else "add --new-tokens mean, or "
        raise UnsupportedModel(
            f"{tuned.name} trains the single token {max(trained)} (trainable_token_indices), and"
            f" {ids.count} ids are compared; {mean}merge it, save the whole model, and give that"
            " with --base"
        )


def adopt(wrapped: PeftModel, tuned: str, base: str) -> tuple[Model, Model]:
    """The base and the tuned model of a PEFT model in memory, by name; raises UnsupportedModel
    where it cannot be.
    """
    for config in (wrapped.peft_config[name] for name in wrapped.active_adapters):
        _require_of_weights(tuned, config)
        if (bias := getattr(config, "bias", "none")) != "none":
            raise UnsupportedModel(
                f"{tuned} trained biases of its base (bias={bias!r}), which cannot be switched off;"
                " merge it, and give the base beside it"
            )
    layers = [layer for layer in wrapped.modules() if isinstance(layer, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise UnsupportedModel(
            f"{tuned} is merged into its base, and taking it out again rounds the base's weights; "
            "load base and adapter again, or give the base beside it"
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
    """Content digests of a PEFT model in memory, and of its base alone: the one that the bare base
    would have.
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

    # how the adapter's tensors are applied (scaling, for one) is told by its configuration alone
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
        kind: Any = config.peft_type  # by peft's annotations it could be text or nothing
        raise UnsupportedModel(
            f"{name} is a {kind.value} adapter, which changes no weight; give an adapter of weights"
            " (LoRA and its like)"
        )


def _wrap(source: Source, plain: Model) -> PeftModel:
    with quiet():
        try:
            config = PeftConfig.from_pretrained(str(source.directory))
        # peft trips over a bad configuration with errors of many classes
        except Exception as error:
            raise UnsupportedModel(
                f"{source.name}: peft {peft.__version__} does not accept its adapter_config.json"
                f" ({line(error)}); check the file, or use a peft that knows this adapter"
            ) from error
        _require_of_weights(source.name, config)
        try:
            return PeftModel.from_pretrained(
                plain.module, str(source.directory), config=config, is_trainable=False
            )
        # what peft cannot place on this base, by whatever error it says so
        except Exception as error:
            reason = (
                line(error)
                .removeprefix("Error(s) in loading state_dict for PeftModel: ")
                .replace("torch.Size", "")
            )
            raise WrongBase(
                f"{source.name} does not fit the base {plain.name} ({reason}); give the base it was"
                " made for"
            ) from error


def _once(tensors: Tensors) -> Tensors:
    """Without what peft saves a second time, under its name in memory, where a kept embedding was
    resized.
    """

    def twice(key: str) -> bool:
        plain = tensors.get(key.replace(".modules_to_save.", "."))
        return ".modules_to_save." in key and plain is not None and torch.equal(plain, tensors[key])

    return {key: value for key, value in tensors.items() if not twice(key)}


def _tensors_of_the_base(wanted: Tensors, plain: Model) -> tuple[set[str], set[str]]:
    """Keys of the file that name a tensor of the base itself (saved with a tuned embedding): equal
    ones and others.
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
            f"{source.name}: {len(lost)} of {len(wanted)} adapter tensors reached no module, first"
            f" {lost[0]}; the adapter's names do not match this base: give the base it was made for"
        )
    unfilled = sorted(key for key in landed if key not in wanted)
    if unfilled:
        raise AdapterNotLanded(
            f"{source.name}: {len(unfilled)} adapter tensors are missing from its file and stay at"
            f" their start, first {unfilled[0]}; the file is incomplete: copy it again"
        )
    for key, value in wanted.items():
        if value.shape != landed[key].shape or not torch.equal(value.to(landed[key]), landed[key]):
            raise AdapterNotLanded(
                f"{source.name}: {key} did not arrive as it was saved; its names collide: save the"
                " adapter again"
            )
