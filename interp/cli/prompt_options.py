"""Options of commands that compare a pair on prompts: the pair, and one file of prompts or two
classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import Common, RuntimeOptions
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, PairError, required

if TYPE_CHECKING:
    from interp.models.pair import Pair
    from interp.prompts import Contrast, OneClass, PromptSet

_FILE: dict[str, Any] = {"metavar": "FILE"}
CONTROL_HELP = (
    "A control fine-tune (`interp control`); repeatable: 5 for an interval, 19 for a rank test."
)


@dataclass(frozen=True, kw_only=True)
class PromptOptions(TemplateFlags):
    """The options of commands that compare a pair on prompts; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    prompts: Annotated[
        Path | None, typer.Option("--prompts", **_FILE, help="Prompts that both models read.")
    ] = None
    positive: Annotated[
        Path | None,
        typer.Option(
            "--positive", **_FILE, help="Instead: prompts of one class, compared with ..."
        ),
    ] = None
    negative: Annotated[
        Path | None, typer.Option("--negative", **_FILE, help="... prompts of another.")
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    max_prompts: Annotated[
        int | None,
        typer.Option("--max-prompts", metavar="N", min=1, help="At most N prompts per class."),
    ] = None

    def check(self) -> None:
        """Raise OptionError for options that contradict each other; nothing is read."""
        if (self.positive is None) != (self.negative is None):
            raise OptionError(
                "only one of --positive and --negative was given; give both, or --prompts FILE"
                " alone"
            )
        if (self.prompts is None) == (self.positive is None):
            raise OptionError("give either --prompts FILE, or --positive FILE and --negative FILE")
        self.batches()
        self.template_arguments()

    def read(self, reader: "Callable[..., PromptSet] | None" = None) -> "Contrast | OneClass":
        """The prompts, of one class or of two; ``reader`` takes the (first) file, ``read_prompts``
        by default.
        """
        from interp.prompts import Contrast, OneClass, read_prompts

        read_first = reader or read_prompts
        if self.prompts is not None:
            prompts = OneClass(read_first(self.prompts, self.column, "prompts"))
        else:
            positive = required(self.positive, "--positive FILE")
            negative = required(self.negative, "--negative FILE")
            prompts = Contrast(
                read_first(positive, self.column, "+"), read_prompts(negative, self.column, "-")
            )
        return prompts.limit(self.max_prompts)


def controls_on_demand(
    common: RuntimeOptions, names: "Sequence[str] | None", pair: "Pair"
) -> "Sequence[Pair]":
    """Control fine-tunes of the pair's base, one in memory at a time; OptionError for one that is
    named twice, PairError for a copy of another.
    """
    from interp.models.pairs_on_demand import PairsOnDemand

    require_controls(names)
    known: dict[str, str] = {}
    pairs = PairsOnDemand([partial(load_control, common, name, pair) for name in names or ()])
    for name, inputs in zip(names or (), pairs.inputs, strict=True):
        _require_new(name, inputs["tuned"], known)
    return pairs


def require_controls(names: "Sequence[str] | None") -> None:
    """Raise OptionError for a control that is named twice, ModelNotFound for one that is not there."""
    from interp.models.sources import find

    names = names or ()
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"--control {duplicates[0]} is given twice; one control counts once")
    for name in names:
        find(name)


def each_control(
    common: RuntimeOptions, names: "Sequence[str] | None", pair: "Pair"
) -> "Iterator[Pair]":
    """Control fine-tunes of the pair's base, each loaded when it is needed; PairError for a copy of
    another.
    """
    known: dict[str, str] = {}
    for name in names or ():
        control = load_control(common, name, pair)
        _require_new(name, control.digests["tuned"], known)
        yield control


def _require_new(name: str, digest: str, known: "dict[str, str]") -> None:
    """Raise PairError for weights of an earlier control, else remember them."""
    if digest in known:
        raise PairError(
            f"the control {name} has the same weights as {known[digest]}; one control counts once"
        )
    known[digest] = f"the control {name}"


def load_control(common: RuntimeOptions, name: str, pair: "Pair") -> "Pair":
    """A control fine-tune of the pair's base, with what the pair's chat template is given.

    Raises PairError for the base or the fine-tuned model itself, VocabularyMismatch for one that
    cannot read the pair's prompts.
    """
    from interp.models.pair import Pair
    from interp.models.vocabularies import require_rows_for

    common.status(f"loading {name}")
    control = Pair.load(name, pair.require_base("a control").name, **common.loading)
    for role, itself in (("base", "base"), ("tuned", "fine-tuned model")):
        if control.digests["tuned"] == pair.digests.get(role):
            raise PairError(
                f"the control {name} has the weights of the {itself}; give models fine-tuned on"
                " something else (interp control trains them)"
            )
    require_rows_for(control.tuned, pair.tokenizer)
    return control.with_template(**pair.template_options.json)


def site_of(
    common: Common,
    path: Path,
    about: Mapping[str, Any],
    requested: str | None,
    models: Sequence[str | None],
) -> str:
    """The site a dictionary is read at: the requested one, else the one it records; OptionError
    where there is neither.

    Prints a note where the dictionary was trained at another site, or on another model.
    """
    recorded, trained = (
        about.get("site"),
        [about[role] for role in ("model", "base") if about.get(role)],
    )
    if not (requested or recorded):
        raise OptionError(
            f"{path} does not say which site it is of; add --site blocks.<layer>.hook_resid_post"
        )
    if requested and recorded and str(requested) != str(recorded):
        common.remark(f"note: {path} was trained at {recorded}, and is read at {requested}")
    if trained and not {Path(str(name)).name for name in trained} & {
        Path(name).name for name in models if name
    }:
        names = ", ".join(name for name in models if name)
        common.remark(
            f"note: {path} was trained on {' and '.join(map(str, trained))}, and is read on {names}"
        )
    return str(requested or recorded)


def parse_numbers(text: str, kind: type, flag: str) -> tuple:
    """Numbers with commas between; raises OptionError naming the flag."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise OptionError(
            f"{flag} {text!r} is not a list of numbers; separate them by commas"
        ) from error
