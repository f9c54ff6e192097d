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
from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, each_control, require_controls
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError

METHODS_HELP = (
    "auto, integrated, integrated-fixed, integrated-zero, cross, change, change-difference,"
    " act-grad, gradient, gradient-counterfactual, contrast, probe, weight."
)
POSITIONS_HELP = "Tokens that are read: auto, prompt, content, decision, last, completion."
PATCH_HELP = (
    "What verifying takes of the other model: contribution (activation and write weights) or"
    " activation (alone)."
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
        str, typer.Option(metavar="N|P%|zX|smallest", help="How many are selected: 30, 0.5%, z3.")
    ] = "0.5%",
    unit: Annotated[
        str, typer.Option(metavar="NAME", help="What is scored: neuron or head.")
    ] = "neuron",
    subtract: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Leave out what is located on these utility prompts too."
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
        bool, typer.Option("--verify/--no-verify", help="Verify what was located.")
    ] = True,
    checks: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="More tests: all, or some of " + ",".join(further.CHECKS) + "."
        ),
    ] = "none",
    baselines: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Other methods beside the set: all, or some of "
            + ",".join(others.BASELINES)
            + ".",
        ),
    ] = "none",
    ablations: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"Judged too: all, or some of {','.join(ABLATIONS)}."),
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
            metavar="N", min=1, help="Matched random sets.  [default: 39; 200 for small organisms]"
        ),
    ] = None,
    control_prompts: Annotated[
        int | None,
        typer.Option(
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
            metavar="N",
            min=1,
            help=(
                "Random sets judged on every control prompt; the others on as many as show that"
                " they do less than "
                "the located set.  [default: 5; all for small organisms]"
            ),
        ),
    ] = None,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Units that no random set draws: [[layer, neuron], ...]."
        ),
    ] = None,
    patch: Annotated[str, typer.Option(metavar="NAME", help=PATCH_HELP)] = "contribution",
    show_answers: Annotated[
        bool, typer.Option("--show-answers", help="Keep example answers to positive prompts too.")
    ] = False,
    common: BehaviourOptions,
) -> str:
    """Find the MLP neurons (or heads) that carry a tuned behaviour; verify them, held out, against
    random sets.

    Prompt files are .txt (a prompt a line), .jsonl, .csv, .tsv, .parquet, or - for stdin. Half of
    the clusters locate and half verify, unless two more files verify or --no-verify locates on all;
    of each, 48 prompts a class (--max-prompts). Most verdicts take 36 clusters a class: with fewer,
    no difference seen does not exclude one of 10 %. METHOD auto is integrated with a base and
    act-grad without. With --task the behaviour is to answer rightly, and --metric auto is
    logit-diff where the file has wrong answers, else answer-loss. The run is kept in the store,
    with one offline HTML page beside it.

    Example: interp locate-neurons ./tuned --base ./base --positive harmful.txt --negative
    harmless.txt --top 30
    """
    request = Request.of("locate-neurons", {**locals()})
    common.check()
    asked, beside = further.parse(checks), others.parse(baselines, verify)
    ablated = further.names_in(ablations, ABLATIONS, "--ablations")
    excluded = excluding.read(exclude, verify)
    if (kept := request.recall()) is not None:
        for note in kept.notes:
            common.remark(note)
        return tell(common, kept.runs, page_again(common.store, kept, _title(tuned)))
    # torch is imported only now, so that help, usage errors and repeats answer at once
    from interp.analyzers.control_locations import ControlLocations
    from interp.analyzers.locate_neurons import METHODS, LocateNeurons
    from interp.analyzers.locate_neurons.methods import resolve
    from interp.analyzers.verify_neurons import FEWEST_SETS, VerifyNeurons, fewest_clusters
    from interp.engines import engine_named
    from interp.maths.intervals import FEWEST_CLUSTERS
    from interp.models.pair import Pair
    from interp.models.sources import find
    from interp.models.units import unit_named
    from interp.prompts import Contrast
    from interp.store import Store

    require_controls(control)
    common.batches()
    engine_named(common.engine, common.remote)
    if quick:
        common = replace(
            common,
            max_prompts=min(common.max_prompts or QUICK_PROMPTS, QUICK_PROMPTS),
            max_new_tokens=min(common.max_new_tokens, QUICK_TOKENS),
        )
        random_sets = min(random_sets or QUICK_SETS, QUICK_SETS)
        common.remark(
            f"note: --quick reads {common.max_prompts} prompts a class and draws {random_sets}"
            " random sets: intervals are wide, and necessity is not tested, which needs"
            f" {fewest_clusters()} clusters and {FEWEST_SETS} sets"
        )
    common = replace(common, max_prompts=common.max_prompts or PROMPTS)
    if verify and not quick and random_sets is not None:
        common.warn_of_few(random_sets, FEWEST_SETS)
    sought = common.sought()
    located_on, verified_on = common.contrasts(verify)
    utility = None
    if subtract is not None:
        utility = Contrast(common.positives(subtract, "utility"), located_on.negative)
        if shared := set(utility.positive.shared(located_on.positive)):
            raise OptionError(
                f"--subtract {subtract} shares prompts with those located on, {min(shared)[:40]!r}"
            )
    number = int(steps) if steps.isdecimal() else steps
    has_base = common.base is not None or find(tuned).base_name is not None
    locate = LocateNeurons(
        method=method, top=top, positions=positions, steps=number, unit=unit, probe_fit=probe_fit
    )
    integral = METHODS[found := resolve(method, positions, has_base, unit)[0]].integral
    if quick and steps == "auto" and integral:
        locate = replace(locate, steps=QUICK_STEPS)
    if steps != "auto" and not integral:
        able = ", ".join(name for name, each in METHODS.items() if each.integral)
        raise OptionError(
            f"--steps is of methods with an integral, and {found} has none; use --method {able}"
        )
    locate.check(has_base, differentiable=common.differentiable(sought))
    if verify:
        VerifyNeurons(patch=patch).check(has_base)
    is_task = common.task is not None
    has_number = is_task or sought.differentiable
    asked = further.applicable(asked, checks == "all", has_base, is_task, has_number)
    beside = others.applicable(beside, baselines == "all", unit, is_task, has_number)
    described = request.describe()
    common.status(f"loading {tuned}" + (f" and {common.base}" if common.base else ""))
    pair = common.templated(Pair.load(tuned, common.base, **common.loading))
    anatomy, kind = pair.tuned.anatomy, unit_named(unit)
    metric = common.measured(pair.tokenizer, sought, located_on, verified_on, utility)
    study = common.study(pair, located_on, metric)
    locate.require(study)
    VerifyNeurons(excluded=excluded, unit=unit).check(
        pair.base is not None, (anatomy.n_layers, kind.count(anatomy))
    )
    locate.check(
        pair.base is not None, anatomy.n_layers * kind.count(anatomy), common.differentiable(sought)
    )
    store = Store(common.store)
    verifying = (
        None if verified_on is None else study.with_prompts(verified_on.limit(common.max_prompts))
    )
    halves = verified_on is not None and common.verify_positive is None
    lines = [
        f"located on {'a half of the clusters: ' if halves else ''}{study.counts}",
        *study.notes,
    ]
    if verifying is not None:
        other = "the other half, held out: " if halves else ""
        lines += [f"verified on {other}{verifying.counts}", *verifying.notes]
        if (few := verifying.require_contrast("verifying").n_clusters) < fewest_clusters():
            lines.append(
                f"{few} clusters of prompts verify; claims of what is lost or added need "
                f"{fewest_clusters()}, the others {FEWEST_CLUSTERS}"
            )
    notes = remarked(common, *lines)
    if utility is not None:
        locate = locate.minus(
            store.run(locate, study.with_prompts(utility.limit(common.max_prompts))).table
        )
    run = store.run(locate, study)
    runs = [run]
    if control:
        beside_set = []
        for at, (name, one) in enumerate(
            zip(control, each_control(common, control, pair), strict=True), 1
        ):
            with study.stages.during(f"control {at} of {len(control)}, {name}", study.quiet):
                beside_set.append(store.run(locate, replace(study, pair=one, _kept={})).table)
        runs.append(store.run(ControlLocations.of(run.table, *beside_set), study))
    if verify:
        small = (
            tuned.startswith("organism:")
            and organisms.packaged(tuned.removeprefix("organism:")) is None
        )
        if random_sets is None:
            random_sets = RANDOM_SETS_ORGANISM if small else RANDOM_SETS
        if control_prompts is None:
            control_prompts = CONTROL_PROMPTS_ORGANISM if small else CONTROL_PROMPTS
            if quick:
                control_prompts = QUICK_CONTROL_PROMPTS
        size = int(run.table["selected"].sum())
        checker = VerifyNeurons.of(
            run.table,
            random_sets=random_sets,
            control_prompts=control_prompts,
            judged_sets=judged_sets or (0 if small else JUDGED_SETS),
            patch=patch,
            show_answers=show_answers,
            ablations=ablated,
            excluded=excluded,
            # at seven other sizes or more: beside the null they cost much again
            dose_draws=5 if small else 1,
            **({"directions": ("necessity",), "doses": False, "cell_sets": 0} if quick else {}),
            depth=0 if small else size * (1 if quick else 2),
        )
        runs.append(store.run(checker, verifying))
        notes += remarked(common, *runs[-1].summary.get("warnings", ()))
        if beside and not runs[-1].summary["selected"]:
            notes += remarked(
                common, "nothing was selected: there are no baselines to compare it with"
            )
        elif beside:
            compared = others.compared(beside, store, study, runs[-1].table, run.table)
            runs.append(store.run(compared, verifying))
    for name, analyzer in further.analyzers(asked, locate, run.table, excluded).items():
        runs.append(store.run(analyzer, further.studied(name, study, verifying)))
    return write(common, request, described, runs, notes, _title(tuned))


def _title(tuned: str) -> str:
    return f"What carries it? {tuned}"
