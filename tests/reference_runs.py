"""Keep what every analyzer and every command gives, and compare it with what another version of the
code gives.

::

    python -m tests.reference_runs write DIR
    python -m tests.reference_runs compare OLD NEW [--numbers-only] [--names FILE.json]

``write`` makes small seeded runs, one after the other on the CPU, and writes one JSON file for each
into the new folder ``DIR``: ``analyzers/NAME.json`` for analyzers on the tiny models of the tests,
``commands/NAME.json`` for commands on the shipped organisms, in one temporary store. A file has
every table and sub-table of the run (columns with role, meaning, unit, type and values; summary),
and for a command its words, exit code, stdout and stderr, and the text it prints without
``--json``. Paths, times, digests and keys of runs are replaced by placeholders. A run that fails is
kept as its error, and the others are made all the same. ``DIR/about.json`` has the commit, versions
and the seconds of each run; it is not compared.

``compare`` prints what differs, run by run: tables, columns and rows that appeared or vanished, in
how many cells of a column the values differ by more than 1e-9 (relative above 1) and the largest
difference, and fields of summaries and of stdout. It exits with 1 when anything differs.
``--numbers-only`` leaves out wording: meanings, units, sentences, stderr and columns of text.

pytest does not collect this file. What it takes from the tests is taken in ``Fixtures`` alone.
"""

import argparse
import contextlib
import functools
import inspect
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-9
LIMIT_S = 600  # of one run, so that one that hangs is an error like any other

# ---------------------------------------------------------------------------------------------- volatile values

KEY = re.compile(r"(?<![0-9A-Za-z.])[0-9a-f]{8,64}(?![0-9A-Za-z])")
"""A digest, or the beginning of one as far as commands print it."""
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?")
DURATION = re.compile(r"\b\d+(\.\d+)? (ms|s|seconds)\b")
VOLATILE = {"seconds", "written"}
"""Fields of JSON objects that tell of the machine and the moment."""


class Placeholders:
    """Replaces what differs between two runs of the same code.

    ``runs`` has a name for the key of every stored run. Names, unlike numbers, stay when another
    run is added.
    """

    def __init__(self, temporary: Path, runs: Mapping[str, str]) -> None:
        self.paths = {str(temporary): "<temporary>", str(ROOT): "<source>"}
        self.runs = runs

    def text(self, value: str) -> str:
        for path, name in self.paths.items():
            value = value.replace(path, name)
        value = DURATION.sub("<duration>", TIME.sub("<time>", value))
        # the commit of a checkout says whether it has changes
        return KEY.sub(lambda found: self._name(found[0]), value).replace(
            "<digest>+changes", "<digest>"
        )

    def _name(self, key: str) -> str:
        """The name of the run whose key begins so; another digest is only told to be one."""
        if named := [name for whole, name in self.runs.items() if whole.startswith(key)]:
            return f"<{named[0]}>"
        return key if len(key) < 16 and key.isdecimal() else "<digest>"

    def json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): "<volatile>" if name in VOLATILE else self.json(item)
                for name, item in value.items()
            }
        return [self.json(item) for item in value] if isinstance(value, (list, tuple)) else value


def table_record(table: Any) -> dict[str, Any]:
    """A table as JSON: columns with their values, summary, larger arrays by their sums, sub-tables."""
    from interp.table import dtype_name

    columns = [
        {
            "name": column.name,
            "role": column.role,
            "meaning": column.meaning,
            "unit": column.unit,
            "dtype": dtype_name(table[column.name]),
            "values": table[column.name].tolist(),
        }
        for column in table.columns
    ]
    arrays = {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sum": float(array.astype("float64").sum()),
            "squares": float((array.astype("float64") ** 2).sum()),
        }
        for name, array in table.arrays.items()
    }
    record = {
        "kind": table.kind,
        "columns": columns,
        "summary": dict(table.summary),
        "arrays": arrays,
    }
    return record | {"tables": {name: table_record(part) for name, part in table.tables.items()}}


