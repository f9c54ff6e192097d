"""Options, needs, results, and what every analyzer does with them."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from interp.analyzers.framework.calls import (
    announced,
    names_prompt_of_nan,
    retries_with_smaller_batches,
)
from interp.analyzers.framework.content import fingerprint
from interp.claims import Claim, conclude
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.provenance import JSON, digest
from interp.study import Study
from interp.table import Table


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    ge: float | int | None = None,
    le: float | int | None = None,
    choices: Sequence[str] = (),
    kind: str = "",
    from_parent: bool = False,
    compare: bool = True,
) -> Any:
    """A field of an analyzer that is an option of its command.

    ``ge`` and ``le``: the smallest and the largest value allowed; ``choices``: the words allowed;
    of a tuple they hold for every item. None is always allowed. Options of one word, number or yes
    and no are flags; others can be set in Python only, and need a default.

    ``kind``: the option is a table, or several, of runs of this kind; that of the first such option
    is the parent of the run where none is given. ``from_parent``: the value follows from the parent run,
    and the key of the run records all such options as one. ``compare``: as in dataclasses.
    """
    return field(
        default=default,
        compare=compare,
        metadata={
            "help": help,
            "ge": ge,
            "le": le,
            "choices": tuple(choices),
            "kind": kind,
            "from_parent": from_parent,
        },
    )


@dataclass(frozen=True)
class Needs:
    """What a study must have: a base model, a second class of prompts, a metric."""

    base: bool = False
    negatives: bool = False
    metric: bool = False


@dataclass(frozen=True)
class Known:
    """What is known of a study, as far as it is before its models are loaded; None where it is not.

    ``shape``: blocks, and units of a block. ``differentiable``: whether the metric has a gradient.
    """

    has_base: bool | None = None
    shape: tuple[int, int] | None = None
    differentiable: bool | None = None


@dataclass(frozen=True)
class Result:
    """What an analyzer found.

    ``rows``: the main table, with its arrays where there are any (its kind, summary and provenance
    are not used). ``tables``: sub-tables by name; one without a kind gets that of the analyzer and
    its name. ``claims``: None for a run that makes none, whatever it finds. ``summary``: further
    fields of the summary. ``limits``: what the numbers do not show, in sentences. ``lead``: a
    sentence in place of the first claim's. ``supported``: whether the run as a whole supports what
    it asks, where that is not "every claim that could be tested is supported".
    """

    rows: Table
    tables: Mapping[str, Table] = field(default_factory=dict)
    claims: Sequence[Claim] | None = ()
    summary: Mapping[str, JSON] = field(default_factory=dict)
    limits: Sequence[str] = ()
    lead: str = ""
    supported: bool | None = None


@dataclass(frozen=True)
class Analyzer:
    """Abstract: a subclass has ``name``, ``version`` (raised when its numbers change), ``needs``,
    its options, and ``run``.

    Raises OptionError for an option outside its bounds when it is made, and for a study that lacks
    what is needed when it is called. When memory runs out in a call, it is made again with smaller
    batches; raises OutOfMemory where one prompt is too many. Unless the study is quiet, how long it
    takes is printed before it begins, and its progress meanwhile.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[Needs] = Needs()

    parent: str | None = field(default=None, kw_only=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__call__" in vars(cls):
            raise TypeError(f"{cls.__name__} defines __call__; an analyzer defines run(study)")

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), each.metadata.get("kind")
            _require_allowed(type(self).__name__, each.name, value, each.metadata)
            if kind:
                for run in value if isinstance(value, (list, tuple)) else (value,):
                    require_run(self, run, each.name, kind)
        first = next((each.name for each in fields(self) if each.metadata.get("kind")), None)
        run = first and getattr(self, first)
        if self.parent is None and isinstance(run, Table) and run.provenance is not None:
            object.__setattr__(self, "parent", run.provenance.key)

    @property
    def options(self) -> dict[str, Any]:
        """The options that determine the numbers: every field but ``parent``.

        With a parent, options that follow from it are one entry ``from_parent``, their digest.
        Objects are recorded by their content: see ``fingerprint``.
        """
        option_fields = [one for one in fields(self) if one.name != "parent"]
        values = {one.name: fingerprint(getattr(self, one.name), one.name) for one in option_fields}
        inherited = [one.name for one in option_fields if one.metadata.get("from_parent")]
        if self.parent is None or not inherited:
            return values
        kept = {name: value for name, value in values.items() if name not in inherited}
        return {**kept, "from_parent": digest({name: values[name] for name in inherited})[:20]}

    def check(self, known: Known) -> None:
        """Raise OptionError for options that cannot be used with each other or with what is known.

        Called before models are loaded, and again with the study. Bounds of single options are
        checked when the analyzer is made.
        """
        del known

    def require(self, study: Any) -> None:
        """Raise OptionError for a study without what is needed."""
        if not isinstance(study, Study):
            self.check(Known())
            return
        if self.needs.base:
            study.pair.require_base(self.name)
        if self.needs.negatives:
            study.require_contrast(self.name)
        if self.needs.metric:
            study.require_metric(self.name)
        differentiable = None if study.metric is None else study.metric.differentiable
        self.check(Known(study.pair.base is not None, None, differentiable))

    def work(self, study: Any) -> Work | None:
        """What a call does, so that its time can be estimated; None where that is not known."""
        del study

    def run(self, study: Any) -> Result:
        """Measure."""
        raise TypeError(f"{type(self).__name__} must define run")

    @announced
    @names_prompt_of_nan
    @retries_with_smaller_batches
    def __call__(self, study: Any) -> Table:
        """The result as the table of a run, its claims evaluated."""
        self.require(study)
        result = self.run(study)
        counts = (
            {group: len(study.prompts(group)) for group in study.classes}
            if isinstance(study, Study)
            else {}
        )
        table = Table(
            self.name,
            result.rows.columns,
            result.rows.data,
            study.provenance(self),
            {**counts, **result.summary, "limits": list(result.limits)},
            {
                name: Table(
                    part.kind or f"{self.name}-{name}",
                    part.columns,
                    part.data,
                    summary=part.summary,
                    tables=part.tables,
                    arrays=part.arrays,
                )
                for name, part in result.tables.items()
            },
            result.rows.arrays,
        )
        if result.claims is None:
            return table
        overall = {} if result.supported is None else {"supported": result.supported}
        return conclude(table, result.claims, lead=result.lead, **overall)


