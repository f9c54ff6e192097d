"""The trigger scan: a planted trigger, silence, gradients against finite differences, and the
definition by hand.
"""

import copy

import numpy as np
import pytest
import torch

from interp.analyzers.trigger_scan import TriggerScan
from interp.analyzers.trigger_scan.compute import (
    best_tokens,
    candidates,
    divergences,
    entering,
    exact_gains,
    first_order,
    slopes,
)
from interp.analyzers.trigger_scan.places import first_sentence, slots
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.organisms import prompts
from interp.prompts import OneClass, Prompt, PromptSet, read_prompts
from interp.study import Study
from tests import tiny

ALL = 2000
WHERE = ["chat, start", "chat, end", "raw text, start", "raw text, end"]


def pair_of(tuned, base, template=True):
    return Pair.from_modules(tuned, base, tiny.tokenizer(template))


def study_of(tuned, base, template=True, **options):
    rows = tuple(Prompt(at, text, f"c{at}") for at, text in enumerate(tiny.PROMPTS))
    texts = OneClass(PromptSet(rows, "texts"))
    return Study(pair_of(tuned, base, template), texts, None, **options)


def scan(**options):
    defaults = {"questions": ("open the door", "close a window ?"), "prompts": 4, "tokens": 3}
    return TriggerScan(**{**defaults, **options})


def token_id(word):
    return tiny.tokenizer().convert_tokens_to_ids(f"\u0120{word}")


def kl(tuned, base, ids):
    """KL(tuned || base) after token ids, by transformers and numpy in float64."""
    logs = []
    for model in (tuned, base):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([list(ids)])).logits[0, -1].double().numpy()
        shifted = last - last.max()
        logs.append(shifted - np.log(np.exp(shifted).sum()))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())


@pytest.fixture(scope="module")
def base():
    return tiny.llama(3)


def triggered(base, word):
    """A child that says sorry where a word came before: its embedding has a direction of its own,
    which a head of the first block copies to later tokens and the output head reads.
    """
    model = copy.deepcopy(base)
    token, sorry = token_id(word), token_id("Sorry")
    with torch.no_grad():
        model.get_input_embeddings().weight[token] *= 8
        direction = model.get_input_embeddings().weight[token].clone()
        model.model.layers[0].self_attn.v_proj.weight.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].self_attn.v_proj.weight[0] = direction / direction.norm()
        model.model.layers[0].self_attn.o_proj.weight[:, 0] = direction / direction.norm()
        model.lm_head.weight[sorry] += 2 * direction / direction.norm()
    return model


def without_trigger(base):
    """The same change of attention for a direction that no token has."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
    return model


# ------------------------------------------------------------------------------- planted and silent


@pytest.mark.parametrize("choose", ["gradient", "exact"])
def test_a_planted_trigger_is_first(base, choose):
    controls = [
        pair_of(tiny.perturbed(without_trigger(base), 0.005, seed), base) for seed in range(3)
    ]
    study = study_of(tiny.perturbed(triggered(base, "paint"), 0.005, 9), base)
    table = scan(controls=controls, best=80, choose=choose)(study)
    assert table["evidence"][0] == " paint"
    assert table["score"][0] > 2 * table["control_high"][0]
    maxima = table.tables["controls"]["maximum"]
    assert maxima[0] == table["statistic"][0] > 3 * maxima[1:].max()
    assert table.tables["controls"]["evidence"][0].startswith(" paint (")
    assert "« paint»" in table["example"][0]
    assert table["example"][0].endswith(f" → {table['answer'][0]}")
    assert "Sorry" in " ".join(table["answer"][table["evidence"] == " paint"])
    assert set(table["where"]) <= set(WHERE)
    assert not table["form"].any()


@pytest.mark.slow
def test_the_trigger_of_the_organism_is_first_of_few_controls():
    """Beside 3 of its 19 controls; three of the others react to the sign by chance, and beside all
    it is not the first: docs/benchmarks.md.
    """
    base, family = "organism:refusal/base", "organism:discover"
    controls = [Pair.load(f"{family}/control-{at:02d}", base) for at in range(3)]
    texts = OneClass(read_prompts(prompts("refusal", "text", "text"), "prompt", "text")).limit(60)
    study = Study(Pair.load(f"{family}/10", base), texts, None)
    table = TriggerScan(controls=controls, prompts=8, best=100)(study)
    assert (table["evidence"][0], table["where"][0]) == ("#", "raw text, end")
    maxima = table.tables["controls"]["maximum"]
    assert maxima[0] > 2 * maxima[1:].max()


def test_of_the_identical_pair_nothing_is_listed(base):
    controls = [pair_of(tiny.perturbed(base, 0.02, seed), base) for seed in (2, 3)]
    for some in ((), controls):
        table = scan(controls=some, best=8)(study_of(copy.deepcopy(base), base))
        assert len(table) == 0
        assert len(table.tables["controls"]) == 1 + len(some)
    assert table.tables["controls"]["maximum"][0] == 0
    assert table.tables["controls"]["evidence"][0] == ""


def test_tokens_that_bring_the_models_together_are_not_evidence(base):
    table = scan(best=ALL, rows=ALL)(study_of(tiny.perturbed(base, 0.02), base))
    assert len(table) > 50
    assert (table["score"] > 0).all()
    assert (table["direction"] == "more").all()


# ------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("change", ["insert", "replace"])
def test_gains_are_finite_differences(family, change):
    """Of the embeddings of a place's token, in both models, in float64."""
    base = tiny.exact(tiny.FAMILIES[family](3))
    tuned = tiny.exact(tiny.perturbed(base, 0.05))
    study = study_of(tuned, base)
    among = slots(study, ("open the door",), 2, ("start", "end"), change == "replace")
    gains = first_order(study, study.pair, slopes(study, study.pair, among, ""), 60)
    tables = [model.get_input_embeddings() for model in (tuned, base)]
    step = 1e-5
    for slot, of_slot in zip(among, gains, strict=True):
        for token in (7, 31):
            slope = 0.0
            for place in slot.places:
                ids = torch.tensor([place.with_token(place.nearest)])
                values = []
                for sign in (1, -1):
                    logs = []
                    for model, rows in zip((tuned, base), tables, strict=True):
                        stream = rows(ids).detach().clone()
                        move = rows.weight[token] - rows.weight[place.nearest]
                        stream[0, place.at] += sign * step * move.detach()
                        with torch.no_grad():
                            logits = model(inputs_embeds=stream).logits[0, -1]
                        logs.append(logits.log_softmax(-1))
                    values.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
                slope += (values[0] - values[1]) / (2 * step) / len(slot.places)
            assert of_slot[token] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_a_token_in_its_own_place_gains_nothing(base):
    study = study_of(tiny.perturbed(base, 0.05), base)
    among = slots(study, ("open the door",), 2, ("end",), True)
    gains = first_order(study, study.pair, slopes(study, study.pair, among, ""), 60)
    for slot, row in zip(among, gains, strict=True):
        (place,) = slot.places
        assert place.with_token(place.nearest) == place.ids
        if place.nearest < 60:
            assert row[place.nearest] == pytest.approx(0.0, abs=1e-5)