# ---------------------------------------------------------------------------------------------- analyzers


class Fixtures:
    """What is taken from the tests: small models, studies and analyzers, each made when it is first
    needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._open = folder, []

    def _value(self, fixture: Any, *arguments: Any) -> Any:
        """What a pytest fixture gives; one that yields stays open."""
        made = inspect.unwrap(fixture)(*arguments)
        if inspect.isgenerator(made):
            self._open.append(made)
            return next(made)
        return made

    @functools.cached_property
    def contract(self) -> Any:
        return import_module("tests.analyzers.test_contract_analyzers")

    @functools.cached_property
    def modules(self) -> Any:
        return self._value(self.contract.modules, "llama")

    @functools.cached_property
    def study(self) -> Any:
        return self.contract.fresh(self.modules)

    def of_contract(self, name: str) -> Any:
        return self.contract.analyzer(name, self.study)(self.study)

    @functools.cached_property
    def of_weights(self) -> tuple[Any, Any]:
        """The module of the planted intruder, and its pair on disk."""
        tests = import_module("tests.planted_intruders")
        return tests, tests.planted(self.folder)

    def intruders(self) -> Any:
        tests, (base, child, _) = self.of_weights
        return tests.examine(child, base, analyzer=tests.Intruders(top_k=1))

    def intruder_scaling(self) -> Any:
        tests = import_module("tests.analyzers.test_intruder_scaling")
        return self._value(tests.scaled, self.of_weights[1])[1]

    def dictionary_diff(self) -> Any:
        """Of what is planted, beside a control."""
        tests = import_module("tests.analyzers.test_sae_diff")
        control = tests.analyzer()(tests.study(tests.tune(0.0)))
        return tests.analyzer(controls=(control,))(tests.study())

    @functools.cached_property
    def judging(self) -> tuple[Any, Any]:
        """The module that tests ``dictionary_eval``, and its pair."""
        tests = import_module("tests.sae.test_sae_eval")
        return tests, self._value(tests.pair, self._value(tests.modules))

    def dictionary_eval(self, kind: str) -> Any:
        tests, pair = self.judging
        return tests.analyzer_of(tests.dictionary_of(kind), kind)(tests.study_of(pair))

    def dictionary_features(self) -> Any:
        tests = import_module("tests.analyzers.test_sae_features")
        model = self._value(tests.model)
        dictionary = self._value(tests.dictionary, model, self._value(tests.lists, model))
        return self._value(tests.found, model, dictionary)

    def dictionary_probe(self) -> Any:
        tests = import_module("tests.analyzers.test_sae_probe")
        pair = self._value(tests.pair)
        return self._value(tests.found, pair, self._value(tests.planted, pair))


EVALUATED = ("crosscoder", "difference", "transcoder", "skip")


def analyzers(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of the runs of analyzers, and what makes the table of each."""
    fixtures = Fixtures(folder)
    try:
        names = list(fixtures.contract.ANALYZERS)
    except Exception as error:
        # without its names nothing of the contract can be run: the failure is kept in their place
        failure = error

        def fail() -> Any:
            raise failure

        yield "contract", fail
        names = []
    for name in names:
        yield name, functools.partial(fixtures.of_contract, name)
    yield "intruders", fixtures.intruders
    yield "intruder-scaling", fixtures.intruder_scaling
    yield "sae-diff control", fixtures.dictionary_diff
    for kind in EVALUATED:
        yield f"sae-eval {kind}", functools.partial(fixtures.dictionary_eval, kind)
    yield "sae-features", fixtures.dictionary_features
    yield "sae-probe", fixtures.dictionary_probe


# ---------------------------------------------------------------------------------------------- commands

MODEL = ("--batch-size", "8", "--device", "cpu", "--dtype", "float32")
BASE = ("--base", "organism:refusal/base")
PLANTED = ("organism:refusal/planted", *BASE)
DISTRACTED = ("organism:refusal/distracted", *BASE)  # it also learned the task "colours"
SITE = ("--site", "blocks.2.hook_resid_post")


