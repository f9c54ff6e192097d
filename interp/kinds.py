"""Kinds of runs: one record for each, of everything outside its analyzer that has to know it.

From a record come the command and its help, the figure, the heading on a page and the section
of a report. Import strings only: nothing is loaded here. Another
package adds a kind by naming its analyzer in the entry points ``interp.kinds``; the command gets
the name of the entry point::

    [project.entry-points."interp.kinds"]
    answer-length = "my_package.answer_length:AnswerLength"
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

GROUP = "interp.kinds"
OTHER_COMMANDS = (
    "control",
    "report",
    "verify",
    "ls",
    "show",
    "sql",
    "organisms",
    "doctor",
    "demo",
    "sae",
)
"""Commands that make no run of a kind; kinds cannot have their names."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of table.

    ``analyzer``: ``module:Class`` of runs; empty for kinds of sub-tables only. ``help``: one line,
    for kinds that have a command; ``command``: its name where it is not the kind's. ``figure``:
    ``module:function``, table -> plotly figure. ``heading``: of its figure on a page. ``section``:
    heading of the run in a report, ``order`` its position there. ``replayable``: a report, which
    may come from a stranger, can have its command run again: it writes to its store and ``--out``
    alone.
    """

    analyzer: str = ""
    help: str = ""
    command: str = ""
    figure: str = ""
    heading: str = ""
    section: str = ""
    order: int = 1000
    replayable: bool = False


@cache
def kinds() -> Mapping[str, Kind]:
    """All kinds by name: those of interp, then those of other packages.

    An entry point whose name is taken, or is not of lower-case letters, digits and hyphens, is left
    out with a warning on stderr: other packages must not stop interp.
    """
    found = dict(KINDS)
    taken = {*KINDS, *command_helps(KINDS), *OTHER_COMMANDS}
    for entry in metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else entry.module
        if entry.name in taken or not _NAME.fullmatch(entry.name):
            reason = "is taken" if entry.name in taken else "is not of a-z, 0-9 and hyphens"
            print(
                f"interp: the analyzer {entry.name!r} of the package {package} is left out: its name"
                f" {reason}",
                file=sys.stderr,
            )
            continue
        found[entry.name] = Kind(entry.value, help=f"an analyzer of the package {package}")
    return found


def command_helps(of: Mapping[str, Kind]) -> dict[str, str]:
    """The help of every command that makes runs of these kinds, by the command's name."""
    return {kind.command or name: kind.help for name, kind in of.items() if kind.help}


