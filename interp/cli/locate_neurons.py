"""``interp locate-neurons``: from models and prompt files to a verified, stored, plotted result."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from interp import organisms
from interp.cli import baselines as others
from interp.cli import checks as further
from interp.cli import excluded as excluding
from interp.cli.behaviour_options import BehaviourOptions
from interp.cli.common import VERIFICATION, takes
from interp.cli.prompt_options import CONTROL_HELP, each_control, require_controls
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError

METHODS_HELP = (
    "auto, integrated, integrated-fixed, integrated-zero, cross, change, change-difference,"
    " act-grad, gradient, gradient-counterfactual, contrast, probe, weight."
)
POSITIONS_HELP = "Token positions that are read: auto, prompt, content, decision, last, completion."
PATCH_HELP = (
    "What verification patches in from the other model: contribution (activation and write weights)"
    " or activation."
)
ABLATIONS = {
    "zero": "the same units set to zero",
    "mean": "set to their mean over negative prompts",
    "twin": "given what they contribute on the twin of the other class",
}
RANDOM_SETS_ORGANISM, RANDOM_SETS, PROMPTS = 200, 39, 48
CONTROL_PROMPTS_ORGANISM, CONTROL_PROMPTS, JUDGED_SETS = 48, 24, 5
QUICK_SETS, QUICK_PROMPTS, QUICK_TOKENS, QUICK_CONTROL_PROMPTS, QUICK_STEPS = 19, 24, 16, 12, 3


@takes(BehaviourOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    method: Annotated[str, typer.Option(metavar="NAME", help=METHODS_HELP)] = "auto",
    top: Annotated[
        str,
        typer.Option(metavar="N|P%|zX|smallest", help="How many units are selected: 30, 0.5%, z3."),
    ] = "0.5%",
    unit: Annotated[
        str, typer.Option(metavar="NAME", help="What is scored: neuron or head.")
    ] = "neuron",
    subtract: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Leave out units that are also located on these utility prompts."
        ),
    ] = None,
    positions: Annotated[str, typer.Option(metavar="NAME", help=POSITIONS_HELP)] = "auto",
    probe_fit: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the method probe: optimum, or published, its paper's own steps.",
        ),
    ] = "optimum",
    steps: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Steps of an integral: 3, 7, 15, 31; auto: as many as scores need.",
        ),
    ] = "auto",
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", rich_help_panel=VERIFICATION, help="Verify the located set."
        ),
    ] = True,
    checks: Annotated[
        str,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="NAMES",
            help="More tests: all, or some of " + ",".join(further.CHECKS) + ".",
        ),
    ] = "none",
    baselines: Annotated[
        str,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="NAMES",
            help="Compare the set with other methods: all, or some of "
            + ",".join(others.BASELINES)
            + ".",
        ),
    ] = "none",
    ablations: Annotated[
        str,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="NAMES",
            help=f"Further ablations of the set: all, or some of {','.join(ABLATIONS)}.",
        ),
    ] = "none",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=(
                "A first look: 24 prompts a class, integrals of 3 steps; necessity alone, with 12"
                " control prompts, "
                "answers of 16 tokens, 19 random sets and no doses."
            ),
        ),
    ] = False,
    random_sets: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="N",
            min=1,
            help="Matched random sets.  [default: 39; 200 for small organisms]",
        ),
    ] = None,
    control_prompts: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="N",
            min=1,
            help=(
                "Prompts for doses and random sets; the conditions use all.  [default: 24; 48 for"
                " small organisms]"
            ),
        ),
    ] = None,
    judged_sets: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="N",
            min=0,
            help=(
                "Random sets judged on every control prompt; the others on as many as show that"
                " they do less than the located set. 0: all.  [default: 5; all for small organisms]"
            ),
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=VERIFICATION, metavar="MODEL", help=CONTROL_HELP),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=VERIFICATION,
            metavar="FILE.json",
            help="Units that no random set draws: [[layer, neuron], ...].",
        ),
    ] = None,
    patch: Annotated[
        str, typer.Option(rich_help_panel=VERIFICATION, metavar="NAME", help=PATCH_HELP)
    ] = "contribution",
    show_answers: Annotated[
        bool,
        typer.Option(
            "--show-answers",
            rich_help_panel=VERIFICATION,
            help="Keep example answers to positive prompts too.",
        ),
    ] = False,
    common: BehaviourOptions,
) -> str:
    """Find the MLP neurons (or heads) that carry a fine-tuned behaviour, and verify them on
    held-out prompts against random sets.

    Prompt files are .txt (one prompt a line), .jsonl, .csv, .tsv, .parquet, or - for stdin. Half of
    the clusters locate and half verify, unless two more files verify or --no-verify locates on all;
    at most 48 prompts a class in each half (--max-prompts). Most verdicts need 36 clusters a class:
    with fewer, a loss of 10 % cannot be excluded. --method auto is integrated with a base and
    act-grad without one. With --task the behaviour is to answer correctly, and --metric auto is
    logit-diff where the file has wrong answers, else answer-loss. The run is kept in the store,
    with an offline HTML page.

    Example: interp locate-neurons ./tuned --base ./base --positive harmful.txt --negative
    harmless.txt --top 30
    """
    request = Request.of("locate-neurons", {**locals()})
    common.check()
    named_checks, named_methods = further.parse(checks), others.parse(baselines, verify)
    ablated = further.names_in(ablations, ABLATIONS, "--ablations")
    excluded = excluding.read(exclude, verify)

    def compute(session: Session) -> list:
        # torch is imported only now, so that help, usage errors and repeats answer at once
        from interp.analyzers.control_locations import ControlLocations
        from interp.analyzers.framework import Known
        from interp.analyzers.locate_neurons import METHODS, LocateNeurons
        from interp.analyzers.locate_neurons.methods import resolve
        from interp.analyzers.verify_neurons import MIN_RANDOM_SETS, VerifyNeurons, min_clusters
        from interp.engines import engine_named
        from interp.maths.intervals import MIN_CLUSTERS
        from interp.models.sources import find
        from interp.prompts import Contrast

        require_controls(control)
        common.batches()
        engine_named(common.engine, common.remote)
        options, n_random_sets = common, random_sets
        if quick:
            options = replace(
                common,
                max_prompts=min(common.max_prompts or QUICK_PROMPTS, QUICK_PROMPTS),
                max_new_tokens=min(common.max_new_tokens, QUICK_TOKENS),
            )
            n_random_sets = min(random_sets or QUICK_SETS, QUICK_SETS)
            common.remark(
                f"note: --quick reads {options.max_prompts} prompts a class and draws"
                f" {n_random_sets} random sets: intervals are wide, and necessity is not tested,"
                f" which needs {min_clusters()} clusters and {MIN_RANDOM_SETS} sets"
            )
        options = replace(options, max_prompts=options.max_prompts or PROMPTS)
        if verify and not quick and random_sets is not None:
            common.warn_of_few(random_sets, MIN_RANDOM_SETS)
        specification = options.specification()
        located_on, verified_on = options.selection_and_held_out(verify)
        utility = None
        if subtract is not None:
            utility = Contrast(options.positives(subtract, "utility"), located_on.negative)
            if shared := set(utility.positive.shared(located_on.positive)):
                raise OptionError(
                    f"--subtract {subtract} shares prompts with those located on,"
                    f" {min(shared)[:40]!r}"
                )
        number = int(steps) if steps.isdecimal() else steps
        has_base = options.base is not None or find(tuned).base_name is not None
        locate = LocateNeurons(
            method=method,
            top=top,
            positions=positions,
            steps=number,
            unit=unit,
            probe_fit=probe_fit,
        )
        integral = METHODS[method_name := resolve(method, positions, has_base, unit)[0]].is_integral
        if quick and steps == "auto" and integral:
            locate = replace(locate, steps=QUICK_STEPS)
        if steps != "auto" and not integral:
            able = ", ".join(name for name, each in METHODS.items() if each.is_integral)
            raise OptionError(
                f"--steps is of methods with an integral, and {method_name} has none; use --method"
                f" {able}"
            )
        locate.check(Known(has_base, differentiable=options.differentiable(specification)))
        if verify:
            VerifyNeurons(patch=patch).check(Known(has_base))
        is_task = options.task is not None
        has_number = is_task or specification.differentiable
        further_checks = further.applicable(
            named_checks, checks == "all", has_base, is_task, has_number
        )
        compared_methods = others.applicable(
            named_methods, baselines == "all", unit, is_task, has_number
        )
        pair = session.load(tuned, options.base)
        metric = options.make_metric(
            pair.tokenizer, specification, located_on, verified_on, utility
        )
        study = options.study(pair, located_on, metric)
        locate.require(study)
        if verify:
            VerifyNeurons(excluded=excluded, unit=unit).require(study)
        store = session.store
        verifying = (
            None
            if verified_on is None
            else study.with_prompts(verified_on.limit(options.max_prompts))
        )
        is_split = verified_on is not None and options.verify_positive is None
        lines = [
            f"located on {'a half of the clusters: ' if is_split else ''}{study.counts}",
            *study.notes,
        ]
        if verifying is not None:
            held_out_label = "the other half, held out: " if is_split else ""
            lines += [f"verified on {held_out_label}{verifying.counts}", *verifying.notes]
            if (few := verifying.require_contrast("verifying").n_clusters) < min_clusters():
                lines.append(
                    f"{few} clusters of prompts verify; claims of what is lost or added need "
                    f"{min_clusters()}, the others {MIN_CLUSTERS}"
                )
        session.note(*lines)
        if utility is not None:
            locate = locate.minus(
                store.run(locate, study.with_prompts(utility.limit(options.max_prompts))).table
            )
        run = store.run(locate, study)
        runs = [run]
        if control:
            # as many steps as the fine-tune's scores needed: a control's are only compared with
            # them
            n_steps = run.summary.get("steps")
            alike = replace(locate, steps=n_steps) if locate.steps == "auto" and n_steps else locate
            control_tables = []
            for number_of_control, (name, one) in enumerate(
                zip(control, each_control(common, control, pair), strict=True), 1
            ):
                with study.stages.during(
                    f"control {number_of_control} of {len(control)}, {name}", study.quiet
                ):
                    control_tables.append(
                        store.run(alike, replace(study, pair=one, _cache={})).table
                    )
            runs.append(store.run(ControlLocations(run.table, tuple(control_tables)), study))
        if verify:
            small = (
                tuned.startswith("organism:")
                and organisms.packaged(tuned.removeprefix("organism:")) is None
            )
            n_control_prompts = control_prompts or (
                QUICK_CONTROL_PROMPTS
                if quick
                else CONTROL_PROMPTS_ORGANISM
                if small
                else CONTROL_PROMPTS
            )
            size = int(run.table["selected"].sum())
            verify_analyzer = VerifyNeurons(
                run.table,
                random_sets=n_random_sets or (RANDOM_SETS_ORGANISM if small else RANDOM_SETS),
                control_prompts=n_control_prompts,
                judged_sets=(0 if small else JUDGED_SETS) if judged_sets is None else judged_sets,
                patch=patch,
                show_answers=show_answers,
                ablations=ablated,
                excluded=excluded,
                # at seven other sizes or more these cost as much as the null
                dose_draws=5 if small else 1,
                **({"directions": ("necessity",), "doses": False, "cell_sets": 0} if quick else {}),
                depth=0 if small else size * (1 if quick else 2),
            )
            runs.append(store.run(verify_analyzer, verifying))
            session.note(*runs[-1].summary.get("warnings", ()))
            if compared_methods and not runs[-1].summary["selected"]:
                session.note("nothing was selected: the baselines are left out")
            elif compared_methods:
                compared = others.baselines_analyzer(
                    compared_methods, store, study, runs[-1].table, run.table
                )
                runs.append(store.run(compared, verifying))
        for name, analyzer in further.analyzers(
            further_checks, locate, run.table, excluded
        ).items():
            runs.append(store.run(analyzer, further.study_of_check(name, study, verifying)))
        return runs

    return answer(request, _title(tuned), compute)


def _title(tuned: str) -> str:
    return f"What carries it? {tuned}"
