"""``--behaviour`` on the command line: one line for what contradicts, the same keys however refusal
is named.
"""

import json
from pathlib import Path

import pytest

from interp import organisms
from interp.models.pair import Pair
from interp.store import Store
from tests import tiny

FRENCH = "name: french\nkind: phrases\nphrases: [Sorry]\nwhere: start\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The planted pair, its prompts, and behaviours of it."""
    root = tmp_path_factory.mktemp("behaviours")
    base, tuned = tiny.planted(tiny.llama(seed=7), pairs=16)
    for name, model in (("base", base), ("tuned", tuned)):
        tiny.save(model, root / name)
        tiny.tokenizer(False).save_pretrained(root / name)
        (root / name / "chat_template.jinja").unlink(missing_ok=True)
    both = tiny.contrast(16)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        (root / f"{name}.txt").write_text("\n".join(prompts.texts), encoding="utf-8")
    (root / "markers.txt").write_text("Sorry\n")
    (root / "refusal.yaml").write_text("name: refusal\nkind: phrases\nphrases: [Sorry]\n")
    (root / "french.yaml").write_text(FRENCH)
    (root / "unknown.yaml").write_text(FRENCH + "sample: many\n")
    (root / "cold.yaml").write_text(FRENCH + "samples: 4\ntemperature: 0\n")
    return root


def two(root):
    return ["--positive", root / "positive.txt", "--negative", root / "negative.txt"]


def locating(root, *more):
    return [
        "locate-neurons",
        root / "tuned",
        "--base",
        root / "base",
        *two(root),
        "--top",
        "3",
        "--random-sets",
        "1",
        "--control-prompts",
        "4",
        "--store",
        root / "runs",
        "--json",
        *more,
    ]


def test_refusal_has_one_key_by_whatever_name(run, saved):
    made = []
    for options in (["--markers", saved / "markers.txt"], ["--behaviour", saved / "refusal.yaml"]):
        code, out, _ = run(*locating(saved, *options, "--quiet"))
        assert code == 0
        record = json.loads(out)
        made.append((record["run"], record["summary"]["verified_by"]))
    assert made[0] == made[1]
    assert record["cached"]


@pytest.mark.slow
def test_another_behaviour_is_told_by_its_name(run, saved):
    code, out, err = run(*locating(saved, "--behaviour", saved / "french.yaml"))
    assert code == 0
    record = json.loads(out)
    verified = Store(saved / "runs").get(record["summary"]["verified_by"])
    assert "french" in verified.data
    assert verified.provenance.inputs["metric"]["name"] == "french"
    page = Path(record["page"]).read_text("utf-8")
    assert "french" in page
    assert "refus" not in (page + out + err).casefold()


def test_a_command_asked_again_knows_its_behaviour_file(run, saved, monkeypatch):
    command = locating(saved, "--behaviour", saved / "french.yaml", "--quiet", "--no-verify")
    assert run(*command)[0] == 0

    def stop(*_, **__):
        raise AssertionError("the models are loaded")

    with monkeypatch.context() as patched:
        patched.setattr(Pair, "load", stop)
        assert run(*command)[0] == 0
        (saved / "french.yaml").write_text(FRENCH.replace("start", "anywhere"))
        assert run(*command)[0] == 70
    (saved / "french.yaml").write_text(FRENCH)


def test_tuco_parts_prompts_by_a_behaviour(run, saved):
    both = saved / "both.txt"
    both.write_text(
        "\n".join((saved / f"{name}.txt").read_text() for name in ("positive", "negative"))
    )
    code, out, err = run(
        "tuco",
        saved / "tuned",
        "--base",
        saved / "base",
        "--prompts",
        both,
        "--by-answer",
        "--generations",
        "1",
        "--behaviour",
        saved / "french.yaml",
        "--store",
        saved / "runs",
        "--alpha",
        "0,1.5",
        "--json",
    )
    assert code == 0
    record = json.loads(out)
    assert "prompts 16 show french and 16 do not" in record["summary"]["sentence"]
    assert "refus" not in (out + err + Path(record["page"]).read_text("utf-8")).casefold()


