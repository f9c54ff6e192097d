"""The exceptions of interp, as one tree.

A message is one line: what was wrong, the value seen, and what to do. The command line prints it on
stderr and exits with 2, or with 1 for what a user has to decide on. Anything that is not an
``InterpError`` is a bug in interp and exits with 70.

InterpError
├── OptionError              an option that cannot be used as given
├── PromptError              a prompt or task file that cannot be used
├── MetricError              a metric this model or tokenizer cannot express
├── ModelError               a model that cannot be loaded
│   ├── ModelNotFound        no such directory, organism or Hub id (or no network to ask)
│   ├── UnsupportedModel     an architecture, or a part of one, that is not supported exactly
│   ├── MissingWeights       a checkpoint that lacks tensors the architecture needs
│   ├── TruncatedWeights     a weight file that ends early or cannot be parsed
│   ├── PickledWeights       weights that exist only as a pickle
│   ├── NonFiniteWeights     NaN or infinity among the weights
│   └── NonFinitePass        NaN or infinity in the outputs of a forward or backward pass
├── PairError                two models that cannot be compared
│   ├── VocabularyMismatch   different vocabularies or token ids
│   ├── DepthMismatch        different numbers of blocks
│   ├── WidthMismatch        different widths, heads or neurons
│   ├── WrongBase            an adapter that was trained on another base
│   └── AdapterNotLanded     adapter tensors that matched no module, or changed no logit
├── OutOfMemory              not enough memory for the model, or for a pass over one prompt
├── RemoteFailure            a pass that a remote service did not run
├── StoreError               an analysis store that cannot be read or written
│   └── RunNotFound          no run with this key
├── DictionaryError          files of a sparse autoencoder that cannot be read
├── RefusalsLost             a training after which refusals may be fewer (exit code 1)
└── ClaimError               a claim that its stored tables do not support
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class InterpError(Exception):
    """Base of all errors of interp; ``str(error)`` is one line for the user."""

    exit_code = 2


class OptionError(InterpError):
    """An option that cannot be used as given."""


class PromptError(InterpError):
    """A prompt or task file that cannot be used."""


class MetricError(InterpError):
    """A metric that this model or tokenizer cannot express."""


class ModelError(InterpError):
    """A model that cannot be loaded."""


class ModelNotFound(ModelError):
    """No such directory, organism or Hub id, or no network to ask."""


class UnsupportedModel(ModelError):
    """An architecture, or a part of one, that is not supported exactly."""


class MissingWeights(ModelError):
    """A checkpoint that lacks tensors the architecture needs."""


class TruncatedWeights(ModelError):
    """A weight file that ends early or cannot be parsed."""


class PickledWeights(ModelError):
    """Weights that exist only as a pickle; refused, because reading a pickle runs code."""


class NonFiniteWeights(ModelError):
    """NaN or infinity among the weights."""


class NonFinitePass(ModelError):
    """NaN or infinity in the outputs of a pass.

    ``ids`` are the tokens of the first affected text of the batch; ``prompt``, where it is known,
    is the prompt with which that text begins.
    """

    def __init__(self, message: str, ids: tuple[int, ...] = (), prompt: str = "") -> None:
        self.message, self.ids = message, ids
        prompt_note = f"; {prompt}" if prompt else ""
        super().__init__(
            f"{message}{prompt_note}; use --dtype float32 (or bfloat16, which has the range of"
            " float32)"
        )


class PairError(InterpError):
    """Two models that cannot be compared."""


class VocabularyMismatch(PairError):
    """Base and fine-tuned model have different vocabularies."""


class DepthMismatch(PairError):
    """Base and fine-tuned model have different numbers of blocks."""


class WidthMismatch(PairError):
    """Base and fine-tuned model have different widths, heads or neurons."""


class WrongBase(PairError):
    """An adapter that was trained on another base."""


class AdapterNotLanded(PairError):
    """Adapter tensors that matched no module, or changed no logit."""


class OutOfMemory(InterpError):
    """Not enough memory for the model, or for a pass over one prompt."""


class RemoteFailure(InterpError):
    """A pass that a remote service did not run."""


class StoreError(InterpError):
    """An analysis store that cannot be read or written."""


class RunNotFound(StoreError):
    """No run with this key."""


class DictionaryError(InterpError):
    """Files of a sparse autoencoder that are damaged, incomplete or of an unknown format."""


class RefusalsLost(InterpError):
    """A training after which refusals of harmful prompts may be fewer; nothing is written."""

    exit_code = 1


class ClaimError(InterpError):
    """A claim that its stored tables do not support."""


def required(value: Value | None, what: str) -> Value:
    """``value``, or OptionError naming what is missing if it is None."""
    if value is None:
        raise OptionError(f"{what} is required here and missing")
    return value


@contextmanager
def reporting_os_errors(
    action: str, path: Path, error_type: type[InterpError] = StoreError
) -> Iterator[None]:
    """Raise an ``OSError`` as an ``error_type`` of one line."""
    try:
        yield
    except OSError as error:
        raise error_type(f"cannot {action} {path}: {error.strerror or error}") from error
