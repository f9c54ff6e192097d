"""The laws of the layout, read off the source: who may import whom, and what stays where."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError

from interp.maths.moments import TopK
from interp.maths.statistics import clopper_pearson
from interp.sites import Site
from interp.table import Column
from tests import annotated, host_law

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "interp").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}

# Imports go to an earlier line. A line holds rooms that do not know each other.
LAYOUT = [
    "errors",
    "maths sites permissions kinds",
    "provenance atomic",
    "packaged",
    "organisms",
    "display progress",
    "table prompts",
    "rows",
    "claims models",
    "agreement figures engines testing",
    "store",
    "report capture",
    "interventions",
    "metrics",
    "study sae exploration",
    "experiments studies training",
    "analyzers",
    "replication",
    "reports",
    "cli",
    "__main__ pytest_plugin pytest_entry",
    "__init__",
]
LINE = {room: number for number, rooms in enumerate(LAYOUT) for room in rooms.split()}

STRANGERS = {
    "nnsight": {"engines"},
    "transformers": {"models", "prompts", "training"},
    "peft": {"models", "prompts", "training"},
    "accelerate": {"models"},
    "tokenizers": {"models", "prompts"},
    "huggingface_hub": {"models"},
    "transformer_lens": {"models"},
    "duckdb": {"store"},
    "filelock": {"store"},
    "pydantic": {"provenance", "store", "report"},
    "pyarrow": {"store", "prompts"},  # a prompt file may be Parquet
    "plotly": {"figures", "report"},
    "jinja2": {"report"},
    "typer": {"cli"},
    "yaml": {"metrics"},
    "pytest": {"pytest_plugin"},
}

WITHOUT_TORCH = (
    "interp errors maths.statistics maths.prediction sites kinds rows permissions provenance"
    " atomic packaged organisms display progress table claims store models.sources agreement"
    " figures testing report cli pytest_plugin pytest_entry"
)

MOST_TYPE_ERRORS = 0
"""Known errors of the type checker, in ``.basedpyright/baseline.json``; lowered as they are mended,
never raised.
"""

# (file, method) where a tensor leaves for the host by another door than to_host, and why it may.
OTHER_DOORS = {
    ("interp/maths/host.py", "cpu"): "this is to_host, and in_host_memory",
    ("interp/maths/host.py", "numpy"): "this is to_host",
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Everything a file imports anywhere in it; relative names made absolute, modules of ours as
    far as they exist.
    """
    package = list(path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join(start + ([node.module] if node.module else []))
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found.add(submodule if submodule in MODULES else origin)
    return {"interp.__init__" if name == "interp" else name for name in found}


IMPORTS = {name: imports(path) for name, path in MODULES.items()}
OURS = {
    name: {target for target in targets if target.startswith("interp.")}
    for name, targets in IMPORTS.items()
}


def room(module: str) -> str:
    return module.split(".")[1]


def uses_torch(path: Path) -> bool:
    return any(name.split(".")[0] == "torch" for name in IMPORTS[module_of(path)])


def test_every_room_has_its_line():
    assert {room(name) for name in MODULES} <= set(LINE)


def test_imports_go_to_an_earlier_line():
    wrong = [
        f"{name} imports {target}"
        for name, targets in OURS.items()
        for target in targets
        if room(name) != room(target) and LINE[room(name)] <= LINE[room(target)]
    ]
    assert not wrong


def test_no_cycles():
    cycle = ()
    try:
        TopologicalSorter(OURS).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
    assert not cycle, " imports ".join(cycle)


def test_analyzers_do_not_know_each_other():
    """An analyzer is a file or a folder of ``analyzers``; what they share is in ``framework``
    and in ``experiments``.
    """
    family = {
        name: name.split(".")[2]
        for name in MODULES
        if room(name) == "analyzers" and name.count(".") > 1
    }
    known = {
        (family[name], family[target])
        for name in family
        for target in OURS[name]
        if target in family
    }
    assert not {(one, other) for one, other in known if other not in (one, "framework")}


def test_one_room_per_stranger():
    wrong = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target in targets
        if room(name) not in STRANGERS.get(target.split(".")[0], {room(name)})
    ]
    assert not wrong
    lens = [
        name
        for name, targets in IMPORTS.items()
        if any(t.startswith("transformer_lens") for t in targets)
    ]
    assert set(lens) <= {"interp.models.anatomy"}


def methods(path: Path) -> set[str]:
    """Methods a file calls, less those called directly on what ``to_host`` returned."""
    calls = (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call))
    return {
        call.func.attr
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and not ast.unparse(call.func.value).startswith("to_host(")
    }


def test_torch_hooks_only_in_engines():
    hook = re.compile(r"register_\w*hook")
    assert {
        room(name) for name, path in MODULES.items() if any(map(hook.fullmatch, methods(path)))
    } <= {"engines"}


def names_the_cpu(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.split(":")[0] == "cpu"
    )


def moves_to_the_cpu(tree: ast.AST) -> bool:
    """Whether it calls ``x.to("cpu")``, also by keyword, or makes ``torch.device("cpu")`` to move
    something to.
    """
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    return any(
        names_the_cpu(value)
        for call in calls
        if call.func.attr in ("to", "device")
        for value in (*call.args, *(keyword.value for keyword in call.keywords))
    )


