"""A report says what the store holds, and whatever is changed in either is found and named."""

import copy
import json
import shutil
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from interp.claims import Draws, check_summary, from_table, summary_of, to_table
from interp.cli import main
from interp.errors import ClaimError, InterpError, OptionError
from interp.provenance import digest, sha256_of
from interp.report.document import TARGET, gather, read, write_report
from interp.report.verification import _Again, checks, failures, require_control
from interp.store import Store
from tests.reports import honest_report, honest_runs
from tests.tables import HOSTILE, located


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return honest_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copied(made, tmp_path):
    """The report and its store, to be spoiled."""
    shutil.copytree(made[0].parent, tmp_path / "there")
    return tmp_path / "there" / made[0].name


def refused(path):
    """What is said against a report, in one text; "" where everything holds."""
    try:
        return "\n".join(why for _, why in failures(read(path)))
    except InterpError as error:
        return str(error)


def falls(path):
    """Whether anything is said against a report; stops at the first."""
    try:
        for check in checks(read(path)):
            check()
    except InterpError:
        return True
    return False


@pytest.fixture
def remembered(monkeypatch):
    """Every run is read once: hundreds of alterations of the report are compared with the same."""
    kept, read_run = {}, _Again.run

    def run(self, key):
        place = (self.report.store.root, key)
        if place not in kept:
            kept[place] = read_run(self, key)
        return kept[place]

    monkeypatch.setattr(_Again, "run", run)


def rewritten(path, value, sealed=True):
    """Write a changed report as someone would who knows how its digest is made."""
    if sealed and "sha256" in value:
        value = {
            **value,
            "sha256": digest({name: said for name, said in value.items() if name != "sha256"}),
        }
    path.write_text(json.dumps(value))
    return path


def leaves(value, place=()):
    """Every place in a JSON value that holds something: leaves, and the containers themselves."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*place, name)
            yield from leaves(inner, (*place, name))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield (*place, at)
            yield from leaves(inner, (*place, at))


def altered(value):
    """Another value of the same type: what a slip or a hand would make of it."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value[:-1] + ("x" if value[-1:] != "x" else "y")
        case None:
            return 0.5
        case list():
            return value[:-1] if value else [0]
        case dict():
            return dict(list(value.items())[:-1]) if value else {"more": 1}


def not_found(path, value, places):
    """The places of a report whose alteration nobody notices."""
    missed = []
    for place in places:
        inner = value
        for step in place:
            inner = inner[step]
        if not falls(
            rewritten(path, changed_at(value, place, altered(inner)), sealed=place != ("sha256",))
        ):
            missed.append(place)
    return missed


def changed_at(value, place, new):
    value = copy.deepcopy(value)
    inner = value
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = new
    return value


def test_an_untouched_report_holds(made):
    report = read(made[0])
    assert failures(report) == []
    assert [check.name.split()[0] for check in checks(report)] == [
        "report",
        "run",
        "run",
        *["claim"] * 3,
        "page",
    ]


