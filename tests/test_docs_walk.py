"""Command lines of the documents, really run on shipped organisms: the pages' own words, with less
to do.
"""

import json
import shlex

import pytest

from interp.organisms import prompts
from interp.store import Store
from tests import pages, tables
from tests.analyzers.test_agreement import LAYERS, PARTS, agreed, grafted, located, movement
from tests.pages import PAGES, ROOT

HARMFUL, HARMLESS = (str(prompts("refusal", "verify", group)) for group in ("harmful", "harmless"))
TASK, OTHER_TASK = (str(prompts("skill", "task", name)) for name in ("first", "second"))
REFUSAL = {
    "TUNED": "organism:refusal/full",
    "BASE": "organism:refusal/base",
    "CONTROL": "organism:refusal/sham",
    "FILE": HARMFUL,
}
SKILL = {"TUNED": "organism:skill/full", "BASE": "organism:refusal/base", "FILE": TASK}
FEW = "--max-prompts 4"


@pytest.fixture
def walk(run, tmp_path, monkeypatch):
    """Run the line of a page that begins so: the values of its placeholders, what makes it short;
    its JSON object.
    """
    monkeypatch.chdir(tmp_path)

    def step(page, start, values, less=""):
        found = {
            shlex.join(line)
            for line in pages.commands(ROOT / page)
            if shlex.join(line).startswith(start)
        }
        found = found & {start} or found  # the whole line, or the only one that begins so
        assert len(found) == 1, (start, found)
        line = pages.written_out(shlex.split(found.pop()))
        # several of one placeholder: a list, in order
        left = {
            word: list(value) if isinstance(value, list) else None for word, value in values.items()
        }
        line = [left[word].pop(0) if left.get(word) else values.get(word, word) for word in line]
        code, out, err = run(*line, *shlex.split(less), "--quiet", "--json")
        assert code == 0, (line, err)
        return json.loads(out)

    return step


def test_every_query_of_the_documents_is_answered(run, tmp_path, monkeypatch):
    """On runs made by hand, of the kinds that the queries name."""
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    store.write(tables.located())
    values = [[float(1 + layer * part) for part in range(len(PARTS))] for layer in range(LAYERS)]
    runs = [
        movement(values),
        grafted([[value / 1e3 for value in row] for row in values]),
        located(range(1, LAYERS + 1)),
    ]
    for made in (*runs, agreed(*runs)[0]):
        store.write(made)
    asked = [
        line
        for page in PAGES
        for line in pages.commands(page)
        if line[0] == "sql" and len(line) > 1
    ]
    # the page that adds an analyzer has a test of its own
    asked = [line for line in asked if "answer_length" not in line[1]]
    assert len(asked) >= 5
    for line in asked:
        code, out, err = run(*line, "--json")
        assert code == 0, (line, err)
        assert json.loads(out)["rows"] > 0, line


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_pair_is_compared_and_its_runs_are_put_beside_each_other(walk):
    compared = walk(
        "docs/compare.md",
        "compare TUNED",
        REFUSAL | {"TUNED": "organism:refusal/full", "MODEL": REFUSAL["CONTROL"]},
        FEW,
    )
    assert compared["summary"]["positive"] == 4
    split = walk(
        "docs/tuco.md",
        "tuco TUNED --base BASE --prompts FILE --by-answer",
        REFUSAL,
        f"{FEW} --generations 4",
    )
    assert "answers" in walk("docs/index.md", "show KEY", {"KEY": split["run"]})["tables"]
    vectors = walk("docs/intruders.md", "intruders TUNED --base BASE", REFUSAL)
    keys = [compared["run"], split["run"], vectors["run"]]
    agreed = walk("docs/agree.md", "agree RUN", {"RUN": list(keys)})
    assert set(agreed["summary"]["methods"].values()) == set(keys)
    assert {run["run"] for run in walk("docs/index.md", "ls", {})["runs"]} == {*keys, agreed["run"]}
    report = walk("docs/index.md", "report RUN", {"RUN": keys[0]})
    assert walk("docs/index.md", "verify report.json", {})["failed"] == []
    assert report["runs"] == keys[:1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dictionaries_of_a_pair_and_of_its_control_are_compared(walk, tmp_path):
    page = "docs/dictionaries.md"
    (code,) = pages.blocks(ROOT / page, "python")
    exec(compile(code, page, "exec"), {})
    small = "--tokens 20k --width 32 -k 4 --batch 256"
    for name in ("TUNED", "CONTROL"):
        walk(page, f"sae train {name} --base BASE --model-role both --architecture", REFUSAL, small)
    found = walk(
        page, "sae diff both --model", REFUSAL | {"other.jsonl": HARMLESS}, "--max-prompts 48"
    )
    assert sum(found["summary"]["classes"].values()) == 32
    read = walk(
        "docs/dictionary-files.md", "sae convert SOURCE OUT", {"SOURCE": "both", "OUT": "copy"}
    )
    assert read["to"] == "interp"
    assert (tmp_path / "copy").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_grafts_and_stitches(walk):
    less = "--max-prompts 24 --steps 4 --relaxed-steps 2"
    fine_tuned = {"organism:skill/full": TASK, "organism:skill/second": OTHER_TASK}
    start = "graft TUNED --base BASE --task FILE"
    runs = [
        walk("docs/index.md", start, SKILL | {"TUNED": name, "FILE": file}, less)
        for name, file in fine_tuned.items()
    ]
    assert [run["summary"]["positive"] for run in runs] == [24, 24]
    several = SKILL | {
        "TUNED": list(fine_tuned),
        "FILE": list(fine_tuned.values()),
        "RUN": runs[0]["run"],
    }
    stitch = walk(
        "docs/graft.md", "stitch TUNED TUNED", several, f"--mask {runs[1]['run']} --max-prompts 24"
    )
    assert stitch["rows"] > 0
