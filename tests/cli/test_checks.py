"""``--checks``, ``transfer`` and ``dissociate`` as a user runs them: runs, claims, page, repeats,
bad input.
"""

import json
from pathlib import Path

import pytest

from interp import claims, organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.cli import checks
from interp.errors import OptionError
from interp.figures import plot
from interp.kinds import KINDS
from interp.store import Store
from tests import tiny

FILES = {
    f"--{side}": organisms.prompts("refusal", "locate", group)
    for side, group in (("positive", "harmful"), ("negative", "harmless"))
}
BASE = ("--base", "organism:refusal/base")
COLOURS = organisms.prompts("refusal", "task", "colours")


def asked(*options, limit=24):
    return [
        *options,
        *BASE,
        *(part for pair in FILES.items() for part in pair),
        "--max-prompts",
        limit,
        "--quiet",
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("checked")


def result(run, *command):
    code, out, err = run(*command, "--json")
    assert (code, err) == (0, ""), err
    return json.loads(out)


def verified(root, key):
    """The run's table; its claims, recomputed; its figure, drawn."""
    table = Store(root).get(key)
    found = claims.from_table(table.tables["claims"])
    for claim in found:
        claims.check(claim, table)
    assert json.loads(plot(table).to_json())["data"]
    return table, {claim.name: claim for claim in found}


@pytest.fixture(scope="module")
def pair(root):
    """A planted pair on disk, and prompts whose frame is their template."""
    base, tuned = tiny.planted(tiny.llama(7), pairs=40)
    for name, model in (("base", base), ("tuned", tuned)):
        # every token ends an answer: what is planted is the first
        model.generation_config.eos_token_id = list(range(len(tiny.tokenizer())))
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    both = tiny.contrast(40)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        rows = [
            {"prompt": p.text, "twin": p.twin, "frame": row % 2} for row, p in enumerate(prompts)
        ]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "sorry.txt").write_text("Sorry")
    return root


def small(pair, *options):
    return [
        *options,
        "--base",
        pair / "base",
        "--positive",
        pair / "positive.jsonl",
        "--negative",
        pair / "negative.jsonl",
        "--markers",
        pair / "sorry.txt",
        "--template-column",
        "frame",
        "--store",
        pair / "runs",
        "--quiet",
    ]


@pytest.mark.slow
def test_every_check_is_a_run_with_claims_and_a_figure(run, pair):
    command = small(
        pair,
        "locate-neurons",
        pair / "tuned",
        "--top",
        "3",
        "--random-sets",
        "19",
        "--checks",
        "all",
        "--method",
        "cross",
    )
    record = result(run, *command)
    assert set(record["summary"]["checks"]) == {
        "stability",
        "redundancy",
        "coalitions",
        "refusal-direction",
    }
    shown = {}
    for kind, check in record["summary"]["checks"].items():
        table, found = verified(pair / "runs", check["run"])
        assert table.kind == kind
        shown |= {name: claim.supported for name, claim in found.items()}
    assert shown["halves"]
    assert shown["templates"]
    # all three are needed: without them there is nothing to fall back on
    assert not shown["redundant"]
    page = Path(record["page"]).read_text(encoding="utf-8")
    for heading in (
        KINDS["stability"].heading,
        KINDS["coalitions"].heading,
        KINDS["refusal-direction"].heading,
    ):
        assert heading in page
    again = result(run, *command)
    assert again["cached"]
    assert again["summary"] == record["summary"]
    code, _, err = run(*small(pair, "transfer", record["summary"]["verified_by"], pair / "tuned"))
    assert code == 2
    assert "is of kind verify-neurons" in err


@pytest.mark.slow
def test_a_transfer_to_the_same_tune_is_whole(run, pair):
    located = result(
        run, *small(pair, "locate-neurons", pair / "tuned", "--top", "3", "--method", "cross")
    )
    record = result(run, *small(pair, "transfer", located["run"], pair / "tuned"))
    table, found = verified(pair / "runs", record["run"])
    assert found["correspondence"].value == pytest.approx(1.0)
    assert found["recomputed"].value == 1.0
    assert found["reused"].supported
    assert table.provenance.parent == located["run"]
    again = result(run, *small(pair, "transfer", located["run"], pair / "tuned"))
    assert again["cached"]
    made = Store(pair / "runs").get(located["run"]).provenance
    options = {name: value for name, value in made.options.items() if name != "excluded"}
    assert LocateNeurons(**options).options.keys() == made.options.keys()


@pytest.mark.slow
def test_a_run_of_a_model_that_changed_cannot_be_transferred(run, only_line, pair, tmp_path):
    located = result(
        run, *small(pair, "locate-neurons", pair / "tuned", "--top", "3", "--method", "cross")
    )
    command = small(pair, "transfer", located["run"], pair / "tuned", "--source", pair / "base")
    code, _, err = run(*command)
    assert code == 2
    assert "is not what run" in only_line(err)


