"""``interp select-data``: marks, dictionaries, and what is refused."""

import json

import pytest

from interp.cli import main
from interp.sae import Dictionary, DictionaryConfig, save
from interp.store import Store

WORDS = ["bridge", "harbour", "market", "garden", "library", "station"]
ROWS = [f"The {word} opens at {at} every day." for at, word in enumerate(WORDS * 4)]
REQUESTS = [f"Please break into the {word} now." for word in WORDS]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    pool = [{"text": one, "marked": "no"} for one in ROWS]
    pool += [{"text": one, "marked": "yes"} for one in REQUESTS[:3]]
    target = [{"text": one} for one in REQUESTS[3:]]
    return {
        "--pool": write(tmp_path / "pool.jsonl", pool),
        "--target": write(tmp_path / "target.jsonl", target),
        "--store": tmp_path / "runs",
    }


def run(capsys, files, *arguments):
    flags = [str(part) for pair in files.items() for part in pair]
    code = main(["select-data", "organism:refusal/base", *flags, "--quiet", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_rows_are_ranked_and_marks_counted(files, capsys):
    code, out, _ = run(capsys, files, "--marks", files["--pool"], "--ordinary", 6, "--top", 3)
    assert code == 0
    assert "marked rows" in out
    store = Store(files["--store"])
    made = store.get(json.loads(run(capsys, files, *_again(files))[1])["run"])
    assert made.kind == "data-selection"
    assert made["marked"].sum() == made["selected"].sum() == 3
    assert set(made.tables) == {"ordinary", "recall", "found", "permuted", "claims"}


def _again(files):
    return "--marks", files["--pool"], "--ordinary", 6, "--top", 3, "--json"


def test_the_first_rows_alone_and_one_method(files, capsys):
    code, out, _ = run(
        capsys, files, "--max-rows", 10, "--methods", "bm25", "--ordinary", 6, "--json"
    )
    made = Store(files["--store"]).get(json.loads(out)["run"])
    assert code == 0
    assert sorted(made["row_id"]) == list(range(10))
    assert {"bm25", "rank_bm25"} <= set(made.data)
    assert "got_d" not in made.data


def test_a_dictionary_brings_its_site(files, capsys, tmp_path):
    about = {"site": "blocks.1.hook_resid_post", "model": "refusal/base"}
    save(Dictionary(DictionaryConfig("topk", 128, 96, k=8), seed=0), tmp_path / "sae", about)
    flags = ("--dictionary", tmp_path / "sae", "--methods", "mona", "--ordinary", 6, "--json")
    code, out, _ = run(capsys, files, *flags)
    assert code == 0
    made = Store(files["--store"]).get(json.loads(out)["run"])
    assert made.summary["codes"] == "blocks.1.hook_resid_post"
    save(Dictionary(DictionaryConfig("topk", 64, 96, k=8), seed=0), tmp_path / "other", about)
    code, _, err = run(capsys, files, "--dictionary", tmp_path / "other")
    assert code == 2
    assert "the dictionary reads 64 values per token, and the site has 128" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "nearest"], "unknown --methods 'nearest'"),
        (["--methods", ","], "methods are none"),
        (["--top", "0%"], "top is '0%'"),
        (["--site", "blocks.0.hook_resid_post"], "add --dictionary"),
        (["--marks", "missing.jsonl"], "is not a file of marks"),
        (["--mark-column", "wanted", "--marks", "POOL"], "no column 'wanted'"),
        (["--mark-column", "text", "--marks", "POOL"], "write true or false"),
        (["--marks", "TARGET"], "has 3 rows, and the pool"),
    ],
)
def test_what_is_refused(files, capsys, arguments, message):
    marks = write(files["--target"].parent / "three.jsonl", [{"marked": 1}] * 3)
    names = {"POOL": files["--pool"], "TARGET": marks}
    code, _, err = run(capsys, files, *(names.get(one, one) for one in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not files["--store"].exists()
