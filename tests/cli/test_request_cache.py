"""A command asked again: the same answer without torch, and never an answer to another question."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

import tests.tiny as tiny
from interp.cli import request_cache
from interp.cli.common import RuntimeOptions
from interp.errors import ModelNotFound, OptionError
from interp.models.pair import Pair
from interp.models.sources import find
from interp.store import Store, requests

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--method", "change", "--top", "5", "--random-sets", "1", "--control-prompts", "1"]
HEAVY = ("torch", "transformers", "duckdb", "pyarrow", "plotly", "scipy")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models, prompts and markers, and a store in which one run and its repeat-to-be are kept."""
    from interp.cli import main

    folder = tmp_path_factory.mktemp("made")
    base = tiny.llama(num_hidden_layers=1)
    tiny.save(base, folder / "base")
    tiny.save(tiny.perturbed(base), folder / "tuned")
    both = tiny.contrast(6)
    for name, prompts in (("positive", both.positive), ("negative", both.negative)):
        (folder / f"{name}.txt").write_text("\n".join(prompts.texts) + "\n")
    (folder / "markers.txt").write_text("Sorry\nopen\n")
    assert main(asked(folder)) == 0
    return folder


def asked(folder: Path, *more: str) -> list[str]:
    files = ["--positive", folder / "positive.txt", "--negative", folder / "negative.txt"]
    files += [
        "--markers",
        folder / "markers.txt",
        "--store",
        folder / "store",
        "--base",
        folder / "base",
    ]
    return [str(word) for word in ("locate-neurons", folder / "tuned", *files, *OPTIONS, *more)]


@pytest.fixture
def again(made, tmp_path):
    """A copy of all of it, to be changed; the request is kept under the names that its models have
    there.
    """
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    (only,) = (folder / "store" / ".requests").iterdir()
    record = json.loads(only.read_text())
    only.unlink()
    request = record["request"]
    for role in ("tuned", "base"):
        request["models"][role][0] = str(folder / role)
    requests.remember(folder / "store", request, record["runs"], record["notes"], record["page"])
    return folder


@pytest.fixture
def hit(run, monkeypatch):
    """Whether a command line is answered without its models being loaded."""

    def stop(*_, **__):
        raise OptionError("the models are loaded")

    def call(arguments) -> bool:
        monkeypatch.setattr(Pair, "load", stop)
        code, out, err = run(*arguments)
        monkeypatch.undo()
        assert (code == 0 and "(from the store)" in out) or (
            code == 2 and "the models are loaded" in err
        ), err
        return code == 0

    return call


