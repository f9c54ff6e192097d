"""The wheel: what is in it, and that it works in an environment that has never seen the source
tree.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from interp import organisms
from interp.cli import COMMANDS
from tests.pages import ROOT

NO_BACKEND = (
    importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("build") is None
)
STATED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def done(*line, cwd, **environment):
    """Run a program to its end; its output, once it went well. Nothing of this checkout is on its
    path.
    """
    bare = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")
    }
    ran = subprocess.run(
        [str(part) for part in line],
        cwd=cwd,
        env={**bare, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{line}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the source tree, without an environment of its own where the backend is here:
    three seconds.
    """
    place = tmp_path_factory.mktemp("dist")
    alone = () if NO_BACKEND else ("--no-isolation",)
    path = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done(
        sys.executable, "-m", "build", "--wheel", *alone, "--outdir", place, ROOT, cwd=place, **path
    )
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def held(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.getinfo(name).file_size for name in archive.namelist()}


@pytest.mark.skipif(NO_BACKEND, reason="the build backend is not installed: pip install '.[dev]'")
class TestContents:
    def test_all_of_the_package_and_of_its_data_and_nothing_else(self, held):
        mine = {name for name in held if ".dist-info/" not in name}
        source = {
            path.relative_to(ROOT).as_posix(): path
            for path in (ROOT / "interp").rglob("*")
            if path.is_file()
        }
        source = {name: path for name, path in source.items() if "__pycache__" not in name}
        data = {
            f"interp/{path.relative_to(ROOT).as_posix()}": path
            for path in (ROOT / "data").rglob("*")
        }
        wanted = source | {name: path for name, path in data.items() if path.is_file()}
        assert mine == set(wanted)
        assert {name: held[name] for name in mine} == {
            name: path.stat().st_size for name, path in wanted.items()
        }

    def test_what_is_not_python_is_there(self, held):
        assert {"interp/py.typed", "interp/report/page.css", "interp/report/page.js"} <= set(held)
        assert {
            "interp/report/templates/document.html",
            "interp/report/templates/page.html",
        } <= set(held)
        for name in organisms.names():
            assert f"interp/data/organisms/{name}/organism.json" in held
        assert any(name.startswith("interp/data/prompts/refusal/") for name in held)
        assert any(name.endswith("licenses/LICENSE") for name in held)

    def test_its_record_says_what_the_project_says(self, wheel):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            text = archive.read(name).decode("utf-8")
            entries = archive.read(name.replace("METADATA", "entry_points.txt")).decode("utf-8")
        assert "License-Expression: Apache-2.0" in text
        assert f"Requires-Python: {STATED['project']['requires-python']}" in text
        plain = re.sub(
            r"[\s()]", "", "".join(re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE))
        )
        for asked in STATED["project"]["dependencies"]:
            assert re.split(r"[<>=]", asked)[0] in plain
        assert "interp = interp.cli:main" in entries


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """An environment with the wheel; $INTERP_BARE names one that has torch and the rest, to save
    its making.
    """
    given = os.environ.get("INTERP_BARE")
    place = Path(given) if given else tmp_path_factory.mktemp("bare") / "environment"
    if not given:
        venv.create(place, with_pip=True)
    python, limits = place / "bin" / "python", ("-c", ROOT / "constraints.txt")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q")
    if not given:
        # torch alone first: where a CPU build is offered, nothing that follows can ask for another
        # one
        done(*pip, *limits, "torch==2.13.0", cwd=place)
    done(*pip, *limits, wheel, "pytest", cwd=place)
    done(*pip, "--force-reinstall", "--no-deps", wheel, cwd=place)
    return place


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    return tmp_path_factory.mktemp("away")


@pytest.fixture(scope="module")
def here(bare, away):
    """Run ``interp`` there, from a folder that is not this checkout, offline."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "INTERP_CACHE": str(away / "cache")}
    return lambda *line: done(bare / "bin" / "interp", *line, cwd=away, **offline)


@pytest.fixture(scope="module")
def demo(here):
    return json.loads(here("demo", "--json"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestInstalled:
    """Needs a package index."""

    def test_the_package_is_the_installed_one(self, bare, away):
        said = done(
            bare / "bin" / "python", "-c", "import interp; print(interp.__file__)", cwd=away
        )
        assert Path(said.strip()).is_relative_to(bare)
        assert not Path(said.strip()).is_relative_to(ROOT)

    def test_help_organisms_and_doctor(self, here):
        said = here("--help")
        assert all(f"  {name} " in said for name in COMMANDS)
        listed = json.loads(here("organisms", "--json"))["organisms"]
        assert [organism["name"] for organism in listed] == organisms.names()
        checks = json.loads(here("doctor", "--json"))
        assert checks["ok"]
        assert {"interp", "torch", "organisms", "forward"} <= {
            check["name"] for check in checks["checks"]
        }

    def test_the_demo_shows_the_planted_neurons(self, demo, away):
        assert demo["summary"]["supported"] is True
        assert Path(away, demo["page"]).stat().st_size > 1e5

    def test_a_report_of_it_verifies_and_an_altered_one_does_not(self, here, bare, away, demo):
        report = json.loads(
            here("report", demo["run"], demo["summary"]["verified_by"], "--out", "r.html", "--json")
        )
        assert report["claims"] > 3
        assert "checks hold" in here("verify", "r.json")
        said = done(
            bare / "bin" / "python", "-m", "pytest", "-q", "--interp-report", "r.json", cwd=away
        )
        assert int(re.search(r"(\d+) passed", said).group(1)) >= report["claims"]
        value = json.loads((away / "r.json").read_text(encoding="utf-8"))
        value["claims"][0]["value"] += 0.1
        (away / "altered.json").write_text(json.dumps(value), encoding="utf-8")
        for line in (
            ("interp", "verify", "altered.json"),
            ("pytest", "-q", "--interp-report", "altered.json"),
        ):
            ran = subprocess.run(
                [bare / "bin" / line[0], *line[1:]], cwd=away, capture_output=True, text=True
            )
            assert ran.returncode == 1
            assert value["claims"][0]["name"] in ran.stdout + ran.stderr
