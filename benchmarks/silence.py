"""Silence: ``python -m benchmarks.silence [--write]``. What the toolkit claims where there is
nothing to claim.

1. The identical pair: every method that compares two models scores exactly zero.
2. ``sham`` (same steps and update norm as ``full``, harmless data): no claim about the behaviour.
3. Label permutations within twins: the share of permutations in which ``contrast`` finds any
   neuron, and in which the behaviour is claimed; both should be at most about 5 %.
4. Random rankings: the share in which their first k neurons are shown to be necessary.
"""

from dataclasses import replace

import numpy as np

from benchmarks.methods import study_of
from benchmarks.page import CommandLine, machine, markdown, write_section
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.analyzers.verify_neurons.behaviour import behaviour_claim
from interp.analyzers.verify_neurons.evidence import Evidence
from interp.analyzers.verify_neurons.tables import answers_table
from interp.capture import capture
from interp.claims import evaluate
from interp.experiments.conditions import PatchSource, PatchTarget, evaluate_condition
from interp.experiments.contributions import contribution_norms
from interp.experiments.outcomes import Outcomes
from interp.interventions.random_sets import matched_sets
from interp.maths.host import to_host
from interp.maths.statistics import (
    benjamini_hochberg,
    clopper_pearson,
    paired_t_test,
    permutation_p,
    standardised_difference,
)
from interp.models.pair import Pair
from interp.sites import neurons
from interp.study import Study
from interp.table import table

PERMUTED, RANKED, RANKINGS, SETS = ("planted", "full", "sham"), ("planted", "full"), 40, 19
COLUMNS = ["where", "what", "seen", "expected"]
SMALL = {
    "PERMUTED": ("planted",),
    "RANKED": ("planted",),
    "RANKINGS": 2,
    "prompts": 12,
    "draws": 19,
}


def identical(prompts: int) -> list[dict]:
    """The base against itself, loaded twice."""
    study = study_of(
        "base", "locate", prompts, Pair.load("organism:refusal/base", "organism:refusal/base")
    )
    names = [name for name, method in METHODS.items() if method.needs_base]
    largest = max(float(np.abs(LocateNeurons(method=name)(study)["score"]).max()) for name in names)
    return [
        {
            "where": "identical pair",
            "what": f"largest score of {', '.join(names)}",
            "seen": largest,
            "expected": 0,
        }
    ]


def sham(prompts: int, random_sets: int) -> list[dict]:
    """The control fine-tune ``sham``, located and verified like any other child."""
    locate = study_of("sham", "locate", prompts)
    located = LocateNeurons(top="30")(locate)
    verified = VerifyNeurons(located, random_sets=random_sets)(
        study_of("sham", "verify", prompts, locate.pair)
    )
    verdicts, whole = verified.summary["verdicts"], verified.summary["supported"]
    rows = [{"where": "sham", "what": "supported as a whole", "seen": whole, "expected": False}]
    rows += [
        {
            "where": "sham",
            "what": f"claim {name}",
            "seen": verdicts.get(name, "not made"),
            "expected": "not supported",
        }
        for name in ("behaviour", "necessity", "sufficiency")
    ]
    return rows


def last_activations(study: Study, group: str) -> np.ndarray:
    """Activations of all neurons at the last prompt token in the tuned model, ``[prompts, L * N]``."""
    model = study.pair.tuned
    sites = [neurons(layer) for layer in range(model.anatomy.n_layers)]
    found = np.zeros((len(study.prompts(group)), len(sites) * model.anatomy.n_neurons))
    groups = study.groups(group, model)
    for seen in capture(
        study.engine, {"tuned": model}, study.encoded(group), groups, sites, pad_id=study.pad_id
    ):
        values = [to_host(seen.values["tuned", site][:, -1]) for site in sites]
        found[to_host(seen.rows)] = np.concatenate(values, 1)
    return found


