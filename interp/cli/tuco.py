"""``interp tuco``: how much of what a model's blocks add to the stream is due to tuning, prompt by
prompt.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.behaviour_options import BEHAVIOUR_HELP, require_one_source, sought
from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_in_turn, numbers
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError

ANSWER = 48  # tokens that an answer may have where none are asked
METRICS = ("refusal", "logit-diff", "answer-loss", "accuracy")


@takes(PromptOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    granularity: Annotated[
        str, typer.Option(metavar="NAME", help="Unit of the split: block or sublayer.")
    ] = "block",
    positions: Annotated[
        str, typer.Option(metavar="NAME", help="last (token of the prompt) or all.")
    ] = "last",
    path: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="full, or fast: the last token alone, without beta over all tokens.",
        ),
    ] = "full",
    norm: Annotated[int, typer.Option(metavar="1|2", help="L1 as in the paper, or Euclidean.")] = 1,
    drop_dims: Annotated[
        str, typer.Option(metavar="D,D,...", help="Stream dimensions left out of norms.")
    ] = "",
    output_co: Annotated[
        bool, typer.Option(help="Also OutputCo: one more pass of the base.")
    ] = True,
    by_answer: Annotated[
        bool,
        typer.Option(
            "--by-answer",
            help="Two classes of --prompts: answers that show the metric, and others.",
        ),
    ] = False,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    caliper: Annotated[
        int, typer.Option(metavar="N", min=0, help="Tokens that prompts of equal length differ.")
    ] = 1,
    alpha: Annotated[
        str,
        typer.Option(
            metavar="A,A,...", help="Also scale what tuning added to every block by these."
        ),
    ] = "",
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of --alpha and --by-answer: refusal, or logit-diff, answer-loss, accuracy.",
        ),
    ] = "refusal",
    behaviour: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help=BEHAVIOUR_HELP)
    ] = None,
    markers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Refusal markers, one a line.")
    ] = None,
    generations: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Tokens to write: with --alpha, and --by-answer (48)."
        ),
    ] = 0,
    keep_answers: Annotated[
        bool, typer.Option("--keep-answers", help="Keep the text of what was written.")
    ] = False,
    common: PromptOptions,
) -> str:
    """Split what the tuned model's blocks add into what the base's would have added there, and what
    tuning adds.

    TuCo (arXiv 2506.23423) is the tuned share at the last prompt token. With two classes of prompts
    it says how well TuCo tells them apart, over all and at equal length; with --by-answer the
    classes are prompts whose answer shows the behaviour, and the others. With --control all of it
    is compared with control fine-tunes. With --alpha it also scales the tuned part.

    Example: interp tuco ./tuned --base ./base --prompts prompts.txt --alpha 0,0.5,1,1.25
    """
    request = Request.of("tuco", {**locals()})
    common.check()
    if not (alpha or by_answer) and (generations or markers or behaviour or metric != "refusal"):
        raise OptionError(
            "--metric, --behaviour, --markers and --generations are of --alpha and --by-answer;"
            " give one of them"
        )
    if by_answer and common.prompts is None:
        raise OptionError("--by-answer makes two classes of one file; give --prompts FILE")
    if metric not in METRICS:
        raise OptionError(f"unknown --metric {metric!r}; use {', '.join(METRICS)}")
    if metric != "refusal" and markers is not None:
        raise OptionError(
            f"--markers are of refusals and --metric {metric} is of answers; give one of them"
        )
    if metric != "refusal" and behaviour is not None:
        raise OptionError(
            f"--behaviour says what answers show and --metric {metric} is of right ones; give one"
            " of them"
        )
    require_one_source(behaviour, markers)
    if keep_answers and not (generations or by_answer):
        raise OptionError(
            "--keep-answers keeps what --generations writes; give a number of tokens with it"
        )
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, _title(tuned)))
    from interp.analyzers.ftc_alpha import FtcAlpha
    from interp.analyzers.tuco import Tuco
    from interp.metrics import Task
    from interp.prompts import read_task
    from interp.store import Store

    drop = numbers(drop_dims, int, "--drop-dims")
    split = Tuco(
        granularity,
        positions,
        path,
        norm,
        drop,
        output_co,
        caliper,
        by_answer=by_answer,
        keep_text=by_answer and keep_answers,
    )
    split.check()
    written = generations or ANSWER * by_answer
    scaling = FtcAlpha(numbers(alpha, float, "--alpha"), written, keep_answers) if alpha else None
    if scaling is not None:
        scaling.check()
    prompts = common.read(None if metric == "refusal" else read_task)
    looked_for = sought(behaviour, markers)
    if scaling is not None and metric == "refusal":
        looked_for.require_number("--alpha")
    described = request.describe()
    store = Store(common.store)
    pair = common.load(tuned, "TuCo")
    of = None
    if scaling is not None or by_answer:
        of = (
            looked_for.of(pair.tokenizer)
            if metric == "refusal"
            else Task.of(pair.tokenizer, prompts.positive.prompts, metric)
        )
    split = replace(split, controls=controls_in_turn(common, control, pair))
    asked = common.study(pair, prompts, of if by_answer else None)
    if by_answer:
        asked = replace(asked, max_new_tokens=written)
    split.require(asked)
    studies: list[tuple[Any, Any]] = [(split, asked)]
    if scaling is not None:
        studies.append((scaling, common.study(pair, prompts, of)))
        scaling.require(studies[-1][1])
    runs = [store.run(analyzer, study) for analyzer, study in studies]
    notes = remarked(
        common,
        asked.counts,
        *asked.notes,
        *(line for run in runs for line in run.summary["limits"]),
    )
    return write(common, request, described, runs, notes, _title(tuned))


def _title(tuned: str) -> str:
    return f"How much of it is tuning? {tuned}"
