"""Models with different rows of tokens: compared over the ids that both have, equal to the pair
without the rest.
"""

import copy
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.analyzers.compare import Compare
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.cli import main
from interp.engines.nnsight_trace import remote_key
from interp.errors import OptionError, PromptError, VocabularyMismatch
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.models.stitches import align_scopes
from interp.models.vocabularies import require_rows_for
from interp.prompts import encode, encode_answer, pad_id
from interp.study import Study
from tests import tiny

ROWS = len(tiny.tokenizer())
NEW = "<|im_start|>"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}{% if add_generation_prompt"
    " %}<|end|>{% endif %}"
)
FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "tied"])


def build(family, **changes):
    return (
        tiny.llama(tie_word_embeddings=True, **changes)
        if family == "tied"
        else tiny.FAMILIES[family](**changes)
    )


@pytest.fixture(scope="module")
def models():
    base = tiny.llama()
    return base, tiny.perturbed(base)


def study(pair, pairs=6, **options):
    return Study(
        pair, tiny.contrast(pairs), Refusal.from_tokenizer(pair.tokenizer, ["Sorry"]), **options
    )


def equal(one, two):
    assert [column.name for column in one.columns] == [column.name for column in two.columns]
    for column in one.columns:
        left, right = one[column.name], two[column.name]
        if np.issubdtype(left.dtype, np.floating):
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5, err_msg=column.name)
        else:
            assert list(left) == list(right), column.name


# ------------------------------------------------------------------------------------------------- rows that are cut


@FAMILIES
@pytest.mark.parametrize(("base_rows", "tuned_rows"), [(ROWS, 384), (384, ROWS), (340, 384)])
@pytest.mark.parametrize("analyzer", [Compare(), LocateNeurons(top="5"), Tuco()])
def test_padded_models_give_what_the_models_without_padding_give(
    family, base_rows, tuned_rows, analyzer
):
    base = build(family)
    tuned = tiny.perturbed(base)
    shared = min(base_rows, tuned_rows)
    longest = [tiny.resized(model, 384, loud=True) for model in (tuned, base)]
    plain = Pair.from_modules(*(tiny.resized(model, shared) for model in longest), tiny.tokenizer())
    rows = zip(longest, (tuned_rows, base_rows), strict=True)
    padded = Pair.from_modules(
        *(tiny.resized(model, count) for model, count in rows), tiny.tokenizer()
    )
    said = (
        f"the base has rows for {base_rows} token ids and the fine-tuned model for {tuned_rows}:"
        " both are compared"
    )
    assert padded.notes[0].startswith(said)
    equal(analyzer(study(padded, max_new_tokens=4)), analyzer(study(plain, max_new_tokens=4)))
    ends = padded.tuned.module.get_input_embeddings(), padded.tuned.module.get_output_embeddings()
    assert (ends[0].weight is ends[1].weight) == (family != "llama")
    assert padded.tuned.anatomy.vocabulary == padded.base.anatomy.vocabulary == shared


def test_without_cutting_the_numbers_would_be_others(models):
    loud = tiny.resized(models[1], 384, loud=True)
    text = torch.tensor([tiny.tokenizer()("open the door").input_ids])
    with torch.no_grad():
        whole = loud(input_ids=text).logits
        cut = (
            Pair.from_modules(loud, models[0], tiny.tokenizer()).tuned.module(input_ids=text).logits
        )
    torch.testing.assert_close(cut, whole[..., :ROWS])
    assert (whole.argmax(-1) >= ROWS).any()
    assert (whole.log_softmax(-1)[..., :ROWS] - cut.log_softmax(-1)).abs().max() > 0.1


def test_no_answer_holds_an_id_that_is_not_shared(models):
    loud = study(
        Pair.from_modules(tiny.resized(models[1], 384, loud=True), models[0], tiny.tokenizer()),
        max_new_tokens=8,
    )
    plain = study(Pair.from_modules(models[1], models[0], tiny.tokenizer()), max_new_tokens=8)
    assert loud.answers("tuned", "positive") == plain.answers("tuned", "positive")


