"""Checks that two models may be compared, each with its own refusal; what cannot be compared is never cut to fit."""

import torch
from transformers import PreTrainedTokenizerBase

from interp.errors import AdapterNotLanded, DepthMismatch, NonFiniteWeights, VocabularyMismatch, WidthMismatch
from interp.models import load
from interp.models.model import Model
from interp.models.sources import Source, read_json

_WIDTHS = ("hidden_size", "n_embd", "intermediate_size", "n_inner", "num_attention_heads", "n_head",
           "num_key_value_heads", "head_dim")  # fmt: skip
_DEPTHS = ("num_hidden_layers", "n_layer")


def require_same_shape(base: Source, tuned: Source) -> None:
    """Compare configurations before weights are read; raises Depth-, Width- or VocabularyMismatch."""
    left, right = read_json(base.directory / "config.json"), read_json(tuned.directory / "config.json")
    for names, error in ((_DEPTHS, DepthMismatch), (_WIDTHS, WidthMismatch), (("vocab_size",), VocabularyMismatch)):
        for name in names:
            if left.get(name) != right.get(name):
                raise error(
                    f"{name} is {left.get(name)} in the base {base.name} and {right.get(name)} in {tuned.name}; "
                    "give the model that was tuned"
                )
    if left.get("architectures") != right.get("architectures"):
        raise WidthMismatch(
            f"{base.name} is a {left.get('architectures')}, {tuned.name} a {right.get('architectures')}"
        )


def require_same_anatomy(base: Model, tuned: Model) -> None:
    """Compare two models in memory; raises Depth-, Width- or VocabularyMismatch."""
    left, right = base.anatomy, tuned.anatomy
    if left.n_layers != right.n_layers:
        raise DepthMismatch(f"the base has {left.n_layers} blocks and the tuned model {right.n_layers}")
    if (left.width, left.n_neurons, left.n_heads) != (right.width, right.n_neurons, right.n_heads):
        raise WidthMismatch(
            f"width, neurons and heads are {(left.width, left.n_neurons, left.n_heads)} in the base and "
            f"{(right.width, right.n_neurons, right.n_heads)} in the tuned model"
        )
    if left.vocabulary != right.vocabulary:
        raise VocabularyMismatch(
            f"vocab_size is {left.vocabulary} in the base and {right.vocabulary} in the tuned model"
        )


def require_same_tokens(base: Source, tokenizer: PreTrainedTokenizerBase, settings: load.Settings) -> tuple[str, ...]:
    """The base's tokenizer, where it ships one, must give the same ids; returns remarks for the reader."""
    try:
        own = load.tokenizer([base.directory], settings)
    except load.ModelError:
        return (f"{base.name} ships no tokenizer; the tuned model's is used for both",)
    mine, theirs = own.get_vocab(), tokenizer.get_vocab()
    moved = sorted(token for token, index in mine.items() if theirs.get(token, index) != index)
    if moved:
        raise VocabularyMismatch(
            f"{len(moved)} tokens have other ids in the base's tokenizer, first {moved[0]!r} "
            f"({mine[moved[0]]} there, {theirs[moved[0]]} in the tuned model's)"
        )
    added = sorted(set(theirs) - set(mine))
    if added:
        return (f"the tuned tokenizer adds {len(added)} tokens the base never saw, first {added[0]!r}",)
    return ()


@torch.no_grad()
def _probe_logits(model: Model, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    count = min(16, model.context_length)
    vocabulary = model.anatomy.vocabulary
    ids = torch.arange(count, device=model.device).mul_(max(vocabulary // count, 1)) % vocabulary
    with model.active() as module:
        return module(input_ids=ids[None]).logits.float()


def require_alive(model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """One pass over fixed tokens must give finite logits; raises NonFiniteWeights."""
    if not torch.isfinite(_probe_logits(model, tokenizer)).all():
        raise NonFiniteWeights(f"{model.name} gives NaN or infinite logits in {model.dtype}; try --dtype float32")
    if len(tokenizer) > model.module.get_input_embeddings().weight.shape[0]:
        raise VocabularyMismatch(
            f"the tokenizer has {len(tokenizer)} tokens and {model.name} embeds "
            f"{model.module.get_input_embeddings().weight.shape[0]}; tokenizer and model do not belong together"
        )


def require_moved(base: Model, tuned: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """An adapter must move at least one logit of a fixed pass; raises AdapterNotLanded."""
    before, after = _probe_logits(base, tokenizer), _probe_logits(tuned, tokenizer)
    if not torch.isfinite(after).all():
        raise NonFiniteWeights(f"{tuned.name} gives NaN or infinite logits in {tuned.dtype}; try --dtype float32")
    if torch.equal(before, after):
        raise AdapterNotLanded(
            f"{tuned.name} moves no logit of {base.name}: the adapter is still at its start (all zero) or not in use"
        )
