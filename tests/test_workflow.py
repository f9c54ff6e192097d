"""The workflow of examples/audit.yml: its steps run, and what they leave for a pull request."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from interp.organisms import prompts

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / "examples" / "audit.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in WORKFLOW["jobs"]["audit"]["steps"] if "run" in step}


def run_steps(place, tuned, margins):
    """Every step but the installation, as the workflow orders them; exit codes by name."""
    folder = place / "audit"
    folder.mkdir()
    for name in ("harmful", "harmless"):
        shutil.copy(prompts("refusal", "verify", name), folder / f"{name}.jsonl")
    (folder / "margins.yaml").write_text(margins, encoding="utf-8")
    environment = {
        **os.environ,
        **{name: str(value) for name, value in WORKFLOW["env"].items()},
        "TUNED": tuned,
        "BASE": "organism:refusal/base",
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    codes = {}
    for name, step in STEPS.items():
        if name == "install" or (any(codes.values()) and step.get("if") != "always()"):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"].replace("--json", "--json --max-prompts 60 --quiet")],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        codes[name] = done.returncode
        assert done.returncode in (0, 1), done.stderr[-2000:]
    return codes


def test_the_workflow_names_files_that_it_makes():
    kept = WORKFLOW["jobs"]["audit"]["steps"][-1]["with"]["path"].split()
    text = " ".join(step["run"] for step in STEPS.values())
    # interp report writes the JSON file next to the page
    missing = [name for name in kept if name not in text and name != "report.json"]
    assert not missing


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fine_tune_that_keeps_to_its_margins_passes(tmp_path):
    rows = "rows: {refusal-harmful: {fails: fall}, refusal-harmless: {must-decide: true}}"
    assert run_steps(tmp_path, "organism:refusal/lora", rows) == {
        "audit": 0,
        "page": 0,
        "rows as tests": 0,
    }
    assert "**audit passed" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    suite = ElementTree.parse(tmp_path / "audit.xml").getroot().find("testsuite")
    assert suite is not None
    assert int(suite.attrib["tests"]) > 5
    assert suite.attrib["failures"] == "0"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_that_does_not_fails_and_still_leaves_its_page(tmp_path):
    codes = run_steps(tmp_path, "organism:refusal/lora", "rows: {refusal-harmful: {fails: either}}")
    assert codes["audit"] == 1
    assert codes["page"] == 0
    assert "| refusal-harmful |" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "audit.json").read_text())["summary"]["failed"] == [
        "refusal-harmful"
    ]
    assert (tmp_path / "report.html").is_file()