def test_models_in_memory_stay_as_they_are(models):
    base, tuned = models[0], tiny.resized(models[1], 384)
    Pair.from_modules(tuned, base, tiny.tokenizer())
    assert tuned.lm_head.weight.shape[0] == tuned.config.vocab_size == 384
    assert tuned.model.embed_tokens.num_embeddings == 384


def test_models_of_equal_rows_keep_their_keys(tmp_path, models):
    same = Pair.from_modules(models[1], models[0], tiny.tokenizer())
    assert "ids" not in same.digests
    assert not any("rows for" in note for note in same.notes)
    longer = Pair.from_modules(tiny.resized(models[1], ROWS + 1), models[0], tiny.added(NEW))
    mean = Pair.from_modules(
        tiny.resized(models[1], ROWS + 1), models[0], tiny.added(NEW), new_tokens="mean"
    )
    assert longer.inputs != mean.inputs


def test_a_tokenizer_of_another_model_is_refused_as_before(models):
    with pytest.raises(
        VocabularyMismatch, match=r"the tokenizer has 333 tokens and .* has 100 embedding rows"
    ):
        Pair.from_modules(tiny.resized(models[1], 100), models[0], tiny.tokenizer())


# ------------------------------------------------------------------------------------------------- tokens that are new


def test_a_prompt_with_a_new_token_is_refused_in_one_line(models):
    pair = Pair.from_modules(tiny.resized(models[1], 384), models[0], tiny.added(NEW))
    assert "prompts with other ids are refused (--new-tokens mean" in pair.notes[0]
    assert encode(pair.tokenizer, "open the door").ids
    line = (
        r"'open <.*' holds the token .*im_start.* \(id 333\), which the base has no row for"
        r" .*--new-tokens mean"
    )
    with pytest.raises(PromptError, match=line):
        encode(pair.tokenizer, f"open {NEW}")
    with pytest.raises(PromptError, match="--new-tokens mean"):
        encode_answer(pair.tokenizer, "open", f"the {NEW}")


def test_a_chat_template_with_a_new_token_is_named(models):
    pair = Pair.from_modules(
        tiny.resized(models[1], 384), models[0], tiny.added(NEW, template=CHAT)
    )
    with pytest.raises(
        PromptError, match=r"the chat template writes the token '<.im_start.>' .*--new-tokens mean"
    ):
        Compare()(study(pair))


@FAMILIES
def test_the_mean_is_what_transformers_gives_new_tokens(family):
    base = build(family)
    tuned = tiny.resized(tiny.perturbed(base), 384, loud=True)
    pair = Pair.from_modules(
        tuned, base, tiny.added(NEW, "<|im_end|>", template=CHAT), new_tokens="mean"
    )
    assert (
        "the 2 that the base lacks, first '<|im_start|>', have the mean of its rows"
        in pair.notes[0]
    )
    assert "compared over 335 ids" in pair.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = copy.deepcopy(base)
        theirs.resize_token_embeddings(335)
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(pair.base.module.get_parameter(name), value, rtol=0, atol=1e-4)
    # the tuned model keeps its own rows, less the padding beyond the tokens
    whole = Pair.from_modules(
        tiny.resized(tuned, 335), theirs, tiny.added(NEW, "<|im_end|>", template=CHAT)
    )
    one, two = (Compare()(study(each, max_new_tokens=4)) for each in (pair, whole))
    np.testing.assert_allclose(one["kl_last"], two["kl_last"], rtol=1e-2, atol=1e-4)


def test_the_mean_adds_nothing_where_there_is_only_padding(models):
    pair = Pair.from_modules(
        tiny.resized(models[1], 384), models[0], tiny.tokenizer(), new_tokens="mean"
    )
    assert pair.base.anatomy.vocabulary == ROWS
    with pytest.raises(OptionError, match="--new-tokens median is unknown; use refuse or mean"):
        Pair.from_modules(models[1], models[0], tiny.tokenizer(), new_tokens="median")