def permuted(name: str, prompts: int, draws: int) -> list[dict]:
    """Labels exchanged within twins at random."""
    study = study_of(name, "verify", prompts)
    twins = np.array(study.twins("positive"))
    positive, negative = (
        last_activations(study, "positive"),
        last_activations(study, "negative")[twins],
    )
    judged = {
        (role, group): evaluate_condition(study, role, group, PatchTarget(role))
        for role in ("base", "tuned")
        for group in ("positive", "negative")
    }
    found = unpaired = claimed = 0
    for swap in np.random.default_rng(0).random((draws, len(twins))) < 0.5:
        a = np.where(swap[:, None], negative, positive)
        b = np.where(swap[:, None], positive, negative)
        found += bool((benjamini_hochberg(paired_t_test(a, b)) <= 0.05).any())
        unpaired += bool((benjamini_hochberg(standardised_difference(a, b).p) <= 0.05).any())
        items = []
        for role in ("base", "tuned"):
            harmful, harmless = judged[role, "positive"], judged[role, "negative"]
            other = harmless.exhibits[twins]
            items.append(replace(harmful, exhibits=np.where(swap, other, harmful.exhibits)))
            back = harmless.exhibits.copy()
            back[twins] = np.where(swap, harmful.exhibits, other)
            items.append(replace(harmless, exhibits=back))
        evidence = Evidence(results=items, changed=swap, rows=[], has_base=True, selected=0)
        claimed += _claimed(study, evidence)
    true = _claimed(study, Evidence(list(judged.values()), twins > -1, [], True, 0))
    located = LocateNeurons(method="contrast")(study)
    real = located.summary["n_significant"]
    # what is permuted here is what the analyzer computes
    np.testing.assert_allclose(
        benjamini_hochberg(paired_t_test(positive, negative)),
        located["q"],
        rtol=1e-4,
        atol=1e-12,
    )
    return [
        {
            "where": f"{name}, true labels",
            "what": "contrast: neurons found",
            "seen": real,
            "expected": "many",
        },
        {
            "where": f"{name}, true labels",
            "what": "behaviour claimed",
            "seen": true,
            "expected": name != "sham",
        },
        _rate(name, "contrast: any neuron found", found, draws),
        _rate(name, "the same with an unpaired t, which is not used", unpaired, draws),
        _rate(name, "behaviour claimed", claimed, draws),
    ]


def _claimed(study: Study, evidence: Evidence) -> bool:
    """Whether the claim that there is a behaviour is supported by these answers."""
    run = table("verify-neurons", {}, tables={"answers": answers_table(study, evidence)})
    return evaluate([behaviour_claim(study, evidence)], run)[0].supported


def random_rankings(name: str, prompts: int, draws: int) -> list[dict]:
    """Neurons in random order: how often the first k are shown to be necessary, by whole answers
    returned and by p.
    """
    study = study_of(name, "verify", prompts)
    donors = PatchSource.from_study(study)
    norms = contribution_norms(study, donors)
    everything = study.pair.tuned.anatomy.all_neurons
    changed = np.array(
        [
            a != b
            for a, b in zip(
                study.answers("base", "positive"), study.answers("tuned", "positive"), strict=True
            )
        ]
    )
    rows = [int(row) for row in np.flatnonzero(changed)]
    outcomes = Outcomes(study, donors, "necessity", rows, exact=True)
    rows = []
    for share in (0.05, 0.2, 0.4):
        k, hits = round(share * len(everything)), 0
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(everything))[:k]
            located = [everything[index] for index in order]
            effect = outcomes.effects(outcomes.of(located))["exact"]
            if effect >= 0.5:  # else nothing is claimed, whatever the random sets do
                null = [
                    outcomes.effects(outcomes.of(chosen))["exact"]
                    for chosen in matched_sets(located, norms, SETS, draw)
                ]
                hits += permutation_p(effect, null) <= 0.05
        rows.append(
            {
                **_rate(name, f"random {k} neurons necessary ({SETS} sets)", hits, draws),
                "where": f"{name}, random",
            }
        )
    return rows


def _rate(name: str, what: str, count: int, draws: int) -> dict:
    low, high = clopper_pearson(count, draws)
    seen = f"{count} of {draws} ({count / draws:.1%}, {low:.1%} to {high:.1%})"
    return {
        "where": f"{name}, permuted labels",
        "what": what,
        "seen": seen,
        "expected": "at most 5 %",
    }


def main() -> None:
    """Measure, print, and write where asked."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--prompts", type=int, default=96, help="prompts per class")
    parser.add_argument("--draws", type=int, default=200, help="permutations and random sets")
    options = parser.read()
    rows = [*identical(options.prompts), *sham(options.prompts, options.draws)]
    for name in PERMUTED:
        rows += permuted(name, options.prompts, options.draws)
    for name in RANKED:
        rows += random_rankings(name, min(options.prompts, 16), RANKINGS)
    text = markdown(rows, COLUMNS)
    print(text)
    if options.write:
        note = (
            f"`python -m benchmarks.silence --write --prompts {options.prompts} --draws"
            f" {options.draws}`. {machine()}"
        )
        write_section("silence", f"{note}\n\n{text}")


if __name__ == "__main__":
    main()