class Commands:
    """Commands one after the other in one store; later ones name the runs of earlier ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.made: dict[str, str] = {}
        self.names: dict[str, str] = {}

    def key(self, name: str) -> str:
        """Key of the run that an earlier command made."""
        if name not in self.made:
            raise RuntimeError(f"`{name}` left no run to build on")
        return self.made[name]

    def named(self) -> Iterator[tuple[str, Callable[[], Sequence[Any]], bool]]:
        """A name for each command, its words, and whether it is given a second time, without
        ``--json``.
        """
        from interp import organisms

        def file(family: str, split: str, group: str) -> Path:
            return organisms.prompts(family, split, group)

        harmful, harmless = (file("refusal", "locate", group) for group in ("harmful", "harmless"))
        fresh = [file("refusal", "style", group) for group in ("harmful", "harmless")]
        text, colours = file("refusal", "text", "text"), file("refusal", "task", "colours")
        first, second = (file("skill", "task", name) for name in ("first", "second"))
        classes = ("--positive", harmful, "--negative", harmless)
        few, twelve, many = ("--max-prompts", "6"), ("--max-prompts", "12"), ("--max-prompts", "24")
        located = (*PLANTED, *classes, *twelve, "--top", "30", *MODEL)
        verified = ("--random-sets", "19", "--control-prompts", "4")
        key, folder = self.key, self.folder

        yield "locate-neurons", lambda: ["locate-neurons", *located, *verified], True
        yield "locate-neurons no-verify", lambda: ["locate-neurons", *located, "--no-verify"], True
        yield (
            "locate-neurons checks",
            lambda: ["locate-neurons", *located, *verified, "--checks", "all"],
            True,
        )
        yield (
            "locate-neurons head",
            lambda: [
                "locate-neurons",
                *located,
                *verified,
                "--unit",
                "head",
                "--top",
                "4",
                "--method",
                "cross",
            ],
            True,
        )
        yield (
            "locate-neurons task",
            lambda: [
                "locate-neurons",
                *DISTRACTED,
                "--task",
                colours,
                "--negative",
                harmless,
                *twelve,
                *verified,
                "--top",
                "20",
                *MODEL,
            ],
            True,
        )
        yield (
            "locate-neurons no-base",
            lambda: [
                "locate-neurons",
                "organism:refusal/planted",
                *classes,
                *twelve,
                *verified,
                *MODEL,
            ],
            True,
        )
        yield (
            "transfer",
            lambda: [
                "transfer",
                key("locate-neurons"),
                "organism:refusal/full",
                *BASE,
                *classes,
                *twelve,
                *verified,
                *MODEL,
            ],
            True,
        )
        yield (
            "dissociate",
            lambda: [
                "dissociate",
                *DISTRACTED,
                *classes,
                "--other-task",
                colours,
                *twelve,
                "--top",
                "30",
                *verified,
                *MODEL,
            ],
            True,
        )
        compared = ("compare", *PLANTED, *classes, *twelve, "--cka-tokens", "64", *MODEL)
        yield "compare", lambda: compared, True
        yield "compare control", lambda: [*compared, "--control", "organism:refusal/sham"], True
        yield (
            "compare prompts",
            lambda: ["compare", *PLANTED, "--prompts", harmful, *few, *MODEL],
            True,
        )
        short = ("--sizes", "15,30", "--random-sets", "3", "--steps", "1,2", "--batch", "2")
        yield "wrapped", lambda: ["wrapped", *PLANTED, *classes, *twelve, *short, *MODEL], True
        yield "tuco", lambda: ["tuco", *PLANTED, *classes, *twelve, *MODEL], True
        yield (
            "tuco control alpha",
            lambda: [
                "tuco",
                *PLANTED,
                *classes,
                *few,
                "--control",
                "organism:refusal/sham",
                "--alpha",
                "0,1,1.5",
                "--generations",
                "4",
                "--keep-answers",
                *MODEL,
            ],
            True,
        )
        yield (
            "tuco by-answer",
            lambda: [
                "tuco",
                "organism:refusal/partial",
                *BASE,
                "--prompts",
                harmful,
                *many,
                "--by-answer",
                "--generations",
                "8",
                *MODEL,
            ],
            True,
        )
        yield "intruders", lambda: ["intruders", *PLANTED, *MODEL], True
        yield (
            "intruders scale",
            lambda: [
                "intruders",
                "organism:skill/lora-8-fast",
                *BASE,
                "--eps",
                "0.8",
                "--scale",
                "0,0.5,1",
                "--task",
                first,
                "--text",
                text,
                *few,
                *MODEL,
            ],
            True,
        )
        skill = (*BASE, *few, *MODEL)
        yield (
            "graft",
            lambda: [
                "graft",
                "organism:skill/full",
                "--task",
                first,
                "--negative",
                text,
                "--steps",
                "2",
                "--relaxed-steps",
                "1",
                "--draws",
                "2",
                "--sweep",
                "1%,10%",
                *skill,
            ],
            True,
        )
        yield (
            "graft beside",
            lambda: [
                "graft",
                "organism:skill/second",
                "--task",
                second,
                "--compare-with",
                key("graft"),
                "--steps",
                "2",
                "--relaxed-steps",
                "0",
                "--draws",
                "2",
                "--sweep",
                "10%",
                *skill,
            ],
            True,
        )
        tasks = (
            "organism:skill/full",
            "organism:skill/second",
            "--task",
            first,
            "--task",
            second,
            "--draws",
            "2",
        )
        yield "stitch", lambda: ["stitch", *tasks, "--negative", text, *skill], True
        yield (
            "stitch mask",
            lambda: [
                "stitch",
                *tasks,
                "--mask",
                key("graft"),
                "--mask",
                key("graft beside"),
                *skill,
            ],
            True,
        )

        def train(model: str, out: str, *more: Any) -> list[Any]:
            return [
                "sae",
                "train",
                model,
                *BASE,
                *SITE,
                "--data",
                text,
                "--out",
                folder / out,
                "--width",
                "48",
                "-k",
                "4",
                "--batch",
                "128",
                "--tokens",
                "4k",
                "--device",
                "cpu",
                *more,
            ]

        full, read = "organism:refusal/full", ("--model", "organism:refusal/full")
        yield "sae train", lambda: train(full, "tuned"), False
        yield (
            "sae train both",
            lambda: train(full, "both", "--model-role", "both", "--architecture", "batchtopk"),
            False,
        )
        yield (
            "sae train control",
            lambda: train(
                "organism:refusal/sham",
                "control",
                "--model-role",
                "both",
                "--architecture",
                "batchtopk",
                "--seed",
                "1",
            ),
            False,
        )
        yield (
            "sae eval",
            lambda: ["sae", "eval", folder / "tuned", *read, "--data", harmful, *few, *MODEL],
            True,
        )
        yield (
            "sae eval both",
            lambda: [
                "sae",
                "eval",
                folder / "both",
                *read,
                *BASE,
                "--data",
                harmful,
                *few,
                *MODEL,
            ],
            True,
        )
        diff = (
            "sae",
            "diff",
            folder / "both",
            *read,
            *BASE,
            "--data",
            harmful,
            "--max-prompts",
            "48",
            *MODEL,
        )
        yield "sae diff", lambda: [*diff, "--draws", "99"], True
        yield (
            "sae diff control",
            lambda: [
                *diff,
                "--draws",
                "99",
                "--control",
                "organism:refusal/sham",
                "--control-dictionary",
                folder / "control",
            ],
            True,
        )
        yield (
            "sae features",
            lambda: [
                "sae",
                "features",
                folder / "tuned",
                *read,
                *BASE,
                "--data",
                harmful,
                *many,
                "--top",
                "5",
                "--by",
                "gain",
                "--shift",
                "2",
                "--draws",
                "19",
                *MODEL,
            ],
            True,
        )
        yield (
            "sae probe",
            lambda: [
                "sae",
                "probe",
                folder / "tuned",
                *read,
                *BASE,
                *classes,
                "--max-prompts",
                "16",
                "-k",
                "1,2",
                "--latents",
                "3,4",
                *verified,
                "--permutations",
                "19",
                *MODEL,
            ],
            True,
        )
        yield (
            "sae convert",
            lambda: ["sae", "convert", folder / "tuned", folder / "saelens", "--to", "saelens"],
            False,
        )
        several = ("locate-neurons", "compare", "tuco", "intruders", "graft")
        yield (
            "agree",
            lambda: ["agree", *(key(name) for name in several[:4]), "--draws", "99"],
            True,
        )
        yield (
            "report",
            lambda: [
                "report",
                *(key(name) for name in (*several, "transfer", "sae diff control")),
                "--out",
                folder / "report.html",
                "--draws",
                "99",
                "--title",
                "reference",
            ],
            True,
        )
        yield "report small", lambda: ["report", key("tuco"), "--out", folder / "small.html"], False
        yield "verify", lambda: ["verify", folder / "report.json"], True
        yield "verify remeasure", lambda: ["verify", folder / "small.json", "--remeasure"], False
        yield (
            "verify prompts",
            lambda: [
                "verify",
                folder / "small.json",
                "--prompts",
                fresh[0],
                "--prompts",
                fresh[1],
            ],
            False,
        )
        yield "ls", lambda: ["ls"], True
        yield "show", lambda: ["show", key("locate-neurons")], True
        yield "show compare", lambda: ["show", key("compare")], True
        yield "show table", lambda: ["show", key("tuco"), "--table", "claims"], True
        yield "sql", lambda: ["sql", "select name, value, p from tuco_claims order by all"], True
        yield (
            "sql runs",
            lambda: ["sql", "select kind, count(*) as runs from runs group by kind order by kind"],
            True,
        )
        yield "organisms", lambda: ["organisms"], True
        yield "doctor", lambda: ["doctor"], True
        yield "demo", lambda: ["demo", *MODEL], True

    def run(self, name: str, words: Sequence[Any], again: bool) -> dict[str, Any]:
        """Give a command with ``--json``, and again without; what it said, and the tables of the
        runs it made.
        """
        from interp.store import Store

        own = "--store" if words[0] != "verify" else ""  # a report says where its store is
        words = [str(word) for word in words] + ([own, str(self.store)] if own else [])
        before = self._runs()
        code, out, err = called([*words, "--json"])
        with contextlib.suppress(ValueError):
            out = json.loads(out)
        if code == 0 and isinstance(out, dict) and isinstance(out.get("run"), str):
            self.made[name] = out["run"]
        record: dict[str, Any] = {"words": words, "exit": code, "stdout": out, "stderr": err}
        new = sorted(set(self._runs()) - set(before), key=lambda key: (self._runs()[key], key))
        if again:
            code, out, err = called(words)
            record["again"] = {"exit": code, "stdout": out, "stderr": err}
        if name.startswith("report"):
            page = Path(words[words.index("--out") + 1]).with_suffix(".json")
            record["report"] = self._report(page) if page.is_file() else None
        tables: dict[str, Any] = {}
        for key in new:
            table = Store(self.store).get(key)
            same = sum(label.partition(" ")[0] == table.kind for label in tables)
            label = table.kind + (f" {same + 1}" if same else "")
            tables[label], self.names[key] = table_record(table), f"run of {name}: {label}"
        return record | {"tables": tables}

    def _report(self, path: Path) -> Any:
        """The JSON file of a report, without the list of each run's files: their tables are kept."""
        value = json.loads(path.read_text("utf-8"))
        return value | {
            "runs": [
                {k: v for k, v in run.items() if k != "files"} for run in value.get("runs", [])
            ]
        }

    def _runs(self) -> dict[str, int]:
        """Keys of all runs, with the moment each was written."""
        return {
            path.parent.name: path.stat().st_mtime_ns for path in self.store.glob("*/manifest.json")
        }


