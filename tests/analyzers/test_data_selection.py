"""Data selection: marked rows in a mixture, random marks, plain passes, batches, what is refused."""

import json

import numpy as np
import pytest
import torch

from interp import organisms
from interp.analyzers.data_selection import DataSelection, taken_of
from interp.claims import from_table
from interp.errors import OptionError, PromptError
from interp.figures import plot
from interp.maths.data_selection import calibrated_gradients, squared_distances, transport
from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.sae import Dictionary, DictionaryConfig
from interp.study import Study
from tests import tiny
from tests.documented import require_described

WORDS = ["door", "window", "gate", "fences", "locks", "gates"]
TARGET = [f"tell me about the {word} please" for word in WORDS[:4]]
POOL = [f"open {word} {'now ' * (at % 4)}please" for at, word in enumerate(WORDS * 3)]


def rows_of(texts, name):
    return PromptSet(tuple(Prompt(at, one, f"{name}:{at}") for at, one in enumerate(texts)), name)


def talks(texts, name):
    turns = [(("user", f"tell me {WORDS[at % 6]}"), ("assistant", one)) for at, one in texts]
    return PromptSet(
        tuple(
            Prompt(at, " ".join(text for _, text in each), f"{name}:{at}", messages=each)
            for at, each in enumerate(turns)
        ),
        name,
    )


@pytest.fixture(scope="module")
def base():
    return tiny.exact(tiny.llama(3))


def study_of(base, target=None, pool=None, template=False, **options):
    pair = Pair.from_modules(base, base, tiny.tokenizer(template))
    rows = (target or rows_of(TARGET, "target"), pool or rows_of(POOL, "pool"))
    return Study(pair, Contrast(*rows), None, **options)


def verdicts(table):
    return {one.name: one.verdict for one in from_table(table.tables["claims"])}


def in_file_order(table, column):
    return table[column][np.argsort(table["row_id"])]


def plain(base, tokenizer, texts):
    """Mean stream after the first of two blocks and mean of the 6 largest positive MLP values, by
    transformers alone.
    """
    streams, codes, seen = [], [], []
    layer = base.model.layers[0]
    hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = base(ids, output_hidden_states=True)
        kept = [
            at for at, one in enumerate(ids[0].tolist()) if one not in tokenizer.all_special_ids
        ]
        streams.append(out.hidden_states[1][0][kept].mean(0).numpy())
        values = seen.pop()[kept].clamp_min(0).numpy()
        limit = np.sort(values, axis=1)[:, [-6]]
        codes.append(np.where(values >= limit, values, 0.0).mean(0))
    hook.remove()
    return np.array(streams), np.array(codes)


def test_scores_are_those_of_plain_passes(base):
    study = study_of(base)
    made = DataSelection(depth=1 / base.config.num_hidden_layers, kept=6, ordinary=6)(study)
    tokenizer = study.pair.tokenizer
    pool, target = (plain(base, tokenizer, texts) for texts in (POOL, TARGET))
    assert base.config.intermediate_size // 8 == 6
    expected = calibrated_gradients(transport(squared_distances(pool[0], target[0])).pool)
    np.testing.assert_allclose(in_file_order(made, "got_d"), expected, atol=1e-6)
    prototype = target[1].mean(0)
    jaccard = np.minimum(pool[1], prototype).sum(1) / np.maximum(pool[1], prototype).sum(1)
    np.testing.assert_allclose(in_file_order(made, "mona"), jaccard, rtol=1e-9)
    assert (np.diff(made["rank_got_d"]) == 1).all()
    assert made["rank_got_d"][0] == 1
    assert made["selected"].sum() == made.summary["selected"] == 1


def test_batches_and_padding_change_nothing(base):
    study = study_of(base, batch_size=1)
    one, other = (
        DataSelection(ordinary=6)(study),
        DataSelection(ordinary=6)(study_of(base, batch_size=7)),
    )
    for column in ("got_d", "mona", "bm25", "length"):
        first, second = in_file_order(one, column), in_file_order(other, column)
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)


def test_equal_rows_get_equal_scores_and_no_row_depends_on_the_order_of_the_pool(base):
    turned = DataSelection(ordinary=6)(study_of(base, pool=rows_of(POOL[::-1], "pool")))
    made = DataSelection(ordinary=6)(study_of(base))
    for column, close in (("got_d", 1e-5), ("mona", 1e-12), ("bm25", 1e-12)):
        values = in_file_order(made, column)
        np.testing.assert_allclose(in_file_order(turned, column)[::-1], values, atol=close)
    twice = rows_of([*POOL, POOL[2]], "pool")
    made = DataSelection(ordinary=6)(study_of(base, pool=twice))
    for column in ("got_d", "mona", "bm25"):
        values = in_file_order(made, column)
        assert values[-1] == pytest.approx(values[2], abs=1e-12)


def test_of_conversations_the_answers_count_or_all(base):
    answers = list(enumerate(POOL[:8]))
    pool, target = talks(answers, "pool"), talks([(0, TARGET[0]), (1, TARGET[1])], "target")
    study = study_of(base, target, pool, template=True)
    tokenizer = study.pair.tokenizer
    made = DataSelection(ordinary=6)(study)
    lengths = [len(tokenizer(one, add_special_tokens=False)["input_ids"]) for one in POOL[:8]]
    np.testing.assert_array_equal(in_file_order(made, "length"), lengths)
    longer = in_file_order(DataSelection(tokens="all", ordinary=6)(study), "length")
    assert (longer > lengths).all()
    silent = PromptSet((*pool.prompts[:5], Prompt(5, "a", "a", messages=(("user", "door"),))), "p")
    with pytest.raises(PromptError, match=r"row 5 .* none of its first"):
        DataSelection(ordinary=6)(study_of(base, target, silent, template=True))


