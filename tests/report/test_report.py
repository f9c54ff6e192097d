"""A report agrees with the store, and every change in either is detected and named."""

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
from interp.report.document import RECOMMENDED_PAGE_BYTES, gather, read, write_report
from interp.report.rendering import Html
from interp.report.verification import _Recomputation, checks, failures, require_control
from interp.store import Store
from tests.reports import honest_report, honest_runs
from tests.tables import HOSTILE, located


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return honest_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the report and its store, to be changed."""
    shutil.copytree(made[0].parent, tmp_path / "there")
    return tmp_path / "there" / made[0].name


def refused(path):
    """All failures of a report in one text; empty if every check passes."""
    try:
        return "\n".join(why for _, why in failures(read(path)))
    except InterpError as error:
        return str(error)


def falls(path):
    """Whether a check of a report fails; stops at the first failure."""
    try:
        for check in checks(read(path)):
            check()
    except InterpError:
        return True
    return False


@pytest.fixture
def remembered(monkeypatch):
    """Read every run only once, because hundreds of changed reports are compared with the same
    runs.
    """
    kept, read_run = {}, _Recomputation.run

    def run(self, key):
        place = (self.report.store.root, key)
        if place not in kept:
            kept[place] = read_run(self, key)
        return kept[place]

    monkeypatch.setattr(_Recomputation, "run", run)


def rewritten(path, value, sealed=True):
    """Write a changed report, with a new digest unless ``sealed`` is false."""
    if sealed and "sha256" in value:
        value = {
            **value,
            "sha256": digest({name: said for name, said in value.items() if name != "sha256"}),
        }
    path.write_text(json.dumps(value))
    return path


def leaves(value, place=()):
    """Every path in a JSON value: leaves and containers."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*place, name)
            yield from leaves(inner, (*place, name))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield (*place, at)
            yield from leaves(inner, (*place, at))


def altered(value):
    """Another value of the same type."""
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
    """The paths of a report whose change is not detected."""
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


def test_every_changed_field_is_detected(made, copied, remembered):
    """Also with a new digest. The page and the store stay unchanged."""
    value = json.loads(made[0].read_text())
    places = list(leaves(value))
    assert len(places) > 200
    assert not_found(copied, value, places) == []


def test_every_missing_field_is_detected(made, copied, remembered):
    value = json.loads(made[0].read_text())
    for place in leaves(value):
        changed = copy.deepcopy(value)
        inner = changed
        for step in place[:-1]:
            inner = inner[step]
        del inner[place[-1]]
        assert falls(rewritten(copied, changed)), place


def test_a_change_without_a_new_digest_is_detected(made, copied):
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


def test_a_missing_or_replaced_page_is_detected(copied):
    page = copied.with_suffix(".html")
    page.write_text(page.read_text().replace("What carries it?", "What did not carry it?"))
    assert "was changed or replaced" in refused(copied)
    value = json.loads(copied.read_text())
    value["page"]["sha256"] = sha256_of(page)
    assert "does not match the store" in refused(rewritten(copied, value))
    page.unlink()
    assert "is missing next to the report" in refused(copied)


def with_page(path, change, **changes):
    """The report with another page and matching digests."""
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
def test_content_next_to_the_plotly_bundle_is_detected(copied, forged):
    assert "does not match the store" in refused(with_page(copied, forged))


def test_a_page_of_another_version_is_reported_as_not_compared(copied, monkeypatch, capsys):
    """An unchanged page of another interp or plotly.js is not a failure, and a forged one does not
    pass.
    """
    assert refused(copied) == ""
    monkeypatch.setattr("interp.report.verification.unpacked_hash", lambda: "'sha256-x'")
    assert main(["verify", str(copied)]) == 0
    assert "page: report.html was made by another plotly.js" in capsys.readouterr().out
    monkeypatch.undo()
    value = json.loads(copied.read_text())
    said = f"<h1>Forged</h1>{value['title']} {value['written']} 9.9"
    assert main(["verify", str(with_page(copied, lambda _: said, interp="9.9"))]) == 0
    told = capsys.readouterr().out
    assert "made by interp 9.9, so it was not compared" in told
    assert (
        "6 of 6 checks hold, 3 of them claims computed again from the stored tables; 1 could not be"
        " tested" in told
    )
    assert "does not contain the report's title" in refused(
        with_page(copied, lambda _: "9.9", interp="9.9")
    )


def test_a_repeated_name_is_refused(copied):
    text = copied.read_text()
    copied.write_text(text.replace('"findings": [', '"findings": ["Forged."],\n "findings": [', 1))
    assert "JSON as written by interp, so it is not a report" in refused(copied)


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
def test_invalid_values_are_refused(copied, capsys, change, code):
    copied.write_text(json.dumps({**json.loads(copied.read_text()), **change}))
    assert main(["verify", str(copied)]) == code


def test_deeply_nested_json_is_refused(copied):
    text = copied.read_text()
    copied.write_text(text.replace('"limits": [', '"limits": [' + "[" * 900 + "]" * 900 + ", ", 1))
    assert "not a report" in refused(copied)