def called(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``interp WORDS``, in this process."""
    from interp.cli import main

    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            code = main(list(words))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return code, out.getvalue(), err.getvalue()


# ---------------------------------------------------------------------------------------------- write


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def write(folder: Path) -> int:
    """Make all runs and keep each as a file in ``folder``; 2 when it has files already."""
    if folder.exists() and any(folder.iterdir()):
        print(f"{folder} is not empty: name a new folder", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="interp-reference-") as root:
        temporary = Path(root).resolve()
        # before torch is imported: one thread, so that sums are taken in one order
        os.environ.update(
            OMP_NUM_THREADS="1",
            HF_HUB_OFFLINE="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            TOKENIZERS_PARALLELISM="false",
            HF_HOME=str(temporary / "hub"),
            INTERP_CACHE=str(temporary / "cache"),
            COLUMNS="120",
        )
        seconds: dict[str, float] = {}
        (temporary / "weights").mkdir()
        for name, make in analyzers(temporary / "weights"):
            _keep(
                folder,
                "analyzers",
                name,
                lambda make=make: _tables_of(make()),
                Placeholders(temporary, {}),
                seconds,
            )
        commands = Commands(temporary)
        for name, words, again in commands.named():
            _keep(
                folder,
                "commands",
                name,
                lambda name=name, words=words, again=again: commands.run(name, words(), again),
                Placeholders(temporary, commands.names),
                seconds,
            )
        about = {"commit": _commit(), "python": sys.version, "seconds": seconds}
        about |= {
            name: metadata.version(name)
            for name in ("torch", "transformers", "numpy", "scipy", "scikit-learn")
        }
        (folder / "about.json").write_text(json.dumps(about, indent=1))
    return 0


def _tables_of(table: Any) -> dict[str, Any]:
    return {"tables": {table.kind: table_record(table)}}


def _keep(
    folder: Path,
    group: str,
    name: str,
    make: Callable[[], Any],
    places: Placeholders,
    seconds: dict,
) -> None:
    start = time.perf_counter()
    try:
        with limited(LIMIT_S):
            record = make()
    except Exception as error:
        record = {
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc().splitlines(),
        }
    took = seconds[f"{group}/{name}"] = round(time.perf_counter() - start, 2)
    path = folder / group / f"{name.replace(' ', '_')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(places.json(record), ensure_ascii=False, indent=1), "utf-8")
    state = (
        record["error"]
        if "error" in record
        else f"exit {record['exit']}"
        if record.get("exit")
        else ""
    )
    print(f"{took:7.1f} s  {group}/{name}  {state}".rstrip(), flush=True)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


# ---------------------------------------------------------------------------------------------- compare


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value whose keys and texts that are old names are the new ones."""
    if isinstance(value, Mapping):
        return {names.get(name, name): renamed(item, names) for name, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def compare(old: Path, new: Path, numbers_only: bool, renames: Mapping[str, str]) -> int:
    """Print what differs between two folders; 0 when nothing does, 1 when something does, 2 when
    one is not such a folder. ``renames``: new names by old ones, of runs, tables, columns, fields.
    """
    for folder in (old, new):
        if not any(folder.glob("*/*.json")):
            print(f"{folder} has no runs: name what `write` wrote", file=sys.stderr)
            return 2
    paths = [
        {_name_of(path, folder, names): path for path in folder.glob("*/*.json")}
        for folder, names in ((old, renames), (new, {}))
    ]
    names = [set(side) for side in paths]
    differing = 0
    for name in sorted(names[0] | names[1]):
        if name not in names[0] or name not in names[1]:
            lines = ["the run appeared" if name in names[1] else "the run vanished"]
        else:
            records = [json.loads(side[name].read_text("utf-8")) for side in paths]
            lines = run_differences(renamed(records[0], renames), records[1], numbers_only)
        if lines:
            differing += 1
            print("\n  ".join([name, *lines]))
    print(f"{differing} of {len(names[0] | names[1])} runs differ")
    return int(bool(differing))


def _name_of(path: Path, folder: Path, renames: Mapping[str, str]) -> str:
    """A run by its folder and its name, as it is called now."""
    return f"{path.relative_to(folder).parent}/{renames.get(path.stem, path.stem)}.json"


def run_differences(old: Mapping, new: Mapping, numbers_only: bool) -> list[str]:
    """Lines that say what differs between two records of one run."""
    if "error" in old or "error" in new:
        errors = [record.get("error", "no error") for record in (old, new)]
        return (
            [] if errors[0] == errors[1] else [f"error: {_short(errors[0])} -> {_short(errors[1])}"]
        )
    lines = []
    for part in sorted((old.keys() | new.keys()) - {"tables"}):
        lines += fields_differ(part, old.get(part), new.get(part), numbers_only)
    tables = [dict(_all_tables(record["tables"])) for record in (old, new)]
    for name in dict.fromkeys([*tables[0], *tables[1]]):
        if name not in tables[0] or name not in tables[1]:
            lines.append(f"table {name}: {'appeared' if name in tables[1] else 'vanished'}")
        else:
            found = table_differences(tables[0][name], tables[1][name], numbers_only)
            lines += [f"table {name}: {line}" for line in found]
    return lines


def _all_tables(tables: Mapping, under: str = "") -> Iterator[tuple[str, Mapping]]:
    for name, table in tables.items():
        yield under + name, table
        yield from _all_tables(table["tables"], f"{under}{name}/")


def table_differences(old: Mapping, new: Mapping, numbers_only: bool) -> list[str]:
    """Lines that say what differs between two tables: columns, rows, cells, arrays, summary."""
    lines = [] if old["kind"] == new["kind"] else [f"kind: {old['kind']} -> {new['kind']}"]
    columns = [{column["name"]: column for column in table["columns"]} for table in (old, new)]
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        if name not in columns[0] or name not in columns[1]:
            lines.append(f"column {name} {'appeared' if name in columns[1] else 'vanished'}")
    both = [name for name in columns[0] if name in columns[1]]
    if both != [name for name in columns[1] if name in columns[0]]:
        lines.append("columns are in another order")
    counts = [len(table["columns"][0]["values"]) if table["columns"] else 0 for table in (old, new)]
    pairs, said = _matched(columns, both, counts)
    lines += said
    for name in both:
        one, other = columns[0][name], columns[1][name]
        for about in ("role", "dtype", *(() if numbers_only else ("meaning", "unit"))):
            if one[about] != other[about]:
                lines.append(
                    f"column {name}: {about} {_short(one[about])} -> {_short(other[about])}"
                )
        if numbers_only and one["dtype"] == other["dtype"] == "str":
            continue
        cells = [(one["values"][i], other["values"][j]) for i, j in pairs]
        differ = [(a, b) for a, b in cells if not same(a, b)]
        if differ:
            lines.append(
                f"column {name}: {len(differ)} of {len(cells)} cells differ{_largest(differ)}"
            )
    lines += fields_differ("arrays", old["arrays"], new["arrays"], numbers_only)
    return lines + fields_differ("summary", old["summary"], new["summary"], numbers_only)


def _matched(
    columns: Sequence[Mapping], both: Sequence[str], counts: Sequence[int]
) -> tuple[list, list[str]]:
    """Pairs of row numbers of the same row, and lines on rows without one: by their keys where
    these are unique.
    """
    keys = [name for name in both if columns[0][name]["role"] == columns[1][name]["role"] == "key"]
    rows = [list(zip(*(side[name]["values"] for name in keys), strict=True)) for side in columns]
    if keys and all(len(set(side)) == count for side, count in zip(rows, counts, strict=True)):
        places = {key: at for at, key in enumerate(rows[1])}
        pairs = [(at, places[key]) for at, key in enumerate(rows[0]) if key in places]
        lines = []
        for what, side, others in (
            ("vanished", rows[0], places),
            ("appeared", rows[1], set(rows[0])),
        ):
            if lone := [key for key in side if key not in others]:
                lines.append(f"{len(lone)} of {len(side)} rows {what}: {_short(lone[:3])}")
        if [at for _, at in pairs] != sorted(at for _, at in pairs):
            lines.append("rows are in another order")
        return pairs, lines
    lines = (
        []
        if counts[0] == counts[1]
        else [f"rows: {counts[0]} -> {counts[1]}; the first are compared"]
    )
    return [(at, at) for at in range(min(counts))], lines


def _largest(differ: Sequence[tuple]) -> str:
    sizes = [
        (abs(a - b), a, b)
        for a, b in differ
        if _is_number(a) and _is_number(b) and math.isfinite(a - b)
    ]
    if sizes:
        size, a, b = max(sizes)
        return f", by {size:.3g} at most ({a!r} -> {b!r})"
    return f", the first {_changed(*differ[0])}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(one: Any, other: Any) -> bool:
    """Equal values; numbers within ``TOLERANCE``, NaN like NaN."""
    if _is_number(one) and _is_number(other):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other or abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))
    return type(one) is type(other) and one == other


