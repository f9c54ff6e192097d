"""The pytest plugin: the claims of reports as tests, and fixtures for suites that audit models.

With ``pytest --interp-report report.json`` every check of a report is a test;
``--interp-remeasure`` also runs the commands that made it again, and ``--interp-prompts`` measures
its claims on fresh prompts. Modules that are slow to import are imported where they are used.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from interp.errors import InterpError

if TYPE_CHECKING:
    from interp.models.pair import Pair
    from interp.store import Store
    from interp.study import Study

TOLERANCE = 1e-6
_REPORTS = pytest.StashKey[dict[Path, Any]]()
_REMEASUREMENT = pytest.StashKey[Any]()
_REPLACES_TESTPATHS = pytest.StashKey[bool]()
MARK = "interp_report"
_FOLDER = "interp_again"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin; all begin with ``--interp``."""
    group = parser.getgroup("interp", "interp: check claims about models")
    group.addoption(
        "--interp-report",
        action="append",
        default=[],
        metavar="FILE",
        help=("check every claim of this report.json against its stored tables (repeatable)"),
    )
    group.addoption(
        "--interp-store",
        metavar="DIR",
        help="the store of the report's runs, and of the fixture interp_store",
    )
    group.addoption(
        "--interp-remeasure",
        action="store_true",
        help="also run the commands that made the report again, and compare the results",
    )
    group.addoption(
        "--interp-tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help=("tolerance for numbers measured again: relative, absolute below 1 (default 1e-6)"),
    )
    group.addoption(
        "--interp-prompts",
        action="append",
        default=[],
        metavar="FILE",
        help=(
            "also measure the claims on fresh prompts; twice: positive prompts, then negative ones"
        ),
    )
    group.addoption(
        "--interp-bless",
        action="store_true",
        help="write the reference tables of the fixture blessed anew",
    )
    parser.addini("interp_store", "directory of the fixture interp_store, relative to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Read the reports; an invalid one ends the session in one line, before tests are collected."""
    config.addinivalue_line("markers", f"{MARK}: the checks of a report, from --interp-report")
    # a worker of pytest-xdist parses its options twice, which doubles lists
    report_files = list(dict.fromkeys(Path(name) for name in _option(config, "interp_report")))
    prompts = list(dict.fromkeys(_option(config, "interp_prompts")))
    config.option.interp_prompts = prompts
    if not report_files:
        for option in ("interp_remeasure", "interp_prompts"):
            if _option(config, option):
                raise pytest.UsageError(f"--{option.replace('_', '-')} needs --interp-report FILE")
        return
    if not 0 <= _option(config, "interp_tolerance") < float("inf"):
        raise pytest.UsageError(
            f"--interp-tolerance {_option(config, 'interp_tolerance')} is not a tolerance; use 1e-6"
        )
    start = config.invocation_params.dir
    config.stash[_REPORTS] = {
        path: _read(config, path) for path in ((start / name).resolve() for name in report_files)
    }
    _add_paths(config, [*config.stash[_REPORTS]])
    if _option(config, "interp_remeasure") or prompts:
        config.stash[_REMEASUREMENT] = _remeasurement(
            config, [str(start / path) for path in prompts]
        )


def _add_paths(config: pytest.Config, reports: Sequence[Path]) -> None:
    """Collect the reports; without the project's tests if the command line has the option and no
    path.

    If the option comes from ``addopts``, the project's tests are collected as usual.
    """
    start, paths = config.invocation_params.dir, [*config.args]
    on_command_line = any(
        str(argument).startswith("--interp-report") for argument in config.invocation_params.args
    )
    if on_command_line and config.args_source is not config.ArgsSource.ARGS:
        paths = []
        config.stash[_REPLACES_TESTPATHS] = config.args_source is config.ArgsSource.TESTPATHS
    # a check of a report can be selected by its node id
    selected = {(start / path.partition("::")[0]).resolve() for path in paths}
    config.args[:] = [*paths, *(str(path) for path in reports if path not in selected)]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Tell if a report is run in place of the project's tests."""
    if not config.stash.get(_REPLACES_TESTPATHS, False):
        return None
    return (
        "interp: only the report is run, not testpaths; give paths too, or put --interp-report"
        " into addopts"
    )


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(name)


def _read(config: pytest.Config, path: Path) -> Any:
    from interp.report.document import read

    store = _option(config, "interp_store")
    try:
        return read(path, store and config.invocation_params.dir / store)
    except InterpError as error:
        raise pytest.UsageError(f"--interp-report: {error}") from None


def _remeasurement(config: pytest.Config, prompts: list[str]) -> Any:
    from interp.replication.remeasure import Remeasurement

    worker = getattr(config, "workerinput", None)
    folder = Path(worker[_FOLDER] if worker else tempfile.mkdtemp(prefix="interp-again-"))
    try:
        return Remeasurement(
            folder, prompts, _option(config, "interp_tolerance"), config.invocation_params.dir
        )
    except InterpError as error:
        raise pytest.UsageError(f"--interp-prompts: {error}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Share the folder of repeated runs between workers of pytest-xdist: each command runs once."""
    if _REMEASUREMENT in node.config.stash:
        node.workerinput[_FOLDER] = str(node.config.stash[_REMEASUREMENT].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the repeated runs."""
    if _REMEASUREMENT in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_REMEASUREMENT].folder, ignore_errors=True)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a report as a file of tests."""
    if file_path.resolve() in parent.config.stash.get(_REPORTS, {}):
        return ReportFile.from_parent(parent, path=file_path)
    return None


class ReportFile(pytest.File):
    """The checks of a report; one more per claim with ``--interp-remeasure`` and
    ``--interp-prompts``.
    """

    def collect(self) -> Iterator[pytest.Item]:
        """One item per check."""
        from interp.report.verification import checks

        report, remeasurement = (
            self.config.stash[_REPORTS][self.path.resolve()],
            self.config.stash.get(_REMEASUREMENT, None),
        )
        collected = [*checks(report)]
        if remeasurement is not None:
            collected += (
                remeasurement.remeasured(report) if _option(self.config, "interp_remeasure") else []
            )
            collected += remeasurement.on_fresh_prompts(report)
        for check in collected:
            yield CheckItem.from_parent(self, name=check.name, check=check)


class CheckItem(pytest.Item):
    """One check; a failure is one line with the claim and both values."""

    def __init__(self, *, check: Callable[[], str | None], **rest: Any) -> None:
        super().__init__(**rest)
        self.check = check
        self.add_marker(MARK)

    def runtest(self) -> None:
        """Run the check; it is skipped if it returns a reason why it could not run."""
        if reason := self.check():
            pytest.skip(reason)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message without a traceback, which would show the plugin and not the report."""
        return (
            str(excinfo.value)
            if isinstance(excinfo.value, InterpError)
            else super().repr_failure(excinfo, style)
        )

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The report's path and the check's name."""
        return self.path, None, self.name


@pytest.fixture(scope="session")
def interp_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of ``--interp-store``, else of the ini option ``interp_store``, else a temporary
    one.
    """
    from interp.store import Store

    config = request.config
    if directory := _option(config, "interp_store"):
        return Store(config.invocation_params.dir / directory)
    if directory := config.getini("interp_store"):
        return Store((config.inipath.parent if config.inipath else config.rootpath) / directory)
    return Store(tmp_path_factory.mktemp("interp-store"))


@pytest.fixture(scope="session")
def interp_pair() -> Callable[..., Pair]:
    """``interp_pair("organism:refusal/planted", base="organism:refusal/base")``: a pair, loaded
    once per session.

    The arguments are those of ``Pair.load``.
    """
    pairs: dict[Any, Any] = {}

    def load(tuned: str | Path, base: str | Path | None = None, **settings: Any) -> Pair:
        from interp.models.pair import Pair

        key = (str(tuned), base and str(base), *sorted(settings.items()))
        if key not in pairs:
            pairs[key] = Pair.load(str(tuned), base and str(base), **settings)
        return pairs[key]

    return load


@pytest.fixture(scope="session")
def interp_study(interp_pair: Callable[..., Pair]) -> Callable[..., Study]:
    """``interp_study(tuned, positive, negative, base=...)``: a study of prompt files, or of lists
    of texts.

    See ``interp.studies.load_study``; ``tuned`` is a pair or a model for ``interp_pair``.
    """

    def make(
        tuned: Any,
        positive: Any,
        negative: Any = None,
        *,
        base: str | Path | None = None,
        **rest: Any,
    ) -> Study:
        from interp.studies import load_study

        pair = interp_pair(tuned, base) if isinstance(tuned, (str, Path)) else tuned
        return load_study(pair, positive, negative, **rest)

    return make


@pytest.fixture
def blessed(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``blessed(table)``: the table equals its reference within a tolerance; the first call writes
    the reference and fails.

    The reference is ``blessed/<module>/<test>.json`` next to the test; further tables of a test
    need a ``name``. ``rtol`` is relative, absolute below 1. ``--interp-bless`` writes all
    references anew, and fails.
    """
    used: set[str] = set()

    def compare(table: Any, name: str = "", rtol: float = TOLERANCE) -> None:
        __tracebackhide__ = True
        from interp.testing import compare_blessed

        if name in used:
            raise ValueError(
                f"blessed(table, name={name!r}) twice in one test: give each table a name"
            )
        used.add(name)
        folder = request.path.parent / "blessed" / request.path.stem
        test_name = request.node.nodeid.split("::", 1)[1] + (f"-{name}" if name else "")
        compare_blessed(
            table,
            folder / f"{_file_name(test_name)}.json",
            rtol,
            _option(request.config, "interp_bless"),
        )

    return compare


def _file_name(test_name: str) -> str:
    """The file name for a test; a digest is added if characters had to be replaced."""
    safe_name = re.sub(r"[^\w.-]+", "_", test_name)[:120].strip("_")
    return (
        safe_name
        if safe_name == test_name
        else f"{safe_name}-{sha256(test_name.encode()).hexdigest()[:8]}"
    )