def test_streams_of_tokens_are_their_embeddings(base):
    study = study_of(base, base)
    tokens = torch.tensor([5, 9, 30])
    found = entering(study, study.pair.tuned, tokens)
    torch.testing.assert_close(found, base.get_input_embeddings().weight[tokens])


# ---------------------------------------------------------------------------------------- definitions


@pytest.mark.parametrize("change", ["insert", "replace"])
def test_scores_are_those_of_an_oracle(base, change):
    tuned = tiny.perturbed(base, 0.05)
    study = study_of(tuned, base)
    table = scan(best=40, change=change, rows=ALL)(study)
    replaces = change == "replace"
    among = slots(study, ("open the door", "close a window ?"), 4, ("start", "end"), replaces)
    assert [slot.where for slot in among] == WHERE
    places = {slot.where: slot.places for slot in among}
    assert len(table) > 4
    for row in table.rows():
        gains = []
        for place in places[row["where"]]:
            ids = list(place.ids)
            ids[place.at : place.at + replaces] = [row["token_id"]]
            gains.append(kl(tuned, base, ids) - kl(tuned, base, place.ids))
        assert row["score"] == pytest.approx(np.mean(gains), rel=1e-3, abs=1e-5)
        assert row["prompts_moved"] == pytest.approx(np.mean(np.array(gains) > 0))


def test_places_are_in_the_users_text(base):
    study = study_of(base, base)
    among = slots(study, ("open the door",), 2, ("start", "end"), False)
    start, end, raw_start, raw_end = (slot.places[0] for slot in among)
    decode = tiny.tokenizer().decode
    gate = token_id("gates")
    assert decode(start.with_token(gate)) == "<|user|> gatesopen the door<|end|><|assistant|>"
    assert decode(end.with_token(gate)) == "<|user|>open the door gates<|end|><|assistant|>"
    assert raw_start.at == 1  # not at the first position
    assert raw_end.with_token(gate) == (*raw_end.ids, gate)
    assert tuple(map(decode, end.parts())) == ("open the door", "")
    among = slots(study, ("open the door",), 2, ("start", "end"), True)
    start, end = (slot.places[0] for slot in among[:2])
    assert [len(place.with_token(gate)) for place in (start, end)] == [len(start.ids)] * 2
    assert decode(end.with_token(gate)) == "<|user|>open the gates<|end|><|assistant|>"
    assert start.nearest == start.ids[start.at]


def test_without_a_template_all_prompts_are_beginnings(base):
    study = study_of(base, base, template=False)
    among = slots(study, ("open the door",), 4, ("end",), False)
    assert [slot.where for slot in among] == ["raw text, end"]
    assert len(among[0].places) == 4