def test_it_follows_its_published_schema(made):
    schema = json.loads((files("interp.report") / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(
        json.loads(made[0].read_text()), schema, cls=jsonschema.Draft202012Validator
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(made[0].read_text()), "claims": [{}]}, schema)


def test_every_alteration_of_every_field_is_found(made, copied, remembered):
    """Also of one who makes the digest anew. The page and the store stay as they were."""
    value = json.loads(made[0].read_text())
    places = list(leaves(value))
    assert len(places) > 200
    assert not_found(copied, value, places) == []


def test_every_field_left_out_is_found(made, copied, remembered):
    value = json.loads(made[0].read_text())
    for place in leaves(value):
        changed = copy.deepcopy(value)
        inner = changed
        for step in place[:-1]:
            inner = inner[step]
        del inner[place[-1]]
        assert falls(rewritten(copied, changed)), place


def test_a_change_without_a_new_digest_is_found(made, copied):
    value = changed_at(json.loads(made[0].read_text()), ("title",), "Another")
    assert "its digest" in refused(rewritten(copied, value, sealed=False))


def test_a_failure_names_the_claim_and_both_values(made, copied):
    value = json.loads(made[0].read_text())
    at = [claim["name"] for claim in value["claims"]].index("necessity")
    truth = value["claims"][at]["value"]
    said = refused(rewritten(copied, changed_at(value, ("claims", at, "value"), 0.99)))
    assert "'necessity'" in said
    assert "0.99" in said
    assert repr(truth) in said


def test_a_changed_table_is_found(copied):
    (path,) = copied.parent.glob("runs/*/tables/answers.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "its digest" in refused(copied)


def test_a_missing_file_is_found(copied):
    next(copied.parent.glob("runs/*/tables/answers.parquet")).unlink()
    assert "is missing" in refused(copied)


def test_a_missing_run_is_found(copied, made):
    shutil.rmtree(copied.parent / "runs" / made[2][1].provenance.key)
    assert "no run" in refused(copied)


def test_a_missing_or_exchanged_page_is_found(copied):
    page = copied.with_suffix(".html")
    page.write_text(page.read_text().replace("What carries it?", "What did not carry it?"))
    assert "was changed or exchanged" in refused(copied)
    value = json.loads(copied.read_text())
    value["page"]["sha256"] = sha256_of(page)
    assert "does not show what the store holds" in refused(rewritten(copied, value))
    page.unlink()
    assert "is missing beside the report" in refused(copied)


def with_page(path, change, **changes):
    """The report with another page, as someone would write it who knows how digests are made."""
    page = path.with_suffix(".html")
    page.write_bytes(change(page.read_text()).encode())
    value = {**json.loads(path.read_text()), **changes}
    return rewritten(path, {**value, "page": {"file": page.name, "sha256": sha256_of(page)}})


BUNDLE = '<script type="text/plain" id="plotly">'


@pytest.mark.parametrize(
    "forged",
    [
        lambda text: text.replace(
            BUNDLE, f'{BUNDLE}</SCRIPT ><h1>Forged</h1><script type="text/plain">'
        ),
        lambda text: text.replace("<main>", f"<main>{BUNDLE}</script\n><h1>Forged</h1></script>"),
        lambda text: text.replace(BUNDLE, BUNDLE + "AAAA"),
        lambda text: text + BUNDLE + "</script>",
        lambda text: "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
)
def test_nothing_hides_where_plotly_is_packed(copied, forged):
    assert "does not show what the store holds" in refused(with_page(copied, forged))


def test_a_page_that_cannot_be_made_again_is_told_and_not_taken(copied, monkeypatch, capsys):
    """Of another interp, or another plotly.js: an honest one is no failure, and a forged one does
    not pass.
    """
    assert refused(copied) == ""
    monkeypatch.setattr("interp.report.verification.unpacked_hash", lambda: "'sha256-x'")
    assert main(["verify", str(copied)]) == 0
    assert "page: report.html says that it was made by another plotly.js" in capsys.readouterr().out
    monkeypatch.undo()
    value = json.loads(copied.read_text())
    said = f"<h1>Forged</h1>{value['title']} {value['written']} 9.9"
    assert main(["verify", str(with_page(copied, lambda _: said, interp="9.9"))]) == 0
    told = capsys.readouterr().out
    assert "made by interp 9.9, so it was not compared" in told
    assert (
        "6 of 6 checks hold, 3 of them claims computed again from the stored tables; 1 could not be"
        " asked" in told
    )
    assert "does not say title" in refused(with_page(copied, lambda _: "9.9", interp="9.9"))


def test_a_name_told_twice_is_no_report(copied):
    text = copied.read_text()
    copied.write_text(text.replace('"findings": [', '"findings": ["Forged."],\n "findings": [', 1))
    assert "JSON as interp writes it, so no report" in refused(copied)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"store": "a\0b"}, 2),
        ({"store": "\ud800"}, 2),
        ({"limits": [float("inf")]}, 2),
        ({"title": "\ud800"}, 2),
        ({"page": {"file": "x" * 5000, "sha256": ""}}, 1),
        ({"agreement": [{}]}, 1),
    ],
)
def test_odd_reports_are_refused_in_lines_of_their_own(copied, capsys, change, code):
    copied.write_text(json.dumps({**json.loads(copied.read_text()), **change}))
    assert main(["verify", str(copied)]) == code


def test_depth_without_end_is_no_report(copied):
    text = copied.read_text()
    copied.write_text(text.replace('"limits": [', '"limits": [' + "[" * 900 + "]" * 900 + ", ", 1))
    assert "no report" in refused(copied)


def test_what_is_said_reaches_a_terminal_as_one_line(copied, capsys):
    value = json.loads(copied.read_text())
    value["runs"][0]["\r\x1b[2J\u202e\n7 of 7 checks hold"] = 1
    assert main(["verify", str(rewritten(copied, value))]) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(r"says more than the store: \r\x1b[2J\u202e\n7 of 7 checks hold")


def test_checking_a_report_removes_nothing_where_it_points(copied):
    kept = copied.parent / "elsewhere" / ".temporary" / "photos"
    kept.mkdir(parents=True)
    refused(rewritten(copied, {**json.loads(copied.read_text()), "store": "elsewhere"}))
    assert kept.is_dir()


def test_a_run_made_of_other_things_under_the_same_name_is_found(tmp_path):
    """A whole store forged: other tables, fitting digests, the same key."""
    path, store, runs = honest_report(tmp_path)
    shutil.rmtree(store.root)
    other = honest_runs(seed=1)
    for run, honest in zip(other, runs, strict=True):
        Store(store.root).write(replace(run, provenance=honest.provenance))
    said = refused(path)
    assert "necessity" in said
    assert f"run {runs[1].provenance.key[:12]}" in said


