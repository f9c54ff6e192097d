"""Checks that two models can be compared, each with its own error; only vocabulary rows are
adapted.
"""

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from transformers import PreTrainedTokenizerBase

from interp.errors import (
    AdapterNotLanded,
    DepthMismatch,
    NonFiniteWeights,
    UnsupportedModel,
    VocabularyMismatch,
    WidthMismatch,
)
from interp.maths.host import to_host
from interp.models import load
from interp.models.matrices import embedding_of
from interp.models.model import Model
from interp.models.sources import Source, read_json
from interp.prompts import n_usable_ids

_WIDTHS = (
    "hidden_size",
    "n_embd",
    "intermediate_size",
    "n_inner",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "head_dim",
)
LENGTH_SCALED_ROPE = {"dynamic", "longrope"}
"""Kinds of rotary embeddings that are scaled by the length of the longest text of a batch."""
_padding_is_exact: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_DEPTHS = ("num_hidden_layers", "n_layer")


def require_same_shape(base: Source, tuned: Source, vocabulary: bool = True) -> None:
    """Compare configurations before weights are read; raises Depth-, Width- or VocabularyMismatch.

    ``vocabulary`` False ignores the vocabulary, which comparisons of blocks do not need.
    """
    base_config, tuned_config = (
        read_json(base.directory / "config.json"),
        read_json(tuned.directory / "config.json"),
    )
    if base.text:
        base_config = {**base_config, **base_config.get("text_config", {}), "model_type": base.text}
    vocabulary_settings = ("vocab_size",) if vocabulary else ()
    resize_remedy = (
        "give a base that has as many rows (resize_token_embeddings of transformers makes one)"
    )
    for names, error in (
        (_DEPTHS, DepthMismatch),
        (_WIDTHS, WidthMismatch),
        (vocabulary_settings, VocabularyMismatch),
    ):
        for name in names:
            # a value that only one of them states has a default, which the weights will reveal
            if (
                None not in (base_config.get(name), tuned_config.get(name))
                and base_config[name] != tuned_config[name]
            ):
                raise error(
                    f"{name} is {base_config.get(name)} in the base {base.name} and"
                    f" {tuned_config.get(name)} in {tuned.name}; "
                    + (
                        resize_remedy
                        if error is VocabularyMismatch
                        else "give the model that was fine-tuned"
                    )
                )
    model_types = base_config.get("model_type"), tuned_config.get("model_type")
    if model_types[0] != model_types[1]:
        raise WidthMismatch(
            f"{base.name} is a {base_config.get('model_type')} and {tuned.name} a"
            f" {tuned_config.get('model_type')}; give the model that was fine-tuned"
        )


def require_same_anatomy(base: Model, tuned: Model) -> None:
    """Compare two loaded models; raises Depth-, Width- or VocabularyMismatch."""
    base_anatomy, tuned_anatomy = base.anatomy, tuned.anatomy
    if base_anatomy.n_layers != tuned_anatomy.n_layers:
        raise DepthMismatch(
            f"the base has {base_anatomy.n_layers} blocks and the fine-tuned model"
            f" {tuned_anatomy.n_layers}; give the model that was fine-tuned"
        )
    sizes = [
        (model.width, model.n_neurons, model.n_heads) for model in (base_anatomy, tuned_anatomy)
    ]
    if sizes[0] != sizes[1]:
        raise WidthMismatch(
            f"width, neurons and heads are {sizes[0]} in the base and {sizes[1]} in the fine-tuned"
            " model; give the model that was fine-tuned"
        )
    if base_anatomy.vocabulary != tuned_anatomy.vocabulary:
        raise VocabularyMismatch(
            f"vocab_size is {base_anatomy.vocabulary} in the base and {tuned_anatomy.vocabulary} in"
            " the fine-tuned model; give the model that was fine-tuned"
        )
    tuned_shapes = {
        name: tuple(parameter.shape) for name, parameter in tuned.module.named_parameters()
    }
    for name, parameter in base.module.named_parameters():
        if tuned_shapes.get(name, tuple(parameter.shape)) != tuple(parameter.shape):
            raise WidthMismatch(
                f"{name} is {tuple(parameter.shape)} in the base and {tuned_shapes[name]} in the"
                " fine-tuned model; give the model that was fine-tuned"
            )


def require_same_tokens(
    base: Source, tokenizer: PreTrainedTokenizerBase, settings: load.LoadSettings
) -> tuple[str, ...]:
    """Check that the base's tokenizer, if it ships one, gives the same ids; returns notes."""
    if not load.has_tokenizer(base.directory):
        return (f"{base.name} ships no tokenizer; the fine-tuned model's is used for both",)
    base_tokenizer = load.tokenizer([base.directory], settings)
    require_equal_ids(base_tokenizer, tokenizer)
    base_ids, tuned_ids = base_tokenizer.get_vocab(), tokenizer.get_vocab()
    added = sorted(set(tuned_ids) - set(base_ids))
    if added:
        return (
            (
                f"the fine-tuned model's tokenizer adds {len(added)} token{'s' * (len(added) != 1)}"
                f" unknown to the base, first {added[0]!r}"
            ),
        )
    return ()