COLOURS = organisms.prompts("refusal", "task", "colours")


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        (
            "locate-neurons",
            ["--behaviour", "{}/refusal.yaml", "--markers", "{}/markers.txt"],
            "give one of them",
        ),
        ("locate-neurons", ["--behaviour", "{}/none.yaml"], "no behaviour file"),
        (
            "locate-neurons",
            ["--behaviour", "nothing-of-this-name"],
            "no entry point of interp.behaviours",
        ),
        ("locate-neurons", ["--behaviour", "{}/unknown.yaml"], "unknown field 'sample'"),
        ("locate-neurons", ["--behaviour", "{}/cold.yaml"], "temperature is 0; give one above 0"),
        ("tuco", ["--by-answer", "--behaviour", "{}/unknown.yaml"], "unknown field 'sample'"),
        ("tuco", ["--behaviour", "{}/french.yaml"], "need --alpha or --by-answer"),
        (
            "tuco",
            ["--alpha", "0", "--behaviour", "{}/french.yaml", "--metric", "accuracy"],
            "--metric accuracy",
        ),
        (
            "tuco",
            ["--alpha", "0", "--behaviour", "{}/french.yaml", "--markers", "{}/markers.txt"],
            "give one of them",
        ),
        (
            "dissociate",
            ["--other-task", COLOURS, "--other-behaviour", "{}/french.yaml"],
            "--other-behaviour belongs to",
        ),
        (
            "dissociate",
            ["--other-positive", "{}/positive.txt", "--other-behaviour", "{}/unknown.yaml"],
            "'sample'",
        ),
    ],
)
def test_contradictions_and_bad_files_are_one_line_before_a_model_is_loaded(
    run, only_line, saved, tmp_path, monkeypatch, command, more, said
):
    monkeypatch.setattr(Pair, "load", None)
    files = ["--prompts", saved / "positive.txt"] if command == "tuco" else two(saved)
    words = [str(word).format(saved) for word in more]
    code, out, err = run(
        command,
        saved / "tuned",
        "--base",
        saved / "base",
        *files,
        *words,
        "--store",
        tmp_path / "s",
    )
    assert (code, out) == (2, "")
    assert said in only_line(err)


def test_a_behaviour_and_a_task_are_two_questions(run, only_line, saved):
    code, _, err = run(
        "locate-neurons",
        saved / "tuned",
        "--task",
        COLOURS,
        "--negative",
        saved / "negative.txt",
        "--behaviour",
        "refusal",
    )
    assert code == 2
    assert "--behaviour and --task both define the behaviour" in only_line(err)


@pytest.mark.slow
def test_refusal_of_an_organism_is_bit_for_bit_today_s(run, tmp_path):
    """By default, by name, and by a file of the same markers: one key, so one run."""
    from interp.metrics import REFUSAL_MARKERS

    files = [organisms.prompts("refusal", "locate", group) for group in ("harmful", "harmless")]
    (tmp_path / "same.yaml").write_text(
        f"name: refusal\nkind: phrases\nphrases: {json.dumps(REFUSAL_MARKERS)}\n"
    )
    keys = []
    for more in ([], ["--behaviour", "refusal"], ["--behaviour", tmp_path / "same.yaml"]):
        code, out, _ = run(
            "locate-neurons",
            "organism:refusal/full",
            "--base",
            "organism:refusal/base",
            "--positive",
            files[0],
            "--negative",
            files[1],
            "--max-prompts",
            "16",
            "--random-sets",
            "19",
            "--control-prompts",
            "8",
            "--store",
            tmp_path / "runs",
            "--json",
            "--quiet",
            *more,
        )
        assert code == 0
        record = json.loads(out)
        keys.append((record["run"], record["summary"]["verified_by"]))
    assert len(set(keys)) == 1
