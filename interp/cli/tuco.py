"""``interp tuco``: how much of the blocks' contributions to the residual stream is due to
fine-tuning.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.behaviour_options import BEHAVIOUR_HELP, require_one_source, specification_of
from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, PromptOptions, controls_on_demand, parse_numbers
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError

ANSWER = 48  # length of answers where --generations is not given
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
            help="full, or fast: the last token only, without beta over all tokens.",
        ),
    ] = "full",
    norm: Annotated[
        int, typer.Option(metavar="1|2", min=1, max=2, help="L1 as in the paper, or Euclidean.")
    ] = 1,
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
            help="Two classes of --prompts: answers that show the behaviour, and others.",
        ),
    ] = False,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    caliper: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Maximum length difference (tokens) for prompts to count as length-matched.",
        ),
    ] = 1,
    alpha: Annotated[
        str,
        typer.Option(
            metavar="A,A,...",
            help="Also scale the part that fine-tuning added to every block by these.",
        ),
    ] = "",
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --alpha or --by-answer: refusal, logit-diff, answer-loss or accuracy.",
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
            metavar="N",
            min=0,
            help="Length of generated answers, with --alpha or --by-answer (48).",
        ),
    ] = 0,
    keep_answers: Annotated[
        bool, typer.Option("--keep-answers", help="Keep the text of the answers.")
    ] = False,
    common: PromptOptions,
) -> str:
    """Split the contributions of the fine-tuned model's blocks into the base's part and the part
    that fine-tuning added.

    TuCo (arXiv 2506.23423) is the share of the second part at the last prompt token. With two
    classes of prompts, it measures how well TuCo separates them, over all prompts and at equal
    length; with --by-answer the classes are prompts whose answer shows the behaviour, and the
    others. With --control, everything is compared with control fine-tunes. With --alpha, the
    fine-tuned part is also scaled.

    Example: interp tuco ./tuned --base ./base --prompts prompts.txt --alpha 0,0.5,1,1.25
    """
    request = Request.of("tuco", {**locals()})
    common.check()
    if not (alpha or by_answer) and (generations or markers or behaviour or metric != "refusal"):
        raise OptionError(
            "--metric, --behaviour, --markers and --generations need --alpha or --by-answer;"
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

    def compute(session: Session) -> list:
        from interp.analyzers.framework import Known
        from interp.analyzers.ftc_alpha import FtcAlpha
        from interp.analyzers.tuco import Tuco
        from interp.metrics import Task
        from interp.prompts import read_task

        dropped_dims = parse_numbers(drop_dims, int, "--drop-dims")
        decomposition = Tuco(
            granularity,
            positions,
            path,
            norm,
            dropped_dims,
            output_co,
            caliper,
            by_answer=by_answer,
            keep_text=by_answer and keep_answers,
        )
        decomposition.check(Known())
        n_new_tokens = generations or ANSWER * by_answer
        scaling = (
            FtcAlpha(parse_numbers(alpha, float, "--alpha"), n_new_tokens, keep_answers)
            if alpha
            else None
        )
        if scaling is not None:
            scaling.check(Known())
        prompts = common.read(None if metric == "refusal" else read_task)
        specification = specification_of(behaviour, markers, common.store)
        if scaling is not None and metric == "refusal":
            specification.require_number("--alpha")
        pair = session.load(tuned, common.base, "TuCo")
        metric_object = None
        if scaling is not None or by_answer:
            metric_object = (
                specification.metric(pair.tokenizer)
                if metric == "refusal"
                else Task.from_prompts(pair.tokenizer, prompts.positive.prompts, metric)
            )
        decomposition = replace(decomposition, controls=controls_on_demand(common, control, pair))
        tuco_study = session.study(pair, prompts, metric_object if by_answer else None)
        if by_answer:
            tuco_study = replace(tuco_study, max_new_tokens=n_new_tokens)
        decomposition.require(tuco_study)
        studies: list[tuple[Any, Any]] = [(decomposition, tuco_study)]
        if scaling is not None:
            studies.append((scaling, session.study(pair, prompts, metric_object)))
            scaling.require(studies[-1][1])
        runs = [session.store.run(analyzer, study) for analyzer, study in studies]
        session.note(
            tuco_study.counts,
            *tuco_study.notes,
            *(line for run in runs for line in run.summary["limits"]),
        )
        return runs

    return answer(request, f"How much of it is tuning? {tuned}", compute)