CHECKED = asked(
    "locate-neurons",
    "organism:refusal/planted",
    "--top",
    "30",
    "--random-sets",
    "3",
    "--control-prompts",
    "12",
    "--method",
    "cross",
    "--template-column",
    "style",
    "--checks",
    "all",
    limit=60,
)


@pytest.mark.slow
def test_all_checks_run_beside_the_verification(run, root):
    record = result(run, *CHECKED, "--store", root)
    assert set(record["summary"]["checks"]) == {
        "stability",
        "redundancy",
        "coalitions",
        "refusal-direction",
    }
    assert record["summary"]["verified_by"]
    shown = {}
    for kind, check in record["summary"]["checks"].items():
        table, found = verified(root, check["run"])
        assert table.kind == kind
        shown |= {name: claim.supported for name, claim in found.items()}
    # thirty neurons were trained, all others are the base's: nothing but them can carry it
    assert shown["halves"]
    assert not shown["redundant"]
    assert shown["beats-direction-as-base"]
    page = Path(record["page"]).read_text(encoding="utf-8")
    for heading in (
        KINDS["stability"].heading,
        KINDS["coalitions"].heading,
        KINDS["refusal-direction"].heading,
    ):
        assert heading in page
    again = result(run, *CHECKED, "--store", root)
    assert again["cached"]
    assert again["summary"] == record["summary"]


@pytest.mark.slow
def test_a_set_of_full_does_the_same_in_relearned_and_not_in_sham(run, root):
    located = result(
        run,
        *asked("locate-neurons", "organism:refusal/full", "--no-verify", "--top", "150"),
        "--store",
        root,
    )
    outcome = {}
    for target in ("relearned", "sham"):
        record = result(
            run,
            *asked("transfer", located["run"], f"organism:refusal/{target}", "--random-sets", "19"),
            "--store",
            root,
        )
        table, found = verified(root, record["run"])
        outcome[target] = {name: claim.supported for name, claim in found.items()}
        assert table.provenance.parent == located["run"]
    assert outcome["relearned"] == {"correspondence": True, "reused": True, "recomputed": True}
    # a sham answers as the base does: there is nothing to give back
    assert "reused" not in outcome["sham"]
    assert not outcome["sham"]["recomputed"]


@pytest.mark.slow
def test_two_planted_skills_dissociate(run, root):
    record = result(
        run,
        *asked(
            "dissociate",
            "organism:refusal/distracted",
            "--other-task",
            COLOURS,
            "--random-sets",
            "19",
            limit=60,
        ),
        "--store",
        root,
    )
    _, found = verified(root, record["run"])
    assert all(claim.supported for claim in found.values()), record["summary"]["sentence"]
    assert record["summary"]["sentence"].startswith(
        "Each of the two sets carries its own behaviour"
    )
    again = result(
        run,
        *asked(
            "dissociate",
            "organism:refusal/distracted",
            "--other-task",
            COLOURS,
            "--random-sets",
            "19",
            limit=60,
        ),
        "--store",
        root,
    )
    assert again["cached"]


PLANTED = "organism:refusal/planted"
BAD = {
    "unknown check": (
        asked("locate-neurons", PLANTED, "--checks", "all,more"),
        "unknown --checks 'all'",
    ),
    "direction of a task": (
        [
            "locate-neurons",
            PLANTED,
            *BASE,
            "--task",
            COLOURS,
            "--negative",
            FILES["--negative"],
            "--checks",
            "direction",
        ],
        "--checks direction needs a behaviour that both classes can show",
    ),
    "redundancy without a base": (
        [
            "locate-neurons",
            PLANTED,
            *(part for pair in FILES.items() for part in pair),
            "--checks",
            "redundancy",
        ],
        "--checks redundancy needs a base to return to",
    ),
    "no template": (
        asked("locate-neurons", PLANTED, "--template-column", "form"),
        "has no column 'form'",
    ),
    "no such run": (asked("transfer", "0123456789abcdef0123", PLANTED), "there is no store at"),
    "no second behaviour": (
        asked("dissociate", PLANTED),
        "give either --other-task FILE or --other-positive FILE",
    ),
    "a metric without a task": (
        asked(
            "dissociate",
            PLANTED,
            "--other-positive",
            FILES["--negative"],
            "--other-metric",
            "accuracy",
        ),
        "--other-metric accuracy belongs to a task",
    ),
    "the same prompts twice": (
        asked("dissociate", PLANTED, "--other-positive", FILES["--positive"]),
        "both behaviours have the prompt",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(run, only_line, tmp_path, name):
    command, message = BAD[name]
    code, out, err = run(*command, "--store", tmp_path / "runs")
    assert (code, out) == (2, "")
    assert message in only_line(err)
    assert not list(tmp_path.rglob("table.parquet"))


def test_names_of_checks():
    assert checks.parse("none") == ()
    assert checks.parse("all") == tuple(checks.CHECKS)
    assert checks.parse("stability, redundancy,stability") == ("stability", "redundancy")
    with pytest.raises(OptionError, match="unknown --checks 'x'"):
        checks.parse("x")
    assert checks.applicable(checks.parse("all"), True, False, True, True) == ("stability",)
