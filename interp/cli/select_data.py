"""``interp select-data``: which rows of a pool resemble, or complete, a target?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.discover import column_of_rows
from interp.cli.prompt_options import site_of
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, PromptError
from interp.provenance import directory_digest, file_digest

if TYPE_CHECKING:
    from interp.analyzers.data_selection import DataSelection
    from interp.prompts import PromptSet

METHODS = ("got-d", "mona", "bm25")
_FILE: dict[str, Any] = {"metavar": "FILE"}
_YES, _NO = {"true", "yes", "1"}, {"false", "no", "0"}


@dataclass(frozen=True, kw_only=True)
class SelectOptions(TemplateFlags):
    """The rows that are compared; the fields are the flags."""

    pool: Annotated[
        Path, typer.Option("--pool", **_FILE, help="Rows to select from: text or messages.")
    ]
    target: Annotated[
        Path, typer.Option("--target", **_FILE, help="Rows that the selection should be like.")
    ]
    marks: Annotated[
        Path | None,
        typer.Option(
            "--marks",
            **_FILE,
            help="Which rows of the pool are wanted, in its order; can be the pool itself.",
        ),
    ] = None
    mark_column: Annotated[
        str, typer.Option("--mark-column", metavar="NAME", help="Column of yes and no in --marks.")
    ] = "marked"
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", metavar="N", min=4, help="The pool's first N rows.")
    ] = None


@takes(SelectOptions)
def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help=f"Methods; the first decides which rows are selected. {', '.join(METHODS)}, or all.",
        ),
    ] = "all",
    top: Annotated[
        str, typer.Option(metavar="N", help="Rows that are selected: 5%, or a number of rows.")
    ] = "5%",
    depth: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Blocks passed where rows are read, as a share of all blocks.",
        ),
    ] = 0.5,
    tokens: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=(
                "Tokens of a conversation that count: those of its answers, or all. Of a text all"
                " count."
            ),
        ),
    ] = "answers",
    dictionary: Annotated[
        Path | None,
        typer.Option(
            metavar="DICTIONARY",
            help="Dictionary whose codes are compared; MLP neurons without one.",
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="[default: from the dictionary's files]")
    ] = None,
    kept: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Codes kept per token; of MLP neurons at most an eighth of them.",
        ),
    ] = 192,
    scale: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=(
                "Codes as they are, over their sum by row, or over each latent's largest value:"
                " none, row, latent."
            ),
        ),
    ] = "none",
    epsilon: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=1e-4,
            help="Weight of the entropy in optimal transport, in median squared distances.",
        ),
    ] = 0.05,
    draws: Annotated[
        int, typer.Option(metavar="N", min=39, help="Permutations of the marks.")
    ] = 200,
    ordinary: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=6,
            help="Targets drawn from ordinary rows; selections of random rows.",
        ),
    ] = 20,
    common: SelectOptions,
) -> str:
    """Rank rows of a pool by optimal transport, latent codes and words in common with a target.

    GOT-D takes what the pool has too little of, MONA and BM25 what looks like the target. With
    --marks it is measured how many of the wanted rows come first, next to random rows, permuted
    marks, length alone, and targets drawn from ordinary rows, which should find nothing.

    Example: interp select-data ./model --pool rows.jsonl --target wanted.jsonl --top 10%
    """
    files = None
    if dictionary is not None:
        files = directory_digest(dictionary) if dictionary.is_dir() else file_digest(dictionary)
    elif site is not None:
        raise OptionError("--site is that of a dictionary; add --dictionary DICTIONARY")
    arguments = {name: value for name, value in locals().items() if name != "files"}
    arguments |= {"tuned": arguments.pop("model"), "base": None, "dictionary": files}
    request = Request.of("select-data", arguments)
    common.batches()
    common.template_arguments()
    if common.remote:
        raise OptionError("--remote does not support reading activations; run without it")
    from interp.analyzers.data_selection import DataSelection

    analyzer = DataSelection(
        methods=_methods(methods),
        top=top,
        depth=depth,
        tokens=tokens,
        kept=kept,
        scale=scale,
        epsilon=epsilon,
        draws=draws,
        ordinary=ordinary,
    )

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.prompts import Contrast

        pool, target = _read(common.pool, "pool"), _read(common.target, "target")
        marked = () if common.marks is None else read_marks(common.marks, common.mark_column)
        if len(marked) not in (0, len(pool)):
            raise PromptError(
                f"{common.marks} has {len(marked)} rows, and the pool {common.pool} has"
                f" {len(pool)}; give one mark per row of the pool, in the same order"
            )
        if common.max_rows is not None:
            pool = pool.keep(range(min(common.max_rows, len(pool))))
            marked = marked[: common.max_rows]
        made = _with_dictionary(replace(analyzer, marked=marked), dictionary, site, model, common)
        made.check(Known())
        pair = session.load(model, None)
        study = session.study(pair, Contrast(target, pool))
        session.note(*study.notes)
        return [session.store.run(made, study)]

    return answer(request, f"Rows of {common.pool.name} for {common.target.name}", compute)


def read_marks(path: Path, column: str) -> tuple[bool, ...]:
    """Whether each row of a file is marked: ``column`` holds true or false, yes or no, 1 or 0.

    Raises PromptError for any other value.
    """
    from interp.prompts.rows import FILE_TYPES, file_type, read_rows

    if not path.is_file() or file_type(path) not in FILE_TYPES[1:]:
        raise PromptError(
            f"{path} is not a file of marks; give a {', '.join(FILE_TYPES[1:])} file with a column"
            f" {column!r}"
        )
    marks = []
    for index, row in enumerate(read_rows(path, column)):
        if column not in row:
            raise PromptError(
                f"{path}, row {index} has no column {column!r}; it has"
                f" {', '.join(sorted(row)) or 'none'}; use --mark-column"
            )
        value = row[column]
        text = f"{value:g}" if isinstance(value, float) else str(value).strip().lower()
        if text not in _YES | _NO:
            raise PromptError(
                f"{path}, row {index}: {column} is {str(value)[:40]!r}; write true or false"
            )
        marks.append(text in _YES)
    return tuple(marks)


def _read(path: Path, name: str) -> "PromptSet":
    from interp.prompts import read_chats

    return read_chats(path, column_of_rows(path), name)


def _with_dictionary(
    analyzer: "DataSelection",
    path: Path | None,
    site: str | None,
    model: str,
    common: SelectOptions,
) -> "DataSelection":
    if path is None:
        return analyzer
    from interp.sae.formats import read

    dictionary, about = read(path)
    where = site_of(common, path, about, site, (model,))
    return replace(analyzer, dictionary=dictionary, site=where)


def _methods(text: str) -> tuple[str, ...]:
    if text == "all":
        return METHODS
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in METHODS]:
        raise OptionError(f"unknown --methods {unknown[0]!r}; use {', '.join(METHODS)}, or all")
    return names