@pytest.fixture
def without_figures(monkeypatch):
    """Pages of text and tables, where figures are not what is looked at and would take most of the
    time.
    """
    for room in ("page", "report_page"):
        monkeypatch.setattr(f"interp.report.{room}.figure_of", lambda table: "")


def redefined(**changes):
    """The claim itself is another one, its numbers are as they were."""
    return lambda finding: replace(finding, claim=replace(finding.claim, **changes))


def reread(**changes):
    """The same numbers, said to be of another estimate."""
    return lambda f: replace(
        f, claim=replace(f.claim, estimate=replace(f.claim.estimate, **changes))
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: replace(f, value=f.value + 0.05), "its tables give"),
        (lambda f: replace(f, p=0.5), "its tables give"),
        (lambda f: replace(f, low=f.low + 0.01), "low = "),
        (lambda f: replace(f, high=f.high + 0.01), "high = "),
        (lambda f: replace(f, clusters=f.clusters + 1), "clusters = "),
        (
            lambda f: replace(f, verdict="not supported"),
            "says 'not supported', its tables give 'supported'",
        ),
        (
            lambda f: replace(f, sentence="All of them come back."),
            "says 'All of them come back.', its tables give",
        ),
        (redefined(at_least=0.99), "says 'supported', its tables give 'not supported'"),
        (redefined(beyond=[0.99]), "says 'supported', its tables give 'not supported'"),
        (redefined(text="All of them, {value:.1%}."), "its tables give 'All of them"),
        (redefined(requires=["sufficiency"]), "its tables give 'not supported'"),
        *[
            (redefined(control=odd), "without a control")
            for odd in ("none", "  ", "-", "\u200b", "no control", "n/a", "None.")
        ],
        (redefined(null=None, control=""), "its tables give"),
        (reread(column="lost"), "its tables give"),
        (reread(column="nope"), "column 'nope' is read"),
        (reread(where={}), "its tables give"),
        (reread(cluster="prompt_id"), "its tables give"),
        (redefined(null=Draws("nope", "effect")), "table 'nope' is read"),
    ],
)
def test_a_false_claim_fails_even_where_all_digests_fit(tmp_path, without_figures, change, said):
    path, *_ = honest_report(tmp_path, forged=change)
    found = refused(path)
    assert said in found
    assert "'necessity'" in found
    assert found.count("\n") == 0, "only that claim is wrong"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {"verdicts": {**s["verdicts"], "sufficiency": "supported"}},
            "the summary's verdicts are not",
        ),
        (
            lambda s: {"findings": [{**s["findings"][0], "value": 0.99}, *s["findings"][1:]]},
            "the summary's findings",
        ),
        (
            lambda s: {"sentence": "All come back. Supported: all."},
            "the summary ends with 'All come back. Supported",
        ),
    ],
)
def test_a_summary_says_what_its_claims_do(tmp_path, without_figures, change, said):
    first, second = honest_runs()
    forged = replace(second, summary={**second.summary, **change(second.summary)})
    other = Store(tmp_path / "runs")
    other.write(first)
    other.write(forged)
    path = write_report(
        tmp_path / "report.html", [forged.provenance.key], other, title="What carries it?"
    )
    found = refused(path)
    assert said in found
    assert found.count("\n") == 0


def test_a_run_whose_claims_are_none_supported_is_not_called_supported():
    _, run = honest_runs()
    findings = [replace(one, verdict="not supported") for one in from_table(run.tables["claims"])]
    honest = replace(
        run,
        summary={**run.summary, **summary_of(findings)},
        tables={**run.tables, "claims": to_table(findings)},
    )
    check_summary(honest)
    with pytest.raises(ClaimError, match="the summary says supported"):
        check_summary(replace(honest, summary={**honest.summary, "supported": True}))


def test_a_sentence_rounds_its_own_numbers_as_they_are_stated(tmp_path, without_figures):
    def nudged(finding):
        value = f"{finding.value:.1%}"
        other = f"{finding.value + 0.001:.1%}"
        return replace(finding, sentence=finding.sentence.replace(value, other))

    path, *_ = honest_report(tmp_path, forged=nudged)
    assert "its tables give" in refused(path)


def test_a_claim_without_any_number_beside_it_has_no_control():
    _, run = honest_runs()
    claim = from_table(run.tables["claims"])[2]
    require_control(claim)
    with pytest.raises(ClaimError, match="without a control"):
        require_control(replace(claim, control_value=float("nan")))
    require_control(replace(claim, control_value=float("nan"), verdict="not supported"))