def test_messages_are_one_printable_line(copied, capsys):
    value = json.loads(copied.read_text())
    value["runs"][0]["\r\x1b[2J\u202e\n7 of 7 checks hold"] = 1
    assert main(["verify", str(rewritten(copied, value))]) == 1
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(r"has a field that the store lacks: \r\x1b[2J\u202e\n7 of 7 checks hold")


def test_checking_a_report_removes_nothing_where_it_points(copied):
    kept = copied.parent / "elsewhere" / ".temporary" / "photos"
    kept.mkdir(parents=True)
    refused(rewritten(copied, {**json.loads(copied.read_text()), "store": "elsewhere"}))
    assert kept.is_dir()


def test_a_forged_run_under_the_same_key_is_detected(tmp_path):
    """A whole store is forged: other tables with matching digests under the same key."""
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
    """Pages without figures, which would take most of the time."""
    for room in ("page", "report_page"):
        monkeypatch.setattr(f"interp.report.{room}.figure_of", lambda table: Html())


def redefined(**changes):
    """Change the claim and keep its numbers."""
    return lambda finding: replace(finding, claim=replace(finding.claim, **changes))


def reread(**changes):
    """Keep the numbers and attribute them to another estimate."""
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
def test_a_false_claim_fails_even_if_all_digests_match(tmp_path, without_figures, change, said):
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
def test_a_summary_must_agree_with_its_claims(tmp_path, without_figures, change, said):
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


def test_a_run_without_supported_claims_is_not_supported():
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


def test_a_sentence_must_round_its_numbers_correctly(tmp_path, without_figures):
    def nudged(finding):
        value = f"{finding.value:.1%}"
        other = f"{finding.value + 0.001:.1%}"
        return replace(finding, sentence=finding.sentence.replace(value, other))

    path, *_ = honest_report(tmp_path, forged=nudged)
    assert "its tables give" in refused(path)


def test_a_claim_without_a_control_value_has_no_control():
    _, run = honest_runs()
    claim = from_table(run.tables["claims"])[2]
    require_control(claim)
    with pytest.raises(ClaimError, match="without a control"):
        require_control(replace(claim, control_value=float("nan")))
    require_control(replace(claim, control_value=float("nan"), verdict="not supported"))


def test_parents_are_included_and_keys_may_be_shortened(made):
    runs, agreements = gather([made[2][1].provenance.key[:9]], made[1])
    assert [run.key for run in runs] == [run.provenance.key for run in made[2]]
    assert agreements == []


def test_text_of_tables_is_escaped(tmp_path):
    store = Store(tmp_path / "runs")
    run = located(hostile=True)
    store.write(run)
    path = write_report(tmp_path / "r.html", [run.provenance.key], store, title=HOSTILE[0])
    page = path.with_suffix(".html").read_text()
    assert HOSTILE[0] not in page
    assert "&lt;script&gt;alert(1)" in page
    assert failures(read(path)) == []


def test_the_page_of_a_model_of_32_layers_stays_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tables.LAYERS", 32)
    monkeypatch.setattr("tests.tables.NEURONS", 14_336)
    store, runs = Store(tmp_path / "runs"), [located(), located("integrated-zero")]
    for run in runs:
        store.write(run)
    path = write_report(tmp_path / "r.html", [run.provenance.key for run in runs], store)
    text = path.with_suffix(".html").read_text()
    assert len(text) < RECOMMENDED_PAGE_BYTES == 5_000_000
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


def test_bad_options_are_refused_before_anything_is_written(made, tmp_path, capsys):
    store = ["--store", str(made[1].root)]
    key = made[2][1].provenance.key
    for given, said in (
        (["report", "--out", "x.html"], "give keys"),
        (["report", key, "--all", "--out", "x.html"], "not both"),
        (["report", "zz", "--out", str(tmp_path / "x.html")], "no run 'zz'"),
        (["report", key, "--out", str(tmp_path / "x.pdf")], "ends in .html"),
        (["report", key, "--out", str(tmp_path / "no" / "x.html")], "does not exist"),
        (["verify", str(tmp_path / "no.json")], "cannot read"),
        (["verify", str(made[0].with_suffix(".html"))], "give the .json"),
        (["verify", str(made[0]), "--tolerance", "inf"], "is not a tolerance"),
        (["verify", str(made[0]), "--tolerance", "nan"], "greater than or equal to 0"),
    ):
        assert main([*given, *store]) == 2, given
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="at least one run"):
        gather([], made[1])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "interp-report", "version": 2}', '"\\ud800"']
)
def test_a_file_that_is_not_a_report_is_refused_in_one_line(tmp_path, text, capsys):
    path = tmp_path / "r.json"
    path.write_text(text)
    assert main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_commands_write_and_verify_and_report_a_failure(made, tmp_path, capsys):
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
    assert "give its folder with --store DIR" in capsys.readouterr().err


def test_claims_survive_the_store(made):
    run = made[1].get(made[2][1].provenance.key)
    assert to_table(from_table(run.tables["claims"])).equals(run.tables["claims"])
    assert np.isnan(from_table(run.tables["claims"])[2].p)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_changed_field_of_an_organism_s_report_is_detected(tmp_path, remembered):
    """A real report of the demo, changed in every field."""
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