def test_tensors_reach_the_host_through_one_door():
    """By name here; what ``float(t)``, ``if t`` and their like convert is watched in every test:
    ``tests.host_law``.
    """
    doors = {
        (path.relative_to(ROOT).as_posix(), method)
        for path in SOURCES
        if uses_torch(path)
        for method in methods(path) & {"cpu", "numpy", "tolist", "item"}
    }
    assert doors <= set(OTHER_DOORS)
    assert not [path for path in SOURCES if uses_torch(path) and moves_to_the_cpu(TREES[path])]


@pytest.mark.parametrize(
    "call", ['t.to("cpu")', 't.to(device="cpu")', 't.to("cpu:0", copy=True)', 'torch.device("cpu")']
)
def test_a_move_to_the_cpu_is_seen(call):
    assert moves_to_the_cpu(ast.parse(call))
    assert not moves_to_the_cpu(ast.parse(call.replace("cpu", "cuda")))


@pytest.mark.parametrize(
    "code", ["float(t)", "int(t)", "bool(t)", "1 if t else 0", "range(t)", "f'{t:.1f}'", "not t"]
)
def test_a_tensor_that_becomes_a_number_is_seen(code):
    """In code of ours, as its file name says; not elsewhere."""
    value = torch.tensor(2)
    eval(compile(code, host_law.INTERP + "a.py", "eval"), {"t": value})
    assert [line.split()[0] for line in host_law.seen] == ["a.py:1"]
    host_law.seen.clear()
    eval(compile(code, "b.py", "eval"), {"t": value})
    assert not host_law.seen


def test_type_errors_only_become_fewer():
    known = json.loads((ROOT / ".basedpyright" / "baseline.json").read_text())["files"]
    assert sum(map(len, known.values())) <= MOST_TYPE_ERRORS


def test_rooms_below_the_waist_import_no_torch():
    """Imported one after the other in a fresh process, so that the first to bring torch in is
    named.
    """
    rooms = [name if name == "interp" else f"interp.{name}" for name in WITHOUT_TORCH.split()]
    names = [
        m for m in MODULES for r in rooms if m == r or (m.startswith(f"{r}.") and r != "interp")
    ]
    heavy = ["torch", "transformers", "nnsight", "transformer_lens"]
    program = (
        "import sys, importlib\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    brought = [h for h in {heavy!r} if h in sys.modules]\n"
        "    assert not brought, f'{name} imports {brought}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def bound(tree: ast.Module) -> set[str]:
    """Names a module gives to values at its top level; submodules imported under their own name are
    no values.
    """
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                a.asname or a.name for a in node.names if f"{node.module}.{a.name}" not in MODULES
            }
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names |= {leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return names


@pytest.mark.parametrize(
    "package", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda p: p.parent.name
)
def test_no_public_name_is_also_a_submodule(package):
    submodules = {p.stem for p in package.parent.glob("*.py")} | {
        p.parent.name for p in package.parent.glob("*/*.py")
    }
    assert not bound(TREES[package]) & submodules


def test_public_names_are_no_submodules_and_resolve():
    import interp

    assert not set(interp.__all__) & {room(name) for name in MODULES}
    for name in interp.__all__:
        assert getattr(interp, name).__doc__


def test_public_functions_and_classes_have_docstrings():
    bare = [
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in TREES[path].body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert not bare


def test_declared_is_what_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w.-]+", line)[0].lower() for line in project["dependencies"]}
    owners = importlib.metadata.packages_distributions()
    roots = {target.split(".")[0] for targets in IMPORTS.values() for target in targets}
    # Table.to_pandas says how to install pandas; only pytest itself loads what imports pytest
    strangers = roots - {"interp", "pandas", "pytest"} - set(sys.stdlib_module_names)
    assert {owners[name][0].lower().replace("_", "-") for name in strangers} == declared


def test_annotated_shapes_are_executed():
    """``rows`` is one axis in both arguments: three names for four rows must raise, four must not."""
    top = TopK.empty(2, 1)
    top.update(torch.zeros(4, 2), torch.arange(4))
    with pytest.raises(TypeCheckError, match="rows"):
        top.update(torch.zeros(4, 2), torch.arange(3))


def test_annotations_without_shapes_are_executed_too():
    """By another wrapper (``tests/annotated.py``): of functions, methods and the fields of a
    dataclass.
    """
    assert clopper_pearson(3, 3) == pytest.approx((0.2924, 1.0), abs=1e-4)
    with pytest.raises(TypeCheckError, match="successes"):
        clopper_pearson("3", 3)
    with pytest.raises(TypeCheckError, match="name"):
        Column(3, "key", "number of the row")
    with pytest.raises(TypeCheckError, match="name"):
        Site.parse(3)


def test_a_shape_is_seen_wherever_it_stands_in_an_annotation():
    shape = Float[torch.Tensor, "B T"]
    inside = (
        shape,
        list[shape],
        dict[str, tuple[int, shape]],
        shape | None,
        Callable[[int, shape], int],
    )
    assert all(
        map(annotated._has_shape, [*inside, Callable[[int], shape], Annotated[list[shape], "x"]])
    )
    assert not any(
        map(annotated._has_shape, [int, "B T", list[torch.Tensor], Callable[..., int], None, Any])
    )