def test_parents_come_along_and_keys_may_be_short(made):
    runs, agreements = gather([made[2][1].provenance.key[:9]], made[1])
    assert [run.key for run in runs] == [run.provenance.key for run in made[2]]
    assert agreements == []


def test_text_of_others_is_no_markup(tmp_path):
    store = Store(tmp_path / "runs")
    run = located(hostile=True)
    store.write(run)
    path = write_report(tmp_path / "r.html", [run.provenance.key], store, title=HOSTILE[0])
    page = path.with_suffix(".html").read_text()
    assert HOSTILE[0] not in page
    assert "&lt;script&gt;alert(1)" in page
    assert failures(read(path)) == []


def test_the_page_of_a_model_of_32_layers_stays_below_five_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tables.LAYERS", 32)
    monkeypatch.setattr("tests.tables.NEURONS", 14_336)
    store, runs = Store(tmp_path / "runs"), [located(), located("integrated-zero")]
    for run in runs:
        store.write(run)
    path = write_report(tmp_path / "r.html", [run.provenance.key for run in runs], store)
    text = path.with_suffix(".html").read_text()
    assert len(text) < TARGET == 5_000_000
    assert "5,000 of 458,752 neurons shown" in text
    assert "smaller scores" in text


def test_the_same_runs_give_the_same_page_elsewhere(tmp_path):
    one, two = (honest_report(tmp_path / name) for name in "ab")
    values = [json.loads(path.read_text()) for path, *_ in (one, two)]
    for value in values:
        del value["written"], value["page"], value["sha256"]
        for run in value["runs"]:
            del run["written"], run["manifest"]
    assert values[0] == values[1]


def test_errors_at_the_door(made, tmp_path, capsys):
    store = ["--store", str(made[1].root)]
    key = made[2][1].provenance.key
    for given, said in (
        (["report", "--out", "x.html"], "give keys"),
        (["report", key, "--all", "--out", "x.html"], "not both"),
        (["report", "zz", "--out", str(tmp_path / "x.html")], "no run 'zz'"),
        (["report", key, "--out", str(tmp_path / "x.pdf")], "ends in .html"),
        (["report", key, "--out", str(tmp_path / "no" / "x.html")], "there is no folder"),
        (["verify", str(tmp_path / "no.json")], "cannot read"),
        (["verify", str(made[0].with_suffix(".html"))], "give the .json"),
        (["verify", str(made[0]), "--tolerance", "inf"], "is no tolerance"),
        (["verify", str(made[0]), "--tolerance", "nan"], "greater than or equal to 0"),
    ):
        assert main([*given, *store]) == 2, given
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="one run at least"):
        gather([], made[1])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "interp-report", "version": 2}', '"\\ud800"']
)
def test_what_is_no_report_is_one_line(tmp_path, text, capsys):
    path = tmp_path / "r.json"
    path.write_text(text)
    assert main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_line_writes_checks_and_fails_with_one(made, tmp_path, capsys):
    key, out = made[2][1].provenance.key, tmp_path / "page.html"
    assert (
        main(["report", key[:10], "--out", str(out), "--store", str(made[1].root), "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["claims"], told["supported"], told["bytes"]) == (3, 2, out.stat().st_size)
    assert main(["verify", told["report"]]) == 0
    assert "7 of 7 checks hold" in capsys.readouterr().out
    value = json.loads(out.with_suffix(".json").read_text())
    rewritten(
        out.with_suffix(".json"),
        changed_at(value, ("claims", 0, "supported"), not value["claims"][0]["supported"]),
    )
    assert main(["verify", told["report"], "--json"]) == 1
    failed = json.loads(capsys.readouterr().out)["failed"]
    assert [one["check"].split()[0] for one in failed] == ["claim"]
    assert main(["verify", told["report"], "--store", str(tmp_path / "elsewhere")]) == 2
    assert "name it with --store DIR" in capsys.readouterr().err


def test_claims_survive_the_store(made):
    run = made[1].get(made[2][1].provenance.key)
    assert to_table(from_table(run.tables["claims"])).equals(run.tables["claims"])
    assert np.isnan(from_table(run.tables["claims"])[2].p)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_alteration_of_an_organism_s_report_is_found(tmp_path, remembered):
    """A real run: what demo located and verified, reported, and spoiled in every field."""
    assert main(["demo", "--store", str(tmp_path / "runs"), "--quiet"]) == 0
    assert (
        main(
            [
                "report",
                "--all",
                "--out",
                str(tmp_path / "r.html"),
                "--store",
                str(tmp_path / "runs"),
            ]
        )
        == 0
    )
    path = tmp_path / "r.json"
    assert failures(read(path)) == []
    value = json.loads(path.read_text())
    places = list(leaves(value))
    assert len(places) > 300
    assert not_found(path, value, places) == []