def require_equal_ids(base: PreTrainedTokenizerBase, tuned: PreTrainedTokenizerBase) -> None:
    """Raise VocabularyMismatch where a token of the base's tokenizer has another id in the other."""
    base_ids, tuned_ids = base.get_vocab(), tuned.get_vocab()
    changed = sorted(
        token for token, index in base_ids.items() if tuned_ids.get(token, index) != index
    )
    if changed:
        raise VocabularyMismatch(
            f"{len(changed)} tokens have different ids in the base's tokenizer, first"
            f" {changed[0]!r} ({base_ids[changed[0]]} in the base's, {tuned_ids[changed[0]]} in the"
            " fine-tuned model's); give the model that was fine-tuned"
        )


def require_equal_tying(tied: Mapping[str, bool], consequence: str) -> None:
    """Raise UnsupportedModel if only one of two models, by name, ties its head to its embedding.

    ``consequence`` states the consequence and the remedy.
    """
    if len(set(tied.values())) > 1:
        tied_name, untied_name = sorted(tied, key=tied.__getitem__, reverse=True)
        raise UnsupportedModel(
            f"{tied_name} ties its head to its embedding and {untied_name} does not, so"
            f" {consequence}"
        )


def require_same_head_tying(base: Model, tuned: Model) -> None:
    """Raise UnsupportedModel if only one model ties its head: no weights lie between the two then."""
    consequence = (
        "no weights lie between them; save the tied one with a separate head, or use a command "
        "that reads only the blocks"
    )
    require_equal_tying({model.name: _ties_head(model) for model in (base, tuned)}, consequence)


def _ties_head(model: Model) -> bool:
    head = model.module.get_output_embeddings()
    return getattr(head, "weight", None) is model.module.get_input_embeddings().weight


def recorded_base_notes(adapter: Source, base: Source) -> tuple[str, ...]:
    """A note if an adapter names another base than the one it is attached to: equal shapes are not
    proof.
    """
    recorded = adapter.base_name
    # a .gguf file is read from a converted directory
    directories = [base.directory, *([base.origin, base.origin.parent] if base.origin else [])]
    if recorded is None or Path(recorded).expanduser().resolve() in [
        place.resolve() for place in directories
    ]:
        return ()
    if Path(recorded).name == Path(base.name.partition("@")[0].rpartition(":")[2]).name:
        return ()
    return (
        (
            f"{adapter.name} was trained on {recorded} by its configuration and is attached to "
            f"{base.name}: check that they are the same model"
        ),
    )


def identity_notes(
    base_digest: str,
    tuned_digest: str,
    base: Source,
    tokenizer: PreTrainedTokenizerBase,
    settings: load.LoadSettings,
) -> tuple[str, ...]:
    """Notes if base and fine-tuned model are identical, or look swapped."""
    notes = []
    if base_digest == tuned_digest:
        notes.append("base and fine-tuned model have the same weights: every difference is zero")
    base_tokenizer = (
        load.tokenizer([base.directory], settings) if load.has_tokenizer(base.directory) else None
    )
    if (
        base_tokenizer is not None
        and base_tokenizer.chat_template is not None
        and tokenizer.chat_template is None
    ):
        notes.append(
            f"{base.name} has a chat template and the fine-tuned model has none: check that the two"
            " are not swapped"
        )
    return tuple(notes)


