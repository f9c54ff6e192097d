"""``SaeEval``: how well a dictionary replaces a site of a model, compared with baselines at
its L0.

1. A pass over the prompts: reconstruction of all tokens, the dictionary's L0, mean and covariance
   of the data.
2. Fit principal components and random rows with as many codes (rounded up).
3. A second pass: reconstructions by the baselines, and the model run with each reconstruction, zero
   or the mean at the site.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from interp.analyzers.framework import Analyzer, Known, Result, option
from interp.analyzers.sae_eval.compute import (
    DEVIATION,
    DICTIONARY,
    PCA,
    PCA_DIFFERENCE,
    RANDOM,
    EvaluationPasses,
    EvaluationSums,
    Reconstructor,
    difference_components,
    fit_baselines,
)
from interp.analyzers.sae_eval.findings import claims_of, wording_for
from interp.analyzers.sae_eval.tables import (
    limitations,
    part_errors,
    prompts_table,
    recovered_shares,
    recovered_table,
    splice_table,
)
from interp.errors import OptionError, required
from interp.sae import Dictionary
from interp.sae.analysis.baselines import Covariance
from interp.sae.analysis.input_output import MODEL_ROLES, TUNED, InputOutput
from interp.sae.analysis.scores import Scores, conversations_table, density_table, scores_table
from interp.sae.analysis.token_groups import (
    SPECIAL_CODES,
    UNKNOWN_ROLE,
    EncodedPrompts,
    encode_conversations,
    token_groups,
    with_token_codes,
)
from interp.sae.training.activation_source import MAX_CONTEXT
from interp.study import Study


@dataclass(frozen=True)
class SaeEval(Analyzer):
    """Evaluate a dictionary of ``site`` on the study's prompts and the tuned model.

    ``target``: the site that a transcoder reconstructs. ``model_role``: which model the rows are from
    (``interp.sae.analysis.input_output``): the tuned model, both models concatenated (a crosscoder)
    or tuned minus base; the last two need a base. ``content_only``: ignore special tokens and those
    of the chat template, and do not splice them. Prompts with ``messages`` are read as entire
    conversations, each in its own sequence and truncated at the model's context length, as in
    training.

    Baselines read the same input as the dictionary: for a crosscoder concatenated rows, for a
    dictionary of differences the differences, for a transcoder the least-squares prediction of the
    target from the input; for a transcoder with a skip connection the baseline is the full
    prediction. A crosscoder is also scored per model, and on tuned minus base by the difference of
    its halves, compared with the same from joint components and with components of tuned minus
    base, with as many codes.

    Returns a table of kind ``sae-eval`` (a row per dictionary and part), with ``splice`` and
    ``prompts`` (rows per prompt), ``conversations`` (per prompt and part), ``density``,
    ``recovered``.
    """

    name: ClassVar[str] = "sae-eval"
    version: ClassVar[int] = 3

    dictionary: Dictionary = option(help="The dictionary.", compare=False)
    site: str = option("", "Site that the dictionary reads, as blocks.3.hook_resid_post.")
    content_only: bool = option(False, "Ignore special tokens and those of the template.")
    target: str = option("", "Target site of a transcoder.")
    model_role: str = option(
        TUNED, "Model that the dictionary reads: tuned, both, difference.", choices=MODEL_ROLES
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for a dictionary that cannot be evaluated with these options, or
        without a base.
        """
        self._inputs_outputs(known.has_base is not False)

    def require(self, study: Study) -> None:
        """Raise OptionError or UnsupportedModel for a study without the base or the sites."""
        super().require(study)
        inputs_outputs = self._inputs_outputs()
        for role in inputs_outputs.roles:
            for site in inputs_outputs.sites:
                study.pair[role].at(site)

    def _inputs_outputs(self, has_base: bool = True) -> InputOutput:
        return InputOutput.from_config(
            self.dictionary.config, self.site, self.target, self.model_role, has_base
        )

    def run(self, study: Study) -> Result:
        """Run both passes over the prompts."""
        inputs_outputs, device = self._inputs_outputs(), study.pair.tuned.device
        has_conversations = any(prompt.messages for prompt in study.prompts("positive"))
        prompts = _encode_prompts(study, inputs_outputs, has_conversations)
        parts = {} if self.content_only else token_groups(prompts.encoded, has_conversations)
        dictionary, config = self.dictionary.to(device), self.dictionary.config
        passes = EvaluationPasses(
            study,
            inputs_outputs,
            config,
            prompts.encoded,
            (*SPECIAL_CODES, UNKNOWN_ROLE) if self.content_only else (),
        )

        def empty(latents: int) -> Scores:
            return Scores(config.outputs, latents, parts, device, inputs_outputs.views)

        dictionary_scores = empty(config.width)
        is_transcoder = inputs_outputs.site != inputs_outputs.target
        covariance = Covariance.empty(config.outputs + is_transcoder * config.inputs, device)
        for batch in passes.read_rows():
            dictionary_scores.update(
                batch.y,
                *passes.reconstruct(dictionary, batch.x),
                roles=batch.roles,
                owners=batch.owners,
            )
            covariance.update(torch.cat([batch.x, batch.y], 1) if is_transcoder else batch.y)
        if dictionary_scores.count < 2:
            raise OptionError(
                f"{dictionary_scores.count} tokens are too few to score a dictionary; give more"
                " prompts"
            )
        k = max(1, int(np.ceil(dictionary_scores.summary()["l0"] - 1e-9)))
        dtype = dictionary.W_dec.dtype
        reconstructors: dict[str, Reconstructor] = {DICTIONARY: dictionary} | fit_baselines(
            covariance, config, is_transcoder, k, study.seed, dtype
        )
        scores = {DICTIONARY: dictionary_scores} | {
            name: empty(reconstructors[name].config.width) for name in (PCA, RANDOM)
        }
        sums = passes.splice_all(
            reconstructors,
            scores,
            dictionary_scores.mean,
            difference_components(covariance, k, dtype) if inputs_outputs.views else None,
        )
        k = required(reconstructors[PCA].config.k, "a number of codes")
        return self._result(study, inputs_outputs, scores, sums, k, prompts)

    def _result(
        self,
        study: Study,
        inputs_outputs: InputOutput,
        scores: dict[str, Scores],
        sums: EvaluationSums,
        k: int,
        encoded: EncodedPrompts,
    ) -> Result:
        prompts = study.prompts("positive")
        ids = np.array([prompt.id for prompt in prompts])
        clusters = np.array(prompts.clusters, dtype=object)
        recovered = recovered_shares(sums)
        wording = wording_for(inputs_outputs, self.dictionary.config)
        claims = claims_of(sums, k, wording)
        limits = limitations(recovered, sums, encoded.limits(), wording)
        views = {
            f"{name}{part}_explained_variance": scores[which].summary(part)["explained_variance"]
            for which, name in ((DICTIONARY, ""), (PCA, "pca_"))
            for part in inputs_outputs.views
        }
        if sums.differences and (total_deviation := sums.differences[DEVIATION].sum()) > 0:
            views["pca_alone_difference_explained_variance"] = (
                1 - sums.differences[PCA_DIFFERENCE].sum() / total_deviation
            )
        is_transcoder = inputs_outputs.site != inputs_outputs.target
        return Result(
            scores_table(scores),
            {
                "prompts": prompts_table(sums, ids, clusters),
                "conversations": conversations_table(scores, ids),
                "splice": splice_table(sums, ids, clusters),
                "recovered": recovered_table(recovered),
                "density": density_table(scores),
            },
            claims,
            {
                "site": self.site,
                **({"target": str(inputs_outputs.target)} if is_transcoder else {}),
                **({} if self.model_role == TUNED else {"of": self.model_role}),
                **scores[DICTIONARY].summary(),
                "parts": part_errors(scores[DICTIONARY]),
                **{
                    f"{name}_explained_variance": scores[name].summary()["explained_variance"]
                    for name in (PCA, RANDOM)
                },
                **views,
                "baseline_codes": k,
                **{
                    f"{'' if role == TUNED else f'{role}_'}{what}_recovered_{over}": share
                    for (role, name, what, over), share in recovered.items()
                    if name == DICTIONARY
                },
            },
            limits,
            lead="" if claims else limits[0],
        )


def _encode_prompts(
    study: Study, inputs_outputs: InputOutput, has_conversations: bool
) -> EncodedPrompts:
    """The prompts with role codes; conversations entire."""
    prompts, tokenizer = study.prompts("positive"), study.pair.tokenizer
    if not has_conversations:
        encoded = [with_token_codes(tokenizer, coded) for coded in study.encoded("positive")]
        return EncodedPrompts(encoded, 0, 0)
    context = min(MAX_CONTEXT, *(study.pair[role].context_length for role in inputs_outputs.roles))
    return encode_conversations(tokenizer, prompts, context, prompts.source)


__all__ = ["SaeEval"]