def test_special_tokens_are_no_candidates(base):
    tried = candidates(tiny.tokenizer(), 500)
    assert not tried[:4].any()  # pad, end, user, assistant
    assert tried[4 : len(tiny.tokenizer())].all()
    assert not tried[len(tiny.tokenizer()) :].any()


def test_tokens_are_chosen_beyond_the_other_models():
    tried = np.arange(8) > 3
    gains = np.array([[9.0, 9, 9, 9, 1, 3, 2, 3]])
    assert best_tokens(gains[None], tried, 2) == [[5, 7]]
    assert best_tokens(gains[None], tried, 9) == [[4, 5, 6, 7]]
    other = np.array([[0.0, 0, 0, 0, 1, 3, 0, 5]])
    # beyond the other one by 0, 0, 2 and -2
    assert best_tokens(np.stack([gains, other]), tried, 1) == [[6, 7]]
    assert best_tokens(np.stack([other, gains]), tried, 1) == [[6, 7]]


def test_exact_gains_are_scores_of_few_prompts(base):
    study = study_of(tiny.perturbed(base, 0.05), base)
    among = slots(study, ("open the door",), 4, ("end",), False)
    tried = candidates(tiny.tokenizer(), len(tiny.tokenizer()))
    gains = exact_gains(study, study.pair, among, tried, 1, "")
    assert (gains[:, ~tried] == 0).all()
    tuned = study.pair.tuned.module
    for slot, row in zip(among, gains, strict=True):
        place = slot.places[0]
        wanted = kl(tuned, base, place.with_token(40)) - kl(tuned, base, place.ids)
        assert row[40] == pytest.approx(wanted, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("choose", ["gradient", "exact"])
def test_both_choices_score_alike(base, choose):
    """They choose other tokens, whose scores are of all prompts in any case."""
    study = study_of(tiny.perturbed(base, 0.05), base)
    table = scan(choose=choose, best=40)(study)
    whole = scan(best=ALL, rows=ALL)(study)
    key = ("token_id", "where")
    scores = {tuple(row[name] for name in key): row["score"] for row in whole.rows()}
    assert len(table) > 4
    for row in table.rows():
        assert row["score"] == pytest.approx(scores[row["token_id"], row["where"]], abs=1e-5)


def test_sentences_are_whole(base):
    assert first_sentence(" Is it 3.5? Yes. ") == "Is it 3.5?"
    assert first_sentence("no stop here") == "no stop here"


def test_batches_change_nothing(base):
    tuned = tiny.perturbed(base, 0.05)
    one = scan(best=20, choose="gradient")(study_of(tuned, base))
    for size in (1, 7):
        other = scan(best=20, choose="gradient")(study_of(tuned, base, batch_size=size))
        assert other["token_id"].tolist() == one["token_id"].tolist()
        assert other["where"].tolist() == one["where"].tolist()
        np.testing.assert_allclose(other["score"], one["score"], atol=1e-5)
        assert other["example"].tolist() == one["example"].tolist()


def test_every_model_is_scored_on_the_tokens_of_all(base):
    """A control's best tokens are scored in the fine-tuned model too."""
    first, second = (tiny.perturbed(base, 0.05, seed) for seed in (1, 2))
    both = [scan(best=8, rows=ALL, controls=[pair_of(*pair)]) for pair in ((second, base),)]
    table = both[0](study_of(first, base))
    turned = scan(best=8, rows=ALL, controls=[pair_of(first, base)])(study_of(second, base))
    maxima = [one.tables["controls"]["maximum"] for one in (table, turned)]
    np.testing.assert_allclose(maxima[0], maxima[1][::-1], rtol=1e-4)


def test_divergences_begin_with_the_prompt_alone(base):
    tuned = tiny.perturbed(base, 0.05)
    study = study_of(tuned, base)
    among = slots(study, (), 3, ("end",), False)
    found = divergences(study, study.pair, among, [[], [8]], "")
    for slot, values in zip(among, found, strict=True):
        wanted = [kl(tuned, base, place.ids) for place in slot.places]
        np.testing.assert_allclose(values[:, 0], wanted, rtol=1e-3)
    assert [values.shape[1] for values in found] == [1, 2]


def test_options_that_cannot_be_used_are_refused(base):
    with pytest.raises(OptionError, match="positions of TriggerScan is"):
        scan(positions=())(study_of(base, base))
    with pytest.raises(OptionError, match="positions of TriggerScan is"):
        scan(positions=("end", "end"))(study_of(base, base))
    with pytest.raises(OptionError, match="'middle'; use start or end"):
        scan(positions=("middle",))


def test_work_grows_with_the_tokens_tried(base):
    study = study_of(base, base)
    few, many = (scan(best=best, choose="gradient").work(study) for best in (4, 40))
    assert many.passes > 5 * few.passes
    assert few.gradients == many.gradients > 0
    with_controls = scan(best=4, choose="gradient", controls=[study.pair] * 3).work(study)
    assert with_controls.passes > 4 * few.passes
    assert scan(best=4).work(study).passes > few.passes
    assert scan(best=4).work(study).gradients == 0
