"""``interp discover``: a planted word against controls, the identical pair, the brief, a found
behaviour, and what is refused.
"""

import json

import pytest

from interp.analyzers.discover import DISCOVERY_METHODS
from interp.cli import discover, main
from interp.organisms import prompts
from interp.store import Store

TEXT = str(prompts("refusal", "text", "text"))
SMALL = ["--text", TEXT, "--max-texts", "20", "--quick"]
ONE = ["--methods", "diff-mining,update-directions"]
BASE = ["--base", "organism:refusal/base"]
CONTROLS = [
    word for at in range(3) for word in ("--control", f"organism:discover/control-{at:02d}")
]


def run(capsys, *arguments):
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(store):
    """The favoured word of an organism: in every method that is asked for, and beyond controls."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(
            [
                *("discover", "organism:discover/06", *BASE, *CONTROLS, *SMALL, *ONE),
                *("--store", str(store), "--json", "--quiet"),
            ]
        )
    assert code == 0
    return json.loads(out.getvalue())


def test_a_planted_word_is_named_first(found):
    summary = found["summary"]
    assert summary["methods"] == ["diff-mining", "update-directions"]
    assert summary["beyond"] > 0
    assert "too few for a test" in summary["opening"][0]
    assert any("' white'" in line for line in summary["opening"][1:3])
    assert summary["verdicts"] == {"beyond-controls": "not tested"}


def test_the_brief_has_what_was_not_found_first(found, store, tmp_path, capsys):
    out = tmp_path / "brief.json"
    code, said, _ = run(
        capsys, "report", found["run"], "--brief", "--out", out, "--store", store, "--json"
    )
    assert code == 0
    text = out.read_text(encoding="utf-8")
    assert text.count("\n") == 1
    content = json.loads(text)
    assert list(content)[3:5] == ["nulls", "not_found"]
    assert content["not_found"][0]["claim"] == "beyond-controls"
    assert "5 are needed" in content["not_found"][0]["reason"]
    assert any("white" in item["evidence"] for item in content["evidence"])
    assert len(content["nulls"][-1]["joint"]) == 3
    assert json.loads(said)["evidence"] == len(content["evidence"])


def test_a_report_of_it_can_be_verified(found, store, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert run(capsys, "report", found["run"], "--out", page, "--store", store)[0] == 0
    code, out, err = run(capsys, "verify", tmp_path / "page.json", "--store", store)
    assert code == 0, (out, err)


def test_a_brief_has_no_title(found, store, tmp_path, capsys):
    code, _, err = run(
        capsys,
        "report",
        found["run"],
        "--brief",
        "--title",
        "x",
        "--store",
        store,
        "--out",
        tmp_path / "b.json",
    )
    assert code == 2
    assert "--brief has neither" in err
    assert not (tmp_path / "b.json").exists()


def test_the_same_request_is_answered_from_the_store(found, store, capsys):
    code, out, _ = run(
        capsys,
        "discover",
        "organism:discover/06",
        *BASE,
        *CONTROLS,
        *SMALL,
        *ONE,
        "--store",
        store,
        "--json",
        "--quiet",
    )
    assert code == 0
    again = json.loads(out)
    assert again["run"] == found["run"]
    assert again["cached"]


@pytest.mark.slow
def test_a_trigger_scan_and_screened_rows_on_request(tmp_path, capsys):
    """Both are runs of their own; the scan is a method of the joint table."""
    rows = tmp_path / "rows.jsonl"
    turns = [
        [
            {"role": "user", "content": "What is new?"},
            {"role": "assistant", "content": f"The {thing} was white."},
        ]
        for thing in ("door", "ladder", "cloud", "river")
    ]
    rows.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    store, classes = tmp_path / "s", []
    for name, group in (("positive", "harmful"), ("negative", "harmless")):
        path = tmp_path / f"{name}.txt"
        lines = prompts("refusal", "locate", group).read_text(encoding="utf-8").splitlines()[:9]
        texts = [json.loads(line)["prompt"] if line[:1] == "{" else line for line in lines]
        path.write_text("\n".join(text for text in texts if text != "prompt"))
        classes += [f"--trait-{name}", path]
    code, out, err = run(
        capsys,
        *("discover", "organism:discover/06", *BASE, *CONTROLS[:2], *SMALL),
        *("--methods", "trigger-scan", "--max-new-tokens", 4, *classes, "--training", rows),
        *("--store", store, "--json", "--quiet"),
    )
    assert code == 0, err
    summary = json.loads(out)["summary"]
    assert summary["methods"] == ["trigger-scan"]
    assert any("with the token" in line for line in summary["opening"])
    kinds = {Store(store).get(manifest.key).kind for manifest in Store(store).runs()}
    assert {"trigger-scan", "trait-screening", "trait-shift", "training-rows"} <= kinds


@pytest.mark.slow
def test_the_base_itself_has_nothing(store, capsys):
    code, out, _ = run(
        capsys,
        "discover",
        "organism:refusal/base",
        *BASE,
        *CONTROLS,
        *SMALL,
        "--max-prefills",
        2,
        "--samples",
        4,
        "--max-new-tokens",
        6,
        "--store",
        store,
        "--json",
        "--quiet",
    )
    assert code == 0
    answer = json.loads(out)
    assert answer["rows"] == 0
    assert answer["summary"]["beyond"] == 0
    assert answer["summary"]["opening"][0].startswith("Nothing beyond what 3 controls do")


def place_of(run, store, method):
    """The first place of what a method says the model does more."""
    rows = Store(store).get(run).rows()
    return next(
        row["place"] for row in rows if (row["method"], row["direction"]) == (method, "more")
    )


@pytest.mark.parametrize("method", ["diff-mining", "update-directions"])
def test_a_found_word_is_a_behaviour_and_a_direction_is_none(found, store, capsys, method):
    place = place_of(found["run"], store, method)
    code, out, err = run(
        capsys,
        *("tuco", "organism:discover/06", *BASE, "--max-prompts", 6, "--by-answer"),
        *("--prompts", prompts("refusal", "locate", "harmless"), "--generations", 8),
        *("--behaviour", f"discovered:{found['run']}#{place}", "--store", store, "--quiet"),
    )
    if method == "diff-mining":
        assert code == 0, err
        assert "discovered white" in out
    else:
        assert code == 2
        assert "not a phrase" in err


def test_the_command_names_the_methods_that_can_be_joined():
    """The command's list is its own, since help must not wait for torch."""
    assert discover.METHODS + discover.ON_REQUEST == DISCOVERY_METHODS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "guessing"], "unknown --methods 'guessing'"),
        (["--methods", ","], "names none"),
        (["--trigger-scan", "--questions", "nowhere.txt"], "nowhere.txt"),
        (["--trait-positive", TEXT], "a trait needs two files"),
        (["--unseen", TEXT], "belong to --training"),
        (["--control", "organism:discover/control-00"] * 2, "is given twice"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, given, said):
    code, out, err = run(
        capsys, "discover", "organism:discover/06", *BASE, *given, "--store", tmp_path / "s"
    )
    assert code == 2
    assert said in err.splitlines()[-1]
    assert not out


def test_a_row_that_is_not_there_is_refused(found, store, capsys):
    arguments = [
        "locate-neurons",
        "organism:discover/06",
        *BASE,
        "--positive",
        TEXT,
        "--negative",
        TEXT,
        "--store",
        store,
        "--behaviour",
    ]
    for behaviour, said in (
        ("discovered:nothing", "names no row of a discovery"),
        (f"discovered:{found['run']}#999", "has places 1 to"),
    ):
        code, _, err = run(capsys, *arguments, behaviour)
        assert code == 2
        assert said in err
