"""What a notebook shows: whatever a table holds stays text, numbers are read easily, names
complete.
"""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import interp
from interp import claims
from interp.display import MAX_LENGTH, N_ROWS, cut, facts_html
from interp.figures import plot
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet
from interp.provenance import Provenance
from interp.study import Study
from interp.table import table
from tests import tiny
from tests.tables import finding

HOSTILE = "</td></table><script>alert(1)</script><img src=x onerror='alert(2)'>\"$x$\n\u202e\x00"
VOID = {"br"}


class Tags(HTMLParser):
    """Elements, attributes and text of a fragment, with a proof that they nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def hostile():
    return table(
        "demo",
        {
            "token": ([HOSTILE] * 20, "text", HOSTILE, HOSTILE),
            "layer": (range(20), "key", "block"),
            "score": ([np.nan, 12345.678, *[0.5] * 18], "measure", "effect", "nats"),
            "on": ([True] * 20, "flag", "chosen"),
        },
        summary={"sentence": HOSTILE},
        provenance=Provenance("x", 1),
    )


ALLOWED = {"div", "strong", "p", "table", "thead", "tbody", "tr", "th", "td", "br", "code", "small"}


def test_hostile_text_stays_text():
    seen = Tags(hostile()._repr_html_())
    assert set(seen.tags) <= ALLOWED
    assert {name for name, _ in seen.attributes} <= {"class", "style", "scope", "title"}
    assert seen.text.count("<script>alert(1)</script>") == N_ROWS + 1, (
        "each row shown and the sentence"
    )
    assert "\x00" not in seen.text
    assert "\n" not in seen.text


def test_no_maths_is_set_of_a_prompt():
    assert "tex2jax_ignore mathjax_ignore" in hostile()._repr_html_()


def test_headings_tell_role_meaning_and_unit():
    titles = [value for name, value in Tags(hostile()._repr_html_()).attributes if name == "title"]
    assert "measure: effect (nats)" in titles
    assert "flag: chosen" in titles
    assert "key: block" in titles


def test_numbers_and_the_rows_left_out():
    seen = Tags(hostile()._repr_html_()).text
    assert "12,346" in seen
    assert "–" in seen, "what is NaN"
    assert "20 rows, 4 columns" in seen
    assert hostile().provenance.key in seen
    assert f"{20 - N_ROWS} more rows" in seen


def claim(**changes):
    fields = {
        "name": "necessity",
        "sentence": f"ablation {HOSTILE}",
        "value": 0.9,
        "low": 0.8,
        "high": 0.95,
        "null": (0.1, 0.0, 0.2),
        "p": 0.05,
        "control": f"random sets {HOSTILE}",
        "at_least": 0.5,
    }
    return finding(**fields | changes)


@pytest.mark.parametrize("own", [True, False], ids=["a table of claims", "a run with claims"])
def test_claims_stand_beside_their_controls(own):
    held = claims.to_table(
        [claim(), claim(name="nothing", verdict="not supported", p=float("nan"))]
    )
    made = held if own else table("run", {"x": ([1], "key", "")}, tables={"claims": held})
    seen = Tags(made._repr_html_())
    assert set(seen.tags) <= ALLOWED
    for said in (
        "0.9 [0.8, 0.95]",
        "0.1 [0, 0.2]",
        "at least 0.5",
        "supported",
        "not supported",
        "necessity",
    ):
        assert said in seen.text
    assert seen.text.index("0.9 [0.8") < seen.text.index("0.1 [0,") < seen.text.index("supported")


def test_an_empty_table_and_one_without_columns():
    for made in (table("t", {"x": ([], "key", "")}), table("t", {})):
        assert "0 rows" in Tags(made._repr_html_()).text
        assert "0 rows" in repr(made)


def test_long_text_is_cut_and_facts_that_are_empty_left_out():
    assert cut("a" * MAX_LENGTH) == "a" * MAX_LENGTH
    assert len(cut("a" * 9999)) == MAX_LENGTH
    seen = Tags(
        facts_html(
            "T", [("note", ("b" * 9999, HOSTILE)), ("none", None), ("empty", ()), ("zero", 0)]
        )
    )
    assert set(seen.tags) <= ALLOWED
    assert "none" not in seen.text
    assert "empty" not in seen.text
    assert "zero0" in seen.text


def test_reprs_are_short_whatever_they_hold():
    big = table(
        "t",
        {f"c{i}": (np.arange(9999), "key", "") for i in range(3)},
        arrays={"m": np.zeros((99, 99))},
    )
    assert repr(big) == "Table('t': c0, c1, c2; 9,999 rows, 3 columns; 1 arrays)"


@pytest.fixture(scope="module")
def pair():
    return Pair.from_modules(
        tiny.perturbed(tiny.llama(), 0.01), tiny.llama(), tiny.tokenizer(), name=f"x{HOSTILE}"
    )


def prompts(count, source="file"):
    return PromptSet(
        tuple(Prompt(i, f"open the door {i}", f"c{i % 3}") for i in range(count)), source
    )


def test_a_pair_is_shown(pair):
    seen = Tags(pair._repr_html_())
    assert set(seen.tags) <= ALLOWED
    own = sum(part.numel() for part in pair.tuned.module.parameters())
    for said in (
        f"{own:,} parameters",
        "float32 on cpu",
        "two models with separate weights",
        "LlamaForCausalLM",
    ):
        assert said in seen.text
        assert said in repr(pair)
    assert len(repr(pair.tuned)) < 400
    assert pair._ipython_key_completions_() == ["base", "tuned"]
    alone = Pair.from_modules(tiny.llama(), None, tiny.tokenizer())
    assert "no base" in repr(alone)
    assert alone._ipython_key_completions_() == ["tuned"]
    assert alone["tuned"] is alone.tuned


def test_an_adapter_and_its_size_are_told_apart(tmp_path):
    plain = tiny.llama()
    own = sum(part.numel() for part in plain.parameters())
    width, inner, blocks = (
        getattr(plain.config, f) for f in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    wrapped = tiny.adapter(plain, tmp_path, r=2, target_modules=["down_proj"])
    held = Pair.from_modules(wrapped, None, tiny.tokenizer())
    added = blocks * 2 * (width + inner)
    assert held.tuned.sizes == held.base.sizes == (own, added)
    assert f"adapter with {added:,} parameters" in repr(held)


def test_a_study_is_shown_with_one_class_or_two(pair):
    two = Study(
        pair, Contrast(prompts(6, HOSTILE), PromptSet(tuple(prompts(4))[1:], "other")), None, seed=7
    )
    seen = Tags(two._repr_html_())
    assert set(seen.tags) <= ALLOWED
    for said in (
        "6 prompts, 6 distinct texts, 3 clusters",
        "3 prompts, 3 distinct texts, 3 clusters (other)",
        "seed",
        "7",
        "none",
        "float32 on cpu",
    ):
        assert said in seen.text
    one = Study(pair, OneClass(prompts(5)), Refusal(("sorry",), (3,)))
    assert "positive 5 prompts, 5 distinct texts, 3 clusters (file)" in repr(one)
    assert "metric refusal log-odds (nats)" in repr(one)
    assert "negative" not in repr(one)


def test_names_complete():
    listed = dir(interp)
    assert set(interp.__all__) <= set(listed)
    public = {name for name in listed if not name.startswith("_")}
    modules = {
        name for name in public if re.fullmatch(r"module", type(getattr(interp, name)).__name__)
    }
    assert public - modules == set(interp.__all__), "nothing but public names and modules"
    assert {
        "Pair",
        "Study",
        "Store",
        "Contrast",
        "read_prompts",
        "load_pair",
        "LocateNeurons",
        "plot",
    } <= public
    assert hostile()._ipython_key_completions_() == ["token", "layer", "score", "on"]


def test_public_names_are_where_their_homes_say():
    for name, home in interp._HOMES.items():
        assert getattr(interp, name) is getattr(importlib.import_module(f"interp.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        interp.Nope  # noqa: B018


def test_a_table_is_shown_without_torch_or_plotly():
    code = (
        "import sys, interp\ntable = interp.Table('t', (), {})\ntable._repr_html_(),"
        " dir(interp)\nassert not {'torch', 'plotly', 'pandas'} & set(sys.modules), 'looking at a"
        " table loads more than it needs'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pandas_is_told_what_columns_mean():
    frame = hostile().to_pandas()
    assert frame.dtypes.astype(str).to_dict() == {
        "token": "str",
        "layer": "int64",
        "score": "float64",
        "on": "bool",
    }
    assert frame.attrs["kind"] == "demo"
    assert frame.attrs["columns"]["score"] == {
        "role": "measure",
        "meaning": "effect",
        "unit": "nats",
    }
    assert frame[frame.on].attrs == frame.attrs


def test_figures_are_shown_by_jupyter():
    held = claims.to_table([claim()])
    bundle = plot(held)._repr_mimebundle_() or {}
    shown = interp.plot(held)
    assert shown.layout.meta["caption"]
    assert "application/vnd.plotly.v1+json" in bundle or shown._repr_html_()
