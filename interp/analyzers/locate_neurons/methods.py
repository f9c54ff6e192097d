"""The methods by name: their default positions, and whether they need a base."""

from collections.abc import Callable
from dataclasses import dataclass

from interp.analyzers.locate_neurons import activations, gradients, probes, row_gradients, weights
from interp.analyzers.locate_neurons.scores import POSITIONS, MethodOptions, Scores
from interp.errors import OptionError
from interp.models.units import unit_named
from interp.study import Study

_PROMPT = tuple(name for name in POSITIONS if name != "completion")


@dataclass(frozen=True)
class Method:
    """One way to score units: ``positions`` is its default, ``allowed`` which it can read,
    ``units`` which it can score.

    ``uses_gradient``: whether it uses the gradient of the metric; ``is_integral``: whether it
    averages along a path.
    """

    score: Callable[[Study, MethodOptions], Scores]
    needs_base: bool = False
    positions: str = "prompt"
    allowed: tuple[str, ...] = _PROMPT
    units: tuple[str, ...] = ("neuron", "head")
    uses_gradient: bool = False
    is_integral: bool = False


METHODS: dict[str, Method] = {
    "integrated": Method(gradients.integrated, uses_gradient=True, is_integral=True),
    "integrated-fixed": Method(
        gradients.integrated_fixed, needs_base=True, uses_gradient=True, is_integral=True
    ),
    "integrated-zero": Method(gradients.integrated_zero, uses_gradient=True, is_integral=True),
    "cross": Method(gradients.cross, needs_base=True, uses_gradient=True),
    "change": Method(activations.change, needs_base=True, allowed=POSITIONS),
    "change-difference": Method(activations.change_difference, needs_base=True, allowed=POSITIONS),
    "act-grad": Method(gradients.activation_gradient, uses_gradient=True),
    "gradient": Method(row_gradients.gradient, units=("neuron",), uses_gradient=True),
    "gradient-counterfactual": Method(row_gradients.gradient_counterfactual, units=("neuron",)),
    "contrast": Method(activations.contrast, positions="last", units=("neuron",)),
    "probe": Method(probes.probe, positions="content", units=("neuron",)),
    "weight": Method(weights.weight, needs_base=True, allowed=("prompt",)),
}


def resolve(
    method: str, positions: str, has_base: bool, unit: str = "neuron", differentiable: bool = True
) -> tuple[str, Method, str]:
    """The method (``auto`` or one of ``METHODS``) and positions, with ``auto`` resolved.

    ``differentiable``: whether the metric has a gradient. Raises OptionError for a method that
    cannot be used with the others.
    """
    if method == "auto":
        method = "integrated" if has_base else "act-grad"
    entry = METHODS[method]
    if entry.needs_base and not has_base:
        without_base = ", ".join(name for name, item in METHODS.items() if not item.needs_base)
        raise OptionError(
            f"method {method} needs a base model; add --base MODEL, or use {without_base}"
        )
    if entry.uses_gradient and not differentiable:
        without_gradient = ", ".join(
            name for name, item in METHODS.items() if not item.uses_gradient
        )
        raise OptionError(
            f"method {method} needs a metric with a gradient, and this one has none; add"
            " continuations to the behaviour's file (for a task: use --metric logit-diff or"
            f" answer-loss), or use --method {without_gradient}"
        )
    unit = unit_named(unit).name
    if unit not in entry.units:
        supporting = ", ".join(name for name, item in METHODS.items() if unit in item.units)
        raise OptionError(f"method {method} cannot score units of kind {unit}; use {supporting}")
    if positions == "auto":
        positions = entry.positions
    if positions not in entry.allowed:
        raise OptionError(
            f"method {method} cannot read positions {positions!r}; use {', '.join(entry.allowed)}"
        )
    return method, entry, positions
