"""What a new analyzer is written with: options with help and bounds, needs, rows, a result.

An analyzer is a frozen dataclass whose method ``run`` takes a study and returns a ``Result``. Its
fields are declared by ``option``: from them come the flags of its command, their help, the checks
before anything is loaded and the key of the run. ``needs`` says what a study must have. The claims
of the result are measured by ``interp.claims``. See docs/adding-an-analyzer.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.analyzers.base import Analyzer
from interp.claims import Claim, conclude
from interp.errors import OptionError
from interp.rows import PromptRow, columns_of, rows_table
from interp.study import Study
from interp.table import JSON, Table


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    ge: float | int | None = None,
    le: float | int | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of an analyzer that is an option of its command.

    ``ge`` and ``le``: the smallest and the largest value allowed; ``choices``: the words allowed;
    of a tuple they hold for every item. None is always allowed. Options of one word, number or yes
    and no are flags; others can be set in Python only, and need a default.
    """
    return field(
        default=default, metadata={"help": help, "ge": ge, "le": le, "choices": tuple(choices)}
    )


@dataclass(frozen=True)
class Needs:
    """What a study must have: a base model, a second class of prompts, a metric."""

    base: bool = False
    negatives: bool = False
    metric: bool = False


@dataclass(frozen=True)
class Result:
    """What an analyzer found: its main table (without kind and provenance), named sub-tables,
    claims, further fields of the summary, and limits in words.
    """

    rows: Table
    tables: Mapping[str, Table] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    summary: Mapping[str, JSON] = field(default_factory=dict)
    limits: Sequence[str] = ()
    lead: str = ""


@dataclass(frozen=True)
class StudyAnalyzer(Analyzer):
    """Abstract: a subclass has ``name``, ``version``, ``needs``, its options, and ``run``.

    Raises OptionError for an option outside its bounds when it is made, and for a study that lacks
    what it needs when it is called.
    """

    needs: ClassVar[Needs] = Needs()

    parent: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(self):
            _require_allowed(
                type(self).__name__, each.name, getattr(self, each.name), each.metadata
            )

    def run(self, study: Study) -> Result:
        """Measure."""
        raise TypeError(f"{type(self).__name__} must define run")

    def require(self, study: Study) -> None:
        """Raise OptionError for a study without what is needed."""
        if self.needs.base:
            study.pair.require_base(self.name)
        if self.needs.negatives:
            study.require_contrast(self.name)
        if self.needs.metric:
            study.require_metric(self.name)

    def __call__(self, study: Study) -> Table:
        """The result as the table of a run, its claims measured."""
        self.require(study)
        result = self.run(study)
        tables = {
            name: Table(table.kind or f"{self.name}-{name}", table.columns, table.data)
            for name, table in result.tables.items()
        }
        table = Table(
            self.name,
            result.rows.columns,
            result.rows.data,
            study.provenance(self),
            {
                **{group: len(study.prompts(group)) for group in study.classes},
                **result.summary,
                "limits": list(result.limits),
            },
            tables,
        )
        return conclude(table, result.claims, lead=result.lead)


def _require_allowed(owner: str, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high, choices = (metadata.get(part) for part in ("ge", "le", "choices"))
    if value is None:
        return
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if choices and item not in choices:
            raise OptionError(f"{name} of {owner} is {item!r}; use {', '.join(choices)}")
        if low is not None and not item >= low:
            raise OptionError(f"{name} of {owner} is {item}; use at least {low}")
        if high is not None and not item <= high:
            raise OptionError(f"{name} of {owner} is {item}; use at most {high}")


def prompt_rows(
    study: Study, row: type[PromptRow], **columns: Shaped[np.ndarray, " prompts"]
) -> Table:
    """Rows of all prompts, class by class: their keys, and ``columns`` in the same order."""
    own = [
        (group, prompt.id, prompt.cluster)
        for group in study.classes
        for prompt in study.prompts(group)
    ]
    keys = dict(zip(columns_of(PromptRow), map(list, zip(*own, strict=True)), strict=True))
    return rows_table(row, "", {**keys, **columns})


def answer_lengths(study: Study, role: str) -> Int[np.ndarray, " prompts"]:
    """Tokens of a model's greedy answer to every prompt, class by class."""
    return np.array([len(each) for group in study.classes for each in study.answers(role, group)])


def sign_flips(
    study: Study,
    row: type,
    draws: int,
    **differences: Float[np.ndarray, " prompts"] | Int[np.ndarray, " prompts"],
) -> Table:
    """The null in which two models are exchanged at random, all prompts of a cluster together.

    One column of ``row`` for each of the ``differences``: their means under every draw.
    """
    clusters = [p.cluster for group in study.classes for p in study.prompts(group)]
    _, code = np.unique(clusters, return_inverse=True)
    signs = np.random.default_rng(study.seed).choice([-1, 1], (draws, code.max() + 1))[:, code]
    means = {name: (signs * values).mean(1) for name, values in differences.items()}
    return rows_table(row, "", {"draw": np.arange(draws), **means})