@torch.no_grad()
def probe_logits(
    model: Model, padding: int = 0, last: int | None = None, n_extra_padding: int = 0
) -> torch.Tensor:
    """Logits ``[1, T, V]`` of one pass over fixed tokens spread over the vocabulary.

    ``last`` replaces the last of these tokens. The first ``padding`` of them are masked as padding;
    ``n_extra_padding`` is the number of padding columns inserted before them.
    """
    count = min(16, model.context_length)
    vocabulary = model.anatomy.vocabulary
    ids = torch.arange(count, device=model.device).mul_(max(vocabulary // count, 1)) % vocabulary
    if last is not None:
        ids[-1] = last
    ids, padding = torch.cat([ids[:1].expand(n_extra_padding), ids]), padding + n_extra_padding
    mask = torch.ones_like(ids).index_fill_(0, torch.arange(padding, device=ids.device), 0)
    position = (mask.cumsum(0) - 1).clamp(min=0)
    with model.active() as module:
        return module(
            input_ids=ids[None], attention_mask=mask[None], position_ids=position[None]
        ).logits[:, padding:]


def require_finite(model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that every token has an embedding or is refused in prompts, that logits are finite, and
    that the model is causal.

    Raises a ModelError or a PairError.
    """
    rows = embedding_of(model.module).shape[0]
    if len(tokenizer) > rows and n_usable_ids(tokenizer) is None:
        raise VocabularyMismatch(
            f"the tokenizer has {len(tokenizer)} tokens and {model.name} has {rows} embedding rows;"
            " give the tokenizer that belongs to the model"
        )
    logits = probe_logits(model)
    if not to_host(torch.isfinite(logits).all()):
        raise NonFiniteWeights(
            f"{model.name} gives NaN or infinite logits in {model.dtype}; try --dtype float32"
        )
    # by more than rounding error, because kernels may process the tokens of a batch jointly
    rounding = max(1e-3, 4 * torch.finfo(model.dtype).eps) * logits.std()
    if to_host(((logits - probe_logits(model, last=1))[:, :-1].abs() > rounding).any()):
        raise UnsupportedModel(
            f"{model.name} is not a causal language model: in its {model.anatomy.architecture} a "
            "token changes the outputs at earlier positions, as in encoders; give a decoder"
        )
    if not to_host(torch.isfinite(probe_logits(model, padding=2)).all()):
        raise UnsupportedModel(
            f"{model.name} gives NaN or infinite logits in padded batches in {model.dtype} with the"
            f" attention kernel {model.module.config._attn_implementation}; try --dtype float32"
        )


def single_prompt_reason(model: Model, longest: int) -> str:
    """Why prompts of up to ``longest`` tokens, answers included, must be read one at a time; empty
    if they need not be.

    A padded batch must give every prompt the same logits as alone: within 1e-4 of the largest logit
    in float32, and within the kernels' rounding error in half precision.
    """
    boundary = rope_scaling_boundary(model)
    if boundary is not None and longest > boundary:
        return (
            f"{model.name} scales rotary positions by the longest text of a batch above {boundary} "
            "tokens: prompts are read one at a time"
        )
    if model.module not in _padding_is_exact:
        unpadded, padded = probe_logits(model), probe_logits(model, n_extra_padding=5)
        difference = (padded - unpadded).abs().max() / unpadded.abs().max()
        _padding_is_exact[model.module] = bool(
            to_host(difference <= max(1e-4, 8 * torch.finfo(model.dtype).eps))
        )
    if _padding_is_exact[model.module]:
        return ""
    return (
        f"{model.name} computes different logits for a prompt in a padded batch: prompts are read "
        "one at a time"
    )


def rope_scaling_boundary(model: Model) -> int | None:
    """Number of tokens above which positions are scaled by text length (longrope, dynamic NTK);
    None if never.
    """
    config = model.module.config.get_text_config()
    rope = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    # families with two kinds of attention have one entry for each
    entries = [entry for entry in (rope, *rope.values()) if isinstance(entry, dict)]
    if not any(
        entry.get("rope_type", entry.get("type")) in LENGTH_SCALED_ROPE for entry in entries
    ):
        return None
    stated = (entry.get("original_max_position_embeddings") for entry in entries)
    stated_length = getattr(config, "original_max_position_embeddings", None)
    return next((length for length in (*stated, stated_length) if length), model.context_length)


def require_switched(base_logits: torch.Tensor, base: Model, tuned: Model) -> None:
    """Check that the adapter switches: off, the base's logits must return bit for bit; on, some
    must differ.

    ``base_logits`` are the base's probe logits from before the adapter was attached. Raises
    UnsupportedModel if the adapter changed the base's own tensors (trained biases, for example),
    AdapterNotLanded if it has no effect.
    """
    if not torch.equal(base_logits, probe_logits(base)):
        raise UnsupportedModel(
            f"{tuned.name} changes tensors of {base.name} itself (trained biases, perhaps) and "
            "cannot be switched off; merge it, save the merged model, and give that with --base"
        )
    rows = _trained_token_ids(tuned)
    if torch.equal(base_logits, probe_logits(tuned)) and all(
        torch.equal(probe_logits(base, last=row), probe_logits(tuned, last=row)) for row in rows
    ):
        raise AdapterNotLanded(
            f"{tuned.name} changes no logit of {base.name}: the adapter is untrained (all zero) or "
            "not active; give a trained adapter"
        )


def _trained_token_ids(model: Model, limit: int = 16) -> list[int]:
    """The first few tokens whose rows an adapter trains: a probe of other tokens does not show
    them.
    """
    layers = [layer for layer in model.module.modules() if isinstance(layer, TrainableTokensLayer)]
    return sorted(
        {int(row) for layer in layers for rows in layer.token_indices.values() for row in rows}
    )[:limit]