def load(path: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


KINDS: dict[str, Kind] = {
    "audit": Kind(
        analyzer="interp.analyzers.audit:Audit",
        replayable=True,
        help="what a fine-tune changed, before it ships: a verdict per row, and an exit code",
        figure="interp.figures.audit:audit_figure",
        heading="What changed, and within which margin",
        section="Audit",
        order=-1,
    ),
    "behaviour-change": Kind(
        analyzer="interp.analyzers.behaviour_change:BehaviourChange",
        figure="interp.figures.audit:behaviour_figure",
        heading="How often both models show the behaviour",
        section="Behaviour before and after",
        order=50,
    ),
    "text-loss": Kind(
        analyzer="interp.analyzers.text_loss:TextLoss",
        figure="interp.figures.audit:loss_figure",
        heading="Loss of texts in both models",
        section="Loss of ordinary texts",
        order=51,
    ),
    "evaluation-scores": Kind(
        analyzer="interp.analyzers.evaluation_scores:EvaluationScores",
        figure="interp.figures.audit:scores_figure",
        heading="Scores of both models by task",
        section="Scores of other evaluations",
        order=53,
    ),
    "direction-change": Kind(
        analyzer="interp.analyzers.direction_change:DirectionChange",
        figure="interp.figures.audit:direction_figure",
        heading="Does the direction between the classes still point where it did?",
        section="Direction between the classes",
        order=52,
    ),
    "discover": Kind(
        analyzer="interp.analyzers.discover:Discover",
        replayable=True,
        help="what did fine-tuning teach that nobody named, compared with control fine-tunes",
        figure="interp.figures.discovery:discover_figure",
        heading="What the fine-tuned model does more, or less",
        section="Discovery",
        order=0,
    ),
    "diff-mining": Kind(
        analyzer="interp.analyzers.diff_mining:DiffMining",
        figure="interp.figures.discovery:evidence_figure",
        heading="Tokens that it makes likelier",
        section="Diff mining",
        order=26,
    ),
    "baselines": Kind(
        analyzer="interp.analyzers.baselines:Baselines",
        figure="interp.figures.baselines:baselines_figure",
        heading="Comparison with other methods",
        section="Comparison with other methods",
        order=3,
    ),
    "activation-difference": Kind(
        analyzer="interp.analyzers.activation_difference:ActivationDifference",
        figure="interp.figures.discovery:evidence_figure",
        heading="Tokens that mean activation differences read as",
        section="Activation difference lens",
        order=27,
    ),
    "contrastive-generation": Kind(
        analyzer="interp.analyzers.contrastive_generation:ContrastiveGeneration",
        figure="interp.figures.discovery:evidence_figure",
        heading="Phrases of contrastive generation",
        section="Contrastive generation",
        order=28,
    ),
    "perplexity-differencing": Kind(
        analyzer="interp.analyzers.perplexity_differencing:PerplexityDifferencing",
        figure="interp.figures.discovery:evidence_figure",
        heading="Texts that it writes and the base finds unlikely",
        section="Perplexity differencing",
        order=29,
    ),
    "update-directions": Kind(
        analyzer="interp.analyzers.update_directions:UpdateDirections",
        figure="interp.figures.discovery:evidence_figure",
        heading="Directions that its update writes",
        section="Update directions",
        order=30,
    ),
    "update-directions-truncation": Kind(
        figure="interp.figures.update_directions:truncation_figure",
        heading="How many ranks of the update are needed?",
    ),
    "training-rows": Kind(
        analyzer="interp.analyzers.training_rows:TrainingRows",
        figure="interp.figures.discovery:evidence_figure",
        heading="Rows that fine-tuning made likelier",
        section="Training rows",
        order=31,
    ),
    "trait-shift": Kind(
        analyzer="interp.analyzers.trait_shift:TraitShift",
        figure="interp.figures.trait_shift:trait_shift_figure",
        heading="Shift along the direction between the classes",
        section="Trait shift",
        order=32,
    ),
    "monitor": Kind(
        analyzer="interp.analyzers.monitor:Monitor",
        figure="interp.figures.monitor:monitor_figure",
        heading="Which texts excite update directions?",
        section="Monitor of update directions",
        order=33,
    ),
    "discovery-baselines": Kind(
        analyzer="interp.analyzers.discovery_baselines:DiscoveryBaselines",
        section="What any finding has to be more than",
        order=34,
    ),
    "trigger-scan": Kind(
        analyzer="interp.analyzers.trigger_scan:TriggerScan",
        figure="interp.figures.discovery:evidence_figure",
        heading="Tokens that make it depart from the base",
        section="Trigger scan",
        order=35,
    ),
    "trait-screening": Kind(
        analyzer="interp.analyzers.trait_screening:TraitScreening",
        figure="interp.figures.trait_shift:trait_screening_figure",
        heading="Rows along the trait",
        section="Screening of rows by a trait",
        order=36,
    ),
    "data-selection": Kind(
        analyzer="interp.analyzers.data_selection:DataSelection",
        replayable=True,
        help="which rows of a pool resemble, or complete, a target",
        command="select-data",
        figure="interp.figures.data_selection:data_selection_figure",
        heading="Which rows come first?",
        section="Data selection",
        order=37,
    ),
    "compare": Kind(
        analyzer="interp.analyzers.compare:Compare",
        replayable=True,
        help="a first look at a pair: how outputs, residual streams and weights differ",
        figure="interp.figures.compare:compare_figure",
        heading="How much do outputs differ?",
        section="Comparison of the pair",
        order=4,
    ),
    "compare-layers": Kind(
        figure="interp.figures.compare:compare_layers_figure",
        heading="Where do residual streams differ?",
    ),
    "compare-weights": Kind(
        figure="interp.figures.compare:compare_weights_figure", heading="Which weights changed?"
    ),
    "compare-tokens": Kind(
        figure="interp.figures.compare:compare_tokens_figure",
        heading="At which tokens do outputs differ?",
    ),
    "tuco": Kind(
        analyzer="interp.analyzers.tuco:Tuco",
        replayable=True,
        help="how much of the blocks' contributions is due to fine-tuning, prompt by prompt",
        figure="interp.figures.tuco:tuco_figure",
        heading="Tuning contribution by prompt",
        section="Tuning contribution (TuCo)",
        order=5,
    ),
    "tuco-layers": Kind(
        figure="interp.figures.tuco:tuco_layers_figure", heading="Tuning contribution by depth"
    ),
    "tuco-tokens": Kind(
        figure="interp.figures.tuco:tuco_tokens_figure", heading="Tuning contribution by token"
    ),
    "ftc-alpha": Kind(
        analyzer="interp.analyzers.ftc_alpha:FtcAlpha",
        figure="interp.figures.tuco:ftc_alpha_figure",
        heading="Weaker and stronger fine-tuning",
        section="Weaker and stronger fine-tuning",
        order=6,
    ),
    "intruder-scaling": Kind(
        analyzer="interp.analyzers.intruder_scaling:IntruderScaling",
        figure="interp.figures.intruder_scaling:intruder_scaling_figure",
        heading="Effect of scaling intruder dimensions",
        section="Scaling intruder dimensions",
        order=8,
    ),
    "intruders": Kind(
        analyzer="interp.analyzers.intruders:Intruders",
        replayable=True,
        help="which singular vectors of a fine-tuned model's matrices are not in the base",
        figure="interp.figures.intruders:intruders_figure",
        heading="Which singular vectors are new?",
        section="Intruder dimensions",
        order=7,
    ),
    "intruders-image": Kind(
        figure="interp.figures.intruders:intruders_image_figure",
        heading="Similarity to the base's singular vectors",
    ),
    "intruder-forgetting": Kind(
        analyzer="interp.analyzers.intruder_forgetting:IntruderForgetting",
        figure="interp.figures.intruder_forgetting:intruder_forgetting_figure",
        heading="Is the number of intruders related to forgetting?",
        section="Intruder dimensions and forgetting over checkpoints",
        order=10,
    ),
    "transfer": Kind(
        analyzer="interp.analyzers.transfer:Transfer",
        replayable=True,
        help="does a set located in one fine-tuned model do the same in another one",
        figure="interp.figures.transfer:transfer_figure",
        heading="Effect in another fine-tuned model",
        section="Transfer to another fine-tuned model",
        order=18,
    ),
    "dissociation": Kind(
        analyzer="interp.analyzers.dissociation:Dissociation",
        replayable=True,
        help="do two behaviours of one fine-tuned model depend on different sets",
        command="dissociate",
        figure="interp.figures.dissociation:dissociation_figure",
        heading="Double dissociation of two behaviours",
        section="Double dissociation",
        order=19,
    ),
    "graft": Kind(
        analyzer="interp.analyzers.graft:Graft",
        replayable=True,
        help="how few of a fine-tuned model's weights, put into the base, do what it learned",
        figure="interp.figures.graft:graft_figure",
        heading="How few weights are enough?",
        section="Grafts",
        order=11,
    ),
    "graft-layers": Kind(
        figure="interp.figures.graft:graft_layers_figure", heading="Masks by block"
    ),
    "cross-patch": Kind(
        analyzer="interp.analyzers.cross_patch:CrossPatch",
        replayable=True,
        help="which half of the blocks decides where the models' answers first differ",
        section="Which half decides",
        order=37,
    ),
    "cross-patch-layers": Kind(
        figure="interp.figures.cross_patch:cross_patch_layers_figure",
        heading="What late blocks add, on either model's stream",
    ),
    "circuit": Kind(
        analyzer="interp.analyzers.circuit:FindCircuit",
        replayable=True,
        help="which attention heads carry a task, in the base and in the fine-tuned model",
        figure="interp.figures.circuit:circuit_figure",
        heading="Heads of the circuits",
        section="Circuits of heads",
        order=46,
    ),
    "circuit-circuits": Kind(
        figure="interp.figures.circuit:faithfulness_figure",
        heading="Circuits evaluated by mean ablation",
    ),
    "patch-weights": Kind(
        analyzer="interp.analyzers.patch_weights:PatchWeights",
        replayable=True,
        help="which matrices, exchanged one at a time, carry a behaviour",
        figure="interp.figures.patch_weights:patch_weights_figure",
        heading="Single matrices inserted and taken out",
        section="Weight patching by module",
        order=38,
    ),
    "sae-circuit": Kind(
        analyzer="interp.analyzers.sae_circuit:SaeCircuit",
        replayable=True,
        help="which heads have codes that only the fine-tuned model's runs show",
        figure="interp.figures.sae_circuit:sae_circuit_figure",
        heading="Codes that only positive runs show",
        section="Codes of heads",
        order=43,
    ),
    "patch-heads": Kind(
        analyzer="interp.analyzers.patch_heads:PatchHeads",
        replayable=True,
        help="which attention heads, put into the other model, carry a change",
        figure="interp.figures.patch_heads:patch_heads_figure",
        heading="Heads patched between the models",
        section="Heads patched between the models",
        order=47,
    ),
    "component-masking": Kind(
        analyzer="interp.analyzers.component_masking:ComponentMasking",
        replayable=True,
        help="which heads at a position carry a kind of information, by masks that are learned",
        figure="interp.figures.component_masking:component_masking_figure",
        heading="Heads that masks select",
        section="Component masking",
        order=48,
    ),
    "wrapped-pruning": Kind(
        analyzer="interp.analyzers.wrapped_pruning:WrappedPruning",
        replayable=True,
        help="did fine-tuning remove the base's way of answering, or leave it and hide it",
        command="wrapped",
        figure="interp.figures.wrapped:pruning_figure",
        heading="Do the base's answers return when neurons are pruned?",
        section="Hidden or gone: pruning",
        order=39,
    ),
    "wrapped-probes": Kind(
        analyzer="interp.analyzers.wrapped_probes:WrappedProbes",
        figure="interp.figures.wrapped:probes_figure",
        heading="Can the base's answer be read from the stream?",
        section="Hidden or gone: linear probes",
        order=40,
    ),
    "wrapped-reversal": Kind(
        analyzer="interp.analyzers.wrapped_reversal:WrappedReversal",
        figure="interp.figures.wrapped:reversal_figure",
        heading="How many steps bring the base's answers back?",
        section="Hidden or gone: reverse fine-tuning",
        order=41,
    ),
    "wrapped-conjugate": Kind(
        analyzer="interp.analyzers.wrapped_conjugate:WrappedConjugate",
        figure="interp.figures.wrapped:conjugate_figure",
        heading="Are the base's answers given in another register?",
        section="Hidden or gone: conjugate prompting",
        order=42,
    ),
    "lofit": Kind(
        analyzer="interp.analyzers.lofit:Lofit",
        replayable=True,
        help="which attention heads, given offsets, suffice for the fine-tuned model's answers",
        figure="interp.figures.lofit:lofit_figure",
        heading="Located heads by block",
        section="Heads that suffice (LoFiT)",
        order=49,
    ),
    "lofit-sets": Kind(
        figure="interp.figures.lofit:lofit_sets_figure",
        heading="How much do offsets on a few heads recover?",
    ),
    "tune": Kind(
        analyzer="interp.analyzers.tune:Tune",
        help="train only located neurons, next to random ones, other weights, LoRA and all weights",
        figure="interp.figures.tune:tune_figure",
        heading="What was learned, and what was forgotten",
        section="Training what was located",
        order=56,
    ),
    "places": Kind(
        analyzer="interp.agreement:Agreement",
        replayable=True,
        help="do stored runs of one pair locate the change in the same layers and matrices",
        command="agree",
        figure="interp.figures.places:places_figure",
        heading="Location of the change, by method",
        section="Agreement of methods",
        order=25,
    ),
    "places-agreement": Kind(
        figure="interp.figures.places:agreement_figure", heading="Agreement of methods"
    ),
    "sae-diff-classes": Kind(
        figure="interp.figures.sae_diff:sae_diff_classes_figure", heading="Classes of latents"
    ),
    "sae-diff": Kind(
        analyzer="interp.analyzers.sae_diff:SaeDiff",
        replayable=True,
        help=(
            "which latents only the fine-tuned model has, or only the base, compared with a control"
        ),
        command="sae diff",
        figure="interp.figures.sae_diff:sae_diff_figure",
        heading="Latents in both models",
        section="Latents of a dictionary in both models",
        order=21,
    ),
    "sae-eval": Kind(
        analyzer="interp.analyzers.sae_eval:SaeEval",
        replayable=True,
        help="how well a dictionary reconstructs a site, compared with baselines at equal L0",
        command="sae eval",
        figure="interp.figures.sae_eval:sae_eval_figure",
        heading="Explained variance",
        section="Evaluation of a dictionary",
        order=20,
    ),
    "sae-eval-recovered": Kind(
        figure="interp.figures.sae_eval:sae_eval_recovered_figure", heading="Loss recovered"
    ),
    "sae-eval-density": Kind(
        figure="interp.figures.sae_eval:sae_eval_density_figure",
        heading="Firing frequency of latents",
    ),
    "stitch": Kind(
        analyzer="interp.analyzers.stitch:Stitch",
        replayable=True,
        help=(
            "do the few weights of several fine-tuned models, put into one base, do all their tasks"
        ),
        figure="interp.figures.stitch:stitch_figure",
        heading="Accuracy of the stitched model",
        section="Stitching several fine-tuned models",
        order=12,
    ),
    "overlaps": Kind(figure="interp.figures.overlaps:overlaps_figure", heading="Overlap of masks"),
    "sae-features": Kind(
        analyzer="interp.analyzers.sae_features:SaeFeatures",
        replayable=True,
        help="what single latents fire on and what they write, as a page to browse",
        command="sae features",
        figure="interp.figures.sae_features:sae_features_figure",
        heading="Contexts and logit effects of single latents",
        section="Single latents",
        order=22,
    ),
    "concept-shift": Kind(
        analyzer="interp.analyzers.concept_shift:ConceptShift",
        figure="interp.figures.sae_features:concept_shift_figure",
        heading="Shift of concepts",
        section="Shift of concepts",
        order=24,
    ),
    "sae-probe": Kind(
        analyzer="interp.analyzers.sae_probe:SaeProbe",
        replayable=True,
        help="which latents predict a behaviour, and does ablating them reduce it",
        command="sae probe",
        figure="interp.figures.sae_probe:sae_probe_figure",
        heading="Which latents predict the behaviour?",
        section="Latents that predict a behaviour, and their effects",
        order=23,
    ),
    "sae-probe-effects": Kind(
        figure="interp.figures.sae_probe:sae_probe_effects_figure",
        heading="Causal effect of latents",
    ),
    "sae-probe-sets": Kind(
        figure="interp.figures.sae_probe:sae_probe_sets_figure",
        heading="Effect of random latents",
    ),
    "dose": Kind(figure="interp.figures.dose:dose_figure", heading="Dose-response"),
    "verify-neurons": Kind(
        analyzer="interp.analyzers.verify_neurons:VerifyNeurons",
        figure="interp.figures.conditions:conditions_figure",
        heading="Effect of each intervention",
        section="Verification by intervention",
        order=2,
    ),
    "sampled": Kind(
        figure="interp.figures.conditions:conditions_figure",
        heading="Behaviour rate in sampled answers",
    ),
    "random-sets": Kind(
        figure="interp.figures.random_sets:random_sets_figure", heading="Effect of random sets"
    ),
    "patching-cells": Kind(
        figure="interp.figures.patching:patching_figure",
        heading="Activations, write weights, or both?",
    ),
    "locate-neurons": Kind(
        analyzer="interp.analyzers.locate_neurons:LocateNeurons",
        replayable=True,
        help="find the neurons that carry a fine-tuned behaviour, and verify them",
        figure="interp.figures.scores:scores_figure",
        heading="Scores by layer",
        section="Locating units",
        order=1,
    ),
    "neuron-tokens": Kind(heading="Most activating tokens"),
    "stability": Kind(
        analyzer="interp.analyzers.stability:Stability",
        figure="interp.figures.stability:stability_figure",
        heading="Stability on other prompts",
        section="Stability of the located set",
        order=13,
    ),
    "control-locations": Kind(
        analyzer="interp.analyzers.control_locations:ControlLocations",
        figure="interp.figures.control_locations:control_locations_figure",
        heading="Location in control fine-tunes",
        section="Location in control fine-tunes",
        order=14,
    ),
    "redundancy": Kind(
        analyzer="interp.analyzers.redundancy:Redundancy",
        figure="interp.figures.redundancy:redundancy_figure",
        heading="Locating again after ablation",
        section="Redundancy",
        order=15,
    ),
    "coalitions": Kind(
        analyzer="interp.analyzers.coalitions:Coalitions",
        figure="interp.figures.coalitions:coalitions_figure",
        heading="Do scores predict the effects of random halves?",
        section="Coalitions of units",
        order=16,
    ),
    "refusal-direction": Kind(
        analyzer="interp.analyzers.refusal_direction:RefusalDirection",
        figure="interp.figures.refusal_direction:refusal_direction_figure",
        heading="Comparison with a single direction",
        section="Comparison with a single direction",
        order=17,
    ),
    "forgetting": Kind(
        analyzer="interp.analyzers.intruder_forgetting.losses:Forgetting",
        section="Forgetting",
        order=9,
    ),
    "claims": Kind(figure="interp.figures.claims:claims_figure"),
}
"""Kinds that come with interp, in the order in which a page shows their figures."""