def require_run(analyzer: Analyzer, run: object, name: str, kind: str) -> None:
    """Raise OptionError where the value of the option ``name`` is neither None nor a table of
    ``kind``.
    """
    if run is None or (isinstance(run, Table) and run.kind == kind):
        return
    seen = (
        f"a table of kind {run.kind!r}"
        if isinstance(run, Table)
        else f"{type(run).__name__} {run!r:.60}"
    )
    raise OptionError(
        f"{name} of {type(analyzer).__name__} is {seen}; give a table of kind {kind!r}"
    )


def require_locating(analyzer: Analyzer, locate: object) -> None:
    """Raise OptionError where ``locate`` is not an analyzer (a located table is not one)."""
    if not isinstance(locate, Analyzer):
        raise OptionError(
            f"locate of {type(analyzer).__name__} is a {type(locate).__name__}; give the analyzer"
            ' that locates, LocateNeurons(top="30") for one'
        )


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _require_allowed(owner: str, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, choices = (metadata.get(part) for part in ("ge", "le", "choices"))
    if value is None:
        return
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if choices and item not in choices:
            raise OptionError(f"{name} of {owner} is {item!r}; use {either(choices)}")
        try:
            too_low, too_high = low is not None and item < low, high is not None and item > high
        except TypeError as error:
            raise OptionError(f"{name} of {owner} is {item!r}; give a number") from error
        # every comparison with NaN is False
        if too_low or ((low, high) != (None, None) and item != item):
            raise OptionError(f"{name} of {owner} is {item}; use at least {low}")
        if too_high:
            raise OptionError(f"{name} of {owner} is {item}; use at most {high}")
