"""Every way interp refuses, as one tree.

A message says what was wrong, the value seen, and what to do, in one line. The command line prints
it on stderr and exits with 2; anything that is not an ``InterpError`` is a defect of ours and exits
with 70.

InterpError
├── OptionError              an option that cannot be used as given
├── PromptError              a prompt or task file that cannot be used
├── MetricError              a metric this model or tokenizer cannot express
├── ModelError               a model that cannot be loaded
│   ├── ModelNotFound        no such directory, organism or Hub id (or no network to ask)
│   ├── UnsupportedModel     an architecture, or a part of one, that is not handled exactly
│   ├── MissingWeights       a checkpoint that lacks tensors the architecture needs
│   ├── TruncatedWeights     a weight file that ends early or cannot be parsed
│   ├── PickledWeights       weights that only a pickle holds
│   ├── NonFiniteWeights     NaN or infinity among the weights
│   └── NonFinitePass        NaN or infinity in what a pass over some prompt gives
├── PairError                two models that cannot be compared
│   ├── VocabularyMismatch   different vocabularies or token ids
│   ├── DepthMismatch        different numbers of blocks
│   ├── WidthMismatch        different widths, heads or neurons
│   ├── WrongBase            an adapter that was made for another base
│   └── AdapterNotLanded     adapter tensors that reached no module, or moved no logit
├── OutOfMemory              a memory that does not hold the pass of one prompt
├── RemoteFailure            a pass that a remote service did not run
├── StoreError               an analysis store that cannot be read or written
│   └── RunNotFound          no run with this key
└── ClaimError               a claim that its stored tables do not support
"""

from typing import TypeVar

Value = TypeVar("Value")


class InterpError(Exception):
    """Base of every refusal; ``str(error)`` is one line for a person."""

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
    """An architecture, or a part of one, that is not handled exactly."""


class MissingWeights(ModelError):
    """A checkpoint that lacks tensors which the architecture needs."""


class TruncatedWeights(ModelError):
    """A weight file that ends early or cannot be parsed."""


class PickledWeights(ModelError):
    """Weights that only a pickle holds: refused, since reading one runs its code."""


class NonFiniteWeights(ModelError):
    """NaN or infinity among the weights."""


class NonFinitePass(ModelError):
    """NaN or infinity in what a pass gives; ``ids``: the tokens of the first text of the batch
    where that is so.

    ``prompt``, where it is known: the prompt that the text begins with.
    """

    def __init__(self, said: str, ids: tuple[int, ...] = (), prompt: str = "") -> None:
        self.said, self.ids = said, ids
        where = f"; {prompt}" if prompt else ""
        super().__init__(
            f"{said}{where}; use --dtype float32 (or bfloat16, which has the range of float32)"
        )


class PairError(InterpError):
    """Two models that cannot be compared."""


class VocabularyMismatch(PairError):
    """Base and tuned model do not share their vocabulary."""


class DepthMismatch(PairError):
    """Base and tuned model differ in their number of blocks."""


class WidthMismatch(PairError):
    """Base and tuned model differ in width, heads or neurons."""


class WrongBase(PairError):
    """An adapter that was made for another base."""


class AdapterNotLanded(PairError):
    """Adapter tensors that reached no module, or moved no logit."""


class OutOfMemory(InterpError):
    """A memory that does not hold the model, or the pass of one prompt."""


class RemoteFailure(InterpError):
    """A pass that a remote service did not run."""


class StoreError(InterpError):
    """An analysis store that cannot be read or written."""


class RunNotFound(StoreError):
    """No run with this key."""


class DictionaryError(InterpError):
    """A sparse dictionary's files that are broken, incomplete or of a format that is not known."""


class ClaimError(InterpError):
    """A claim that its stored tables do not support."""


def required(value: Value | None, what: str) -> Value:
    """``value``; OptionError naming what is missing where it is None."""
    if value is None:
        raise OptionError(f"{what} is needed here and there is none")
    return value
