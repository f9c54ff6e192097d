"""What methods of discovery share: models in turn, ranked evidence beside that of controls.

A method scores items (tokens, phrases, samples, directions) in the fine-tuned model and in every
control fine-tune; ``Evidence`` ranks them. Whether there is more than the controls give is decided
once over all methods, by ``interp.analyzers.discover``.
"""

from interp.experiments.discovery.evidence import (
    CONTROLS,
    Evidence,
    EvidenceRow,
    MaximumRow,
    evidence_tables,
    finite_number,
    of_own_items,
    of_shared_items,
)
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.discovery.prefills import chat_prefills, chat_questions, raw_prefills
from interp.experiments.discovery.samples import (
    loss_groups,
    sample_groups,
    sample_losses,
    sample_texts,
)
from interp.experiments.discovery.tokens import form_tokens, token_labels

__all__ = [
    "CONTROLS",
    "Evidence",
    "EvidenceRow",
    "MaximumRow",
    "chat_prefills",
    "chat_questions",
    "each_model",
    "evidence_tables",
    "finite_number",
    "form_tokens",
    "loss_groups",
    "model_names",
    "of_own_items",
    "of_shared_items",
    "raw_prefills",
    "sample_groups",
    "sample_losses",
    "sample_texts",
    "token_labels",
]
