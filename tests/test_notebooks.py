"""Notebooks run top to bottom, each within two minutes of two cores; their imports exist, and they
keep no output.
"""

import ast
import importlib
import os
import re
import resource
import warnings
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from interp.cli import COMMANDS, GROUPS
from tests.organisms.test_real_pair import missing

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
CORES, SECONDS = 2, 120
FAMILIES = (
    "Agreement",
    "Compare",
    "SaeDiff",
    "SaeEval",
    "Graft",
    "Intruders",
    "LocateNeurons",
    "RefusalDirection",
    "Stitch",
    "Tuco",
    "VerifyNeurons",
)
QUICK = "store"
"""The one that the default tests execute."""


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", nbformat.NO_CONVERT)


def text(book, kind):
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == kind)


def imports(code):
    """(module, name or None) of everything that code imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_form(name):
    """Valid, without outputs, ready for Colab, with a question, what would have falsified it, and
    its limits.
    """
    book = read(name)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    first = book.cells[0]
    assert first.cell_type == "code"
    assert re.search(
        r'if importlib\.util\.find_spec\("interp"\) is None:\n    %pip install', first.source
    )
    assert first.source == read(NOTEBOOKS[0]).cells[0].source
    said = text(book, "markdown")
    assert re.match(r"# .+\n\n\*\*Question\.\*\* ", said)
    assert re.search(r"\*\*What would falsify [^*]+\*\* ", said)
    assert book.cells[-1].source.rpartition("## What this does not show")[1], (
        "the end says what it does not show"
    )
    assert not re.search(r"/(?:home|root|work|Users|tmp)/", said + text(book, "code"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_compiles_and_imports_what_is_there(name):
    code = TransformerManager().transform_cell(text(read(name), "code"))
    compile(code, f"{name}.ipynb", "exec")
    found = [
        (module, asked) for module, asked in imports(code) if module.partition(".")[0] == "interp"
    ]
    assert found
    for module, asked in found:
        assert asked is None or hasattr(importlib.import_module(module), asked), (
            f"{module} has no {asked}"
        )
    assert set(
        re.findall(r"\binterp ([a-z-]+) (?:[A-Z-]|\w+\.json)", text(read(name), "markdown"))
    ) <= {
        *COMMANDS,
        *GROUPS,
    }


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_and_the_list_in_the_readme(name):
    for target in re.findall(r"\]\(([^)#\s]+)", text(read(name), "markdown")):
        assert "://" in target or (FOLDER / target).exists(), target
    assert f"]({name}.ipynb)" in (FOLDER / "README.md").read_text(encoding="utf-8")


def executed(book, folder):
    """The notebook with its outputs, run by a kernel of its own in an empty folder."""
    with warnings.catch_warnings():
        # jupyter_client tells of its own settings and of sockets that its kernel, ended, leaves to
        # the collector
        warnings.filterwarnings("ignore", module=r"(jupyter_client|nbclient|zmq|tornado)(\.|$)")
        warnings.filterwarnings("ignore", category=ResourceWarning, message="unclosed")
        from nbclient import NotebookClient

        NotebookClient(
            book, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    return book


def require_story(name, book, folder):
    """Figures were drawn, tables shown, nothing complained, nothing left behind."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not complaints, complaints
    kinds = [kind for output in outputs for kind in output.get("data", ())]
    assert "application/vnd.plotly.v1+json" in kinds
    assert "text/html" in kinds
    assert not list(folder.iterdir())


@pytest.fixture
def paths(monkeypatch):
    """A kernel imports what the tests import, and uses no more threads than it was given."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    )
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


@pytest.mark.slow
def test_the_store_notebook_runs(tmp_path, paths):
    book = executed(read(QUICK), tmp_path)
    require_story(QUICK, book, tmp_path)
    said = "".join(
        output.get("text", "") for cell in book.cells for output in cell.get("outputs", ())
    )
    assert "pandas reads what interp wrote: True" in said
    assert "DuckDB counts what interp counts: True" in said
    assert "does not match its digest" in said


def busy():
    """Seconds of a core that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.timeout(4 * SECONDS)
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != QUICK])
def test_runs_top_to_bottom(name, tmp_path, paths):
    if name == "real-pair" and missing:
        pytest.skip(f"the real base cannot be read here: {'; '.join(missing)}")
    before = busy()
    require_story(name, executed(read(name), tmp_path), tmp_path)
    # where cores are shared the clock tells of the others; this is what two free ones give in that
    # time
    assert 0 < busy() - before < CORES * SECONDS


def test_a_notebook_that_fails_is_seen(tmp_path, paths):
    from nbclient.exceptions import CellExecutionError

    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("raise RuntimeError('planted')")]
    )
    with pytest.raises(CellExecutionError, match="planted"):
        executed(book, tmp_path)


def test_every_family_of_analyzers_has_its_notebook():
    code = "\n".join(text(read(name), "code") for name in NOTEBOOKS)
    missing = [name for name in FAMILIES if not re.search(rf"\b{name}(\.of)?\(", code)]
    assert not missing
