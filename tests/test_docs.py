"""Documents that drift fail here: code is run, commands and links must exist."""

import re
from pathlib import Path

import pytest

from interp.analyzers.locate_neurons import METHODS
from interp.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ["README.md", "CONTRIBUTING.md", "notebooks/README.md"]
PAGES = [*(ROOT / name for name in DOCS), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_python_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code.replace("limit(16)", "limit(4)"), "README.md", "exec"), {})
    assert "integrated selects" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name):
    assert f"interp {name}" in (ROOT / "README.md").read_text(encoding="utf-8") or name == "demo"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_row(method):
    assert f"| `{method}` |" in (ROOT / "docs" / "locate-neurons.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_tree_in_the_readme_is_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("interp/\n") : text.index("organisms/   ")]
    named = set(re.findall(r"^  ([\w/.]+)", tree, re.MULTILINE))
    real = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "interp").iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert real - named <= {"pytest_plugin.py"}
    assert named <= real