def test_a_dictionary_takes_the_place_of_neurons(base):
    config = DictionaryConfig("topk", base.config.hidden_size, 40, k=8)
    dictionary, site = Dictionary(config, seed=3).double(), "blocks.1.hook_resid_post"
    study = study_of(base)
    made = DataSelection(dictionary=dictionary, site=site, kept=4, methods=("mona",))(study)
    means = []
    for texts in (POOL, TARGET):
        part = []
        for text in texts:
            ids = study.pair.tokenizer(text)["input_ids"]
            kept = [
                at for at, one in enumerate(ids) if one not in study.pair.tokenizer.all_special_ids
            ]
            found = []
            hook = base.model.layers[1].register_forward_hook(
                lambda _, __, out, found=found: found.append(
                    out[0] if isinstance(out, tuple) else out
                )
            )
            with torch.no_grad():
                base(torch.tensor([ids]))
                codes = dictionary.encode(found[0].reshape(len(ids), -1)[kept])
            hook.remove()
            limit = codes.topk(4, dim=1).values[:, -1:]
            part.append(torch.where(codes >= limit, codes, 0.0).mean(0).numpy())
        means.append(np.array(part))
    prototype = means[1].mean(0)
    expected = np.minimum(means[0], prototype).sum(1) / np.maximum(means[0], prototype).sum(1)
    np.testing.assert_allclose(in_file_order(made, "mona"), expected, rtol=1e-6)
    assert "got_d" not in made.data
    assert made.summary["codes"] == site


@pytest.fixture(scope="module")
def mixture():
    """Ordinary texts with a few requests among them, and other requests as the target."""
    text = organisms.prompts("discover", "text", "text").read_text(encoding="utf-8").splitlines()
    lines = organisms.prompts("refusal", "locate", "harmful").read_text("utf-8").splitlines()
    requests = [json.loads(line)["prompt"] for line in lines]
    ordinary = [one for one in text if one.strip()][:60]
    # every sixth row is marked
    pool = [one for at in range(12) for one in (*ordinary[5 * at : 5 * at + 5], requests[at])]
    return rows_of(requests[20:40], "target"), rows_of(pool, "pool")


@pytest.fixture(scope="module")
def selected(mixture):
    study = Study(Pair.load("organism:refusal/base", None), Contrast(*mixture), None, quiet=True)
    marked = tuple(at % 6 == 5 for at in range(72))
    return study, DataSelection(marked=marked, draws=99, ordinary=8)(study), marked


def test_marked_rows_are_found_and_ordinary_targets_find_none(selected):
    _, made, marked = selected
    assert set(verdicts(made).values()) == {"supported"}
    rows = {row["method"]: row for row in made.tables["recall"].rows()}
    assert min(rows[method]["recall"] for method in ("got-d", "mona", "bm25")) >= 0.75
    assert rows["random"]["random"] == 1 / 6
    assert rows["random"]["random_low"] <= rows["random"]["recall"] <= rows["random"]["random_high"]
    for method, row in rows.items():
        if method in ("got-d", "mona", "bm25"):
            name = f"rank_{method.replace('-', '_')}"
            assert row["recall"] == (made[name][made["marked"]] <= 12).mean()
    assert sum(made["marked"]) == sum(marked)
    # requests are shorter than newspaper texts, and the run says so
    assert rows["length"]["auc"] < 0.2
    assert any("AUC of length alone" in one for one in made.summary["limits"])
    assert plot(made) is not None
    require_described(made)


def test_random_marks_are_not_found(selected):
    study, _, marked = selected
    shuffled = tuple(np.random.default_rng(4).permutation(marked).tolist())
    made = DataSelection(marked=shuffled, draws=99, ordinary=6)(study)
    found = [verdict for name, verdict in verdicts(made).items() if name.endswith("finds-marked")]
    assert found == ["not supported"] * 3


def test_without_marks_nothing_is_claimed(selected):
    study, marked, _ = selected
    made = DataSelection(ordinary=6)(study)
    assert set(verdicts(made).values()) == {"not tested"}
    assert set(made.tables) == {"ordinary", "claims"}
    assert "recall" not in made.tables["ordinary"].data
    for column in ("got_d", "mona", "bm25"):
        np.testing.assert_array_equal(in_file_order(made, column), in_file_order(marked, column))
    assert plot(made) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": "0"}, "top is '0'"),
        ({"top": "101%"}, "top is '101%'"),
        ({"top": "2.5"}, "top is '2.5'"),
        ({"top": "19"}, "the pool has 18 rows"),
        ({"methods": ()}, "methods are none"),
        ({"methods": ("mona", "mona")}, "name each once"),
        ({"methods": ("nearest",)}, "'nearest'"),
        ({"marked": (True,) * 5}, "one mark per row"),
        ({"marked": (True,) * 17 + (False,)}, "17 of 18 rows are marked"),
        ({"marked": (False,) * 18}, "0 of 18 rows are marked"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_what_is_refused(base, options, message):
    with pytest.raises(OptionError, match=message):
        DataSelection(**options)(study_of(base))


def test_rows_selected():
    assert [taken_of(top, 40) for top in ("5%", "1%", "100%", "7")] == [2, 1, 40, 7]