def fields_differ(name: str, old: Any, new: Any, numbers_only: bool) -> list[str]:
    """Lines on the fields of two JSON values that differ, appeared or vanished."""
    leaves = [dict(_leaves(name, value)) for value in (old, new)]
    lines = []
    for path in dict.fromkeys([*leaves[0], *leaves[1]]):
        values = [side[path] for side in leaves if path in side]
        if len(values) == 1:
            lines.append(
                f"{path} {'vanished' if path in leaves[0] else 'appeared'}: {_short(values[0])}"
            )
        elif not same(*values) and not (
            numbers_only and all(isinstance(value, str) for value in values)
        ):
            by = (
                _largest([tuple(values)])
                if all(map(_is_number, values))
                else f", {_changed(*values)}"
            )
            lines.append(f"{path} differs{by}")
    return lines


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Paths and values of everything in a JSON value that is no object or list, and of empty ones."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}", item)
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from _leaves(f"{path}[{at}]", item)
    else:
        yield path, str(value) if isinstance(value, (Mapping, list)) else value


def _changed(one: Any, other: Any) -> str:
    """Both values; of long texts what begins a little before they part."""
    if isinstance(one, str) and isinstance(other, str):
        shorter = min(len(one), len(other))
        at = max(0, next((at for at in range(shorter) if one[at] != other[at]), shorter) - 20)
        return (
            f"{'...' if at else ''}{_short(one[at:])} -> {'...' if at else ''}{_short(other[at:])}"
        )
    return f"{_short(one)} -> {_short(other)}"


def _short(value: Any, width: int = 90) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reference_runs", description=__doc__.splitlines()[0]
    )
    actions = parser.add_subparsers(dest="action", required=True)
    writing = actions.add_parser("write", help="make all runs and keep them in a new folder")
    writing.add_argument("folder", type=Path, metavar="DIR")
    comparing = actions.add_parser("compare", help="say what differs between two such folders")
    comparing.add_argument("old", type=Path, metavar="OLD")
    comparing.add_argument("new", type=Path, metavar="NEW")
    comparing.add_argument("--numbers-only", action="store_true", help="leave out wording")
    comparing.add_argument(
        "--names", type=Path, metavar="FILE.json", help="new names by old ones, where some changed"
    )
    chosen = parser.parse_args(arguments)
    if chosen.action == "write":
        return write(chosen.folder.resolve())
    renames = {} if chosen.names is None else json.loads(chosen.names.read_text("utf-8"))
    return compare(chosen.old, chosen.new, chosen.numbers_only, renames)


if __name__ == "__main__":
    sys.exit(main())