def fresh(*arguments: str, without: tuple[str, ...] = HEAVY) -> tuple[str, str]:
    """Output and remarks of a command in a process of its own, which may import nothing heavy."""
    program = (
        f"import sys; from interp.cli import main; code = main({list(arguments)!r})\n"
        f"sys.exit(' '.join(name for name in {without} if name in sys.modules) or code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_repeat_says_without_torch_what_the_slow_path_says(made, run):
    text, remarks = fresh(*asked(made))
    record = fresh(*asked(made, "--json"))[0]
    shutil.move(made / "store" / ".requests", made / "elsewhere")
    slow_json, slow_text = run(*asked(made, "--json", "--quiet")), run(*asked(made))
    assert (text, remarks) == slow_text[1:]
    assert "note: " in remarks
    assert record == slow_json[1]
    assert json.loads(record)["cached"]
    shutil.rmtree(made / "store" / ".requests")
    shutil.move(made / "elsewhere", made / "store" / ".requests")


def test_it_is_answered_wherever_the_store_and_the_files_lie(again, hit):
    assert hit(asked(again))
    assert hit(asked(again, "--quiet"))


@pytest.mark.parametrize(
    "more",
    [
        ["--device", "cpu"],
        ["--dtype", "float32"],
        ["--dtype", "bfloat16"],
        ["--seed", "1"],
        ["--batch-size", "4"],
        ["--engine", "nnsight"],
        ["--method", "weight"],
        ["--top", "6"],
        ["--positions", "last"],
        ["--random-sets", "2"],
        ["--control-prompts", "2"],
        ["--max-prompts", "2"],
        ["--no-verify"],
    ],
    ids=" ".join,
)
def test_another_option_is_another_question(again, hit, more):
    assert not hit(asked(again, *more))


def flip(path: Path, at: int = -1) -> None:
    """Change one byte; size and times of modification stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("file", ["tuned/model.safetensors", "base/model.safetensors"])
def test_a_changed_byte_of_the_weights_misses(again, hit, file):
    flip(again / file)
    assert not hit(asked(again))


@pytest.mark.parametrize("file", ["positive.txt", "negative.txt", "markers.txt"])
def test_a_changed_prompt_or_marker_misses(again, hit, file):
    with (again / file).open("a") as stream:
        stream.write("one more\n")
    assert not hit(asked(again))


@pytest.mark.parametrize(
    "file", ["chat_template.jinja", "additional_chat_templates/tool.jinja", "added_tokens.json"]
)
def test_another_file_beside_the_weights_misses(again, hit, file):
    place = again / "tuned" / file
    place.parent.mkdir(exist_ok=True)
    place.write_text("{}")
    assert not hit(asked(again))


def test_a_pickle_that_nothing_reads_does_not_count(again, hit):
    (again / "tuned" / "optimizer.pt").write_bytes(b"0")
    assert hit(asked(again))


def test_another_library_or_device_misses(again, hit, monkeypatch):
    with monkeypatch.context() as patch:
        # a process asks once
        patch.setattr(
            "interp.provenance._versions", lambda libraries: dict.fromkeys(libraries, "0.0.1")
        )
        assert not hit(asked(again))
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "7")
        assert not hit(asked(again))
    (again / "card0").touch()
    monkeypatch.setattr(request_cache, "_DEVICES", (*request_cache._DEVICES, f"{again}/card[0-9]"))
    assert not hit(asked(again))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (
            "analyzers/locate_neurons/analyzer.py",
            "version: ClassVar[int] = ",
            "version: ClassVar[int] = 9",
        ),
        (
            "analyzers/verify_neurons/analyzer.py",
            "version: ClassVar[int] = ",
            "version: ClassVar[int] = 9",
        ),
        ("__init__.py", '__version__ = "', '__version__ = "9'),
        ("report/page.css", "{", " {"),
        ("report/templates/document.html", "<main>", "<main >"),
    ],
)
def test_another_version_of_interp_is_other_software(tmp_path, file, old, new):
    shutil.copytree(
        ROOT / "interp", tmp_path / "interp", ignore=shutil.ignore_patterns("__pycache__", "data")
    )
    program = [
        sys.executable,
        "-c",
        "from interp.provenance import software; print(software()['interp'])",
    ]

    def source() -> str:
        return subprocess.run(
            program,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=True,
        ).stdout

    before = source()
    path = tmp_path / "interp" / file
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    assert path.read_text() != text
    assert source() != before


def runs_of(folder: Path) -> list[Path]:
    (only,) = (folder / "store" / ".requests").iterdir()
    return [folder / "store" / key for key in json.loads(only.read_text())["runs"]]


@pytest.mark.parametrize("index", [0, 1], ids=["located", "verified"])
def test_a_run_that_is_not_what_was_written_does_not_answer(again, hit, index):
    path = runs_of(again)[index]
    flip(path / "tables" / f"{'tokens' if index == 0 else 'claims'}.parquet", 100)
    assert not hit(asked(again))
    shutil.rmtree(path)
    assert not hit(asked(again))


@pytest.mark.parametrize("change", ["{", "[]", "null", "seal", "notes", "schema", "gone"])
def test_a_request_that_is_not_what_was_written_does_not_answer(again, hit, change):
    (path,) = (again / "store" / ".requests").iterdir()
    record = json.loads(path.read_text())
    texts = {
        "seal": json.dumps({name: value for name, value in record.items() if name != "seal"}),
        "notes": json.dumps({**record, "notes": ["other"]}),
        "schema": json.dumps({**record, "schema": 2}),
    }
    path.write_text(texts.get(change, change))
    if change == "gone":
        path.unlink()
    assert not hit(asked(again))


def test_a_damaged_run_is_made_again_and_then_answers(again, run, hit):
    flip(runs_of(again)[0] / "table.parquet", 100)
    code, out, err = run(*asked(again, "--json"))
    assert code == 0, err
    assert not json.loads(out)["cached"]
    assert hit(asked(again))


@pytest.mark.slow
def test_a_page_that_is_gone_or_another_is_made_again_without_torch(again, hit):
    (page,) = runs_of(again)[0].glob("page*.html")
    page.unlink()
    fresh(*asked(again), without=("torch", "transformers"))
    pages = [page.read_bytes()]
    page.write_text("another")
    assert hit(asked(again))
    pages.append(page.read_bytes())
    assert pages[0] == pages[1]
    assert f"<title>What carries it? {again}/tuned</title>".encode() in pages[0]


def test_what_changed_while_it_ran_is_not_kept(again):
    common = RuntimeOptions(store=again / "new")
    request = request_cache.Request(
        "locate-neurons", {"tuned": str(again / "tuned"), "base": None}, {}, {}, common
    )
    before = request.describe()
    (page,) = runs_of(again)[0].glob("page*.html")
    flip(again / "tuned" / "model.safetensors")
    request.remember(before, ["0" * 20], [], page)
    assert not (again / "new").exists()
    request.remember(request.describe(), ["0" * 20], [], page)
    assert requests.has_requests(again / "new")
    assert request.recall() is None  # there is no such run
    remote = dataclasses.replace(request, common=RuntimeOptions(store=again / "new", remote=True))
    assert remote.describe() is None


def test_an_adapter_is_described_with_the_base_it_names(made, tmp_path):
    base = shutil.copytree(made / "base", tmp_path / "base")
    tiny.lora("llama", tiny.llama(num_hidden_layers=1), tmp_path / "adapter", base)
    request = request_cache.Request(
        "c", {"tuned": str(tmp_path / "adapter"), "base": None}, {}, {}, RuntimeOptions()
    )
    before = request.describe()
    assert set(before["models"]["base"][1]) >= {"config.json", "model.safetensors"}
    flip(base / "model.safetensors")
    assert request.describe() != before


def test_a_hub_id_is_known_by_its_commit_or_where_no_one_is_asked(made, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--some--model"
    shutil.copytree(made / "base", folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find("some/model", ask_hub=False).directory.name == commit
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert find(f"some/model@{commit}", ask_hub=False).directory.name == commit
    for moving in ("some/model", "some/model@main", f"some/other@{commit}"):
        with pytest.raises(ModelNotFound):
            find(moving, ask_hub=False)
    request = request_cache.Request(
        "c", {"tuned": "some/model", "base": None}, {}, {}, RuntimeOptions()
    )
    assert request.describe() is None


def test_the_store_lists_requests_as_nothing_else(made):
    store = Store(made / "store")
    assert len(store.runs()) == 2
    assert store.problems() == []