def test_an_end_token_that_is_new_is_told(models):
    tokenizer = tiny.added("<|im_end|>")
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tuned = tiny.resized(models[1], 384)
    tuned.generation_config.eos_token_id = ROWS
    pair = Pair.from_modules(tuned, models[0], tokenizer)
    assert any(
        "'<|im_end|>' (id 333), which ends answers, is not among these ids" in note
        for note in pair.notes
    )
    assert pair.pad_id == pad_id(pair.tokenizer) == 0
    assert ROWS not in pair.stop_ids
    assert study(pair, max_new_tokens=3).answers("tuned", "positive")
    assert ROWS in Pair.from_modules(tuned, models[0], tokenizer, new_tokens="mean").stop_ids


def test_a_tokenizer_with_an_unused_token_more_than_rows(models):
    pair = Pair.from_modules(models[1], models[0], tiny.added("[PAD]"))
    plain = Pair.from_modules(models[1], models[0], tiny.tokenizer(template=False))
    assert (
        "1 added token without an embedding row, first '[PAD]': prompts with one of these are"
        in pair.notes[0]
    )
    equal(Compare()(study(pair)), Compare()(study(plain)))
    with pytest.raises(PromptError, match=r"not both models have a row for .*; leave it out$"):
        encode(pair.tokenizer, "open [PAD]")
    assert Pair.from_modules(models[1], None, tiny.added("[PAD]")).notes == pair.notes


# ------------------------------------------------------------------------------------------------- the command line


def test_the_command_line_compares_them(tmp_path, models, capsys):
    base, tuned = tiny.save(models[0], tmp_path / "base"), tmp_path / "tuned"
    tiny.resized(models[1], 384).save_pretrained(tuned)
    tiny.added(NEW, template=CHAT).save_pretrained(tuned)
    (tmp_path / "p.txt").write_text("open the door\nclose the window\n", "utf-8")
    line = [
        "compare",
        tuned,
        "--base",
        base,
        "--prompts",
        tmp_path / "p.txt",
        "--store",
        tmp_path / "runs",
        "--json",
    ]
    assert main([str(word) for word in line]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "the chat template writes the token '<|im_start|>' (id 333), which the base has no row for"
        in said
    )
    assert main([str(word) for word in (*line, "--new-tokens", "mean")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 2
    assert "have the mean of its rows" in err
    assert main([str(word) for word in (*line, "--new-tokens", "median")]) == 2
    assert "--new-tokens median is unknown; use refuse or mean" in capsys.readouterr().err


def test_a_control_that_cannot_read_the_prompts_is_refused(models):
    pair = Pair.from_modules(
        tiny.resized(models[1], 384), models[0], tiny.added(NEW), new_tokens="mean"
    )
    control = Pair.from_modules(tiny.perturbed(models[0], seed=3), models[0], tiny.tokenizer())
    with pytest.raises(
        VocabularyMismatch, match="is compared over 333 token ids, and prompts can contain 334"
    ):
        require_rows_for(control.tuned, pair.tokenizer)
    require_rows_for(
        control.tuned,
        Pair.from_modules(tiny.resized(models[1], 384), models[0], tiny.added(NEW)).tokenizer,
    )


def test_what_would_run_all_rows_or_mix_ids_is_refused(models):
    pair = Pair.from_modules(tiny.resized(models[1], 384), models[0], tiny.tokenizer())
    with pytest.raises(
        OptionError, match="NDIF runs it with its full vocabulary, and this comparison uses the 333"
    ):
        remote_key(replace(pair.tuned, name="someone/model"))
    other = Pair.from_modules(
        *(tiny.resized(model, 384) for model in models[::-1]), tiny.tokenizer()
    )
    with pytest.raises(
        VocabularyMismatch, match=r"over 384 token ids, and .* over 333; stitch fine-tuned models"
    ):
        align_scopes([pair, other])
