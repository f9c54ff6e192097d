"""The methods by name: their default positions, and whether they need a base."""

from collections.abc import Callable
from dataclasses import dataclass

from interp.analyzers.locate_neurons import activations, gradients, probes, row_gradients, weights
from interp.analyzers.locate_neurons.scores import MethodOptions, Scores
from interp.errors import OptionError
from interp.models.units import unit_named
from interp.study import Study


@dataclass(frozen=True)
class Method:
    """One way to score units: ``positions`` is its default, ``allowed`` which it can read,
    ``units`` which it can score.

    ``uses_gradient``: whether it uses the gradient of the metric; ``is_integral``: whether it
    averages along a path.
    """

    score: Callable[[Study, MethodOptions], Scores]
    needs_base: bool
    positions: str
    allowed: tuple[str, ...]
    help: str
    units: tuple[str, ...] = ("neuron", "head")
    uses_gradient: bool = False
    is_integral: bool = False


_PROMPT = ("prompt", "content", "decision", "last")
_TEXT = (*_PROMPT, "completion")
_NEURON = ("neuron",)

METHODS: dict[str, Method] = {
    "integrated": Method(
        gradients.integrated,
        False,
        "prompt",
        _PROMPT,
        "integrated gradients from base to tuned MLPs, or from zero",
        uses_gradient=True,
        is_integral=True,
    ),
    "integrated-fixed": Method(
        gradients.integrated_fixed,
        True,
        "prompt",
        _PROMPT,
        "the same, MLP outputs held on a straight path",
        uses_gradient=True,
        is_integral=True,
    ),
    "integrated-zero": Method(
        gradients.integrated_zero,
        False,
        "prompt",
        _PROMPT,
        "integrated gradients from silent MLPs; no base",
        uses_gradient=True,
        is_integral=True,
    ),
    "cross": Method(
        gradients.cross,
        True,
        "prompt",
        _PROMPT,
        "contribution change times local gradient",
        uses_gradient=True,
    ),
    "change": Method(
        activations.change, True, "prompt", _TEXT, "root mean square change of the activation"
    ),
    "change-difference": Method(
        activations.change_difference,
        True,
        "prompt",
        _TEXT,
        "change on positive minus on negative prompts",
    ),
    "act-grad": Method(
        gradients.activation_gradient,
        False,
        "prompt",
        _PROMPT,
        "activation times gradient; no base",
        uses_gradient=True,
    ),
    "gradient": Method(
        row_gradients.gradient,
        False,
        "prompt",
        _PROMPT,
        "gradient of the log-odds by the neuron's weights; no base",
        _NEURON,
        uses_gradient=True,
    ),
    "gradient-counterfactual": Method(
        row_gradients.gradient_counterfactual,
        False,
        "prompt",
        _PROMPT,
        "gradient of the other answer's loss by the neuron's weights; no base",
        _NEURON,
    ),
    "contrast": Method(
        activations.contrast,
        False,
        "last",
        _PROMPT,
        "difference between the classes; no base",
        _NEURON,
    ),
    "probe": Method(
        probes.probe,
        False,
        "content",
        _PROMPT,
        "weight in a linear probe of the classes; no base",
        _NEURON,
    ),
    "weight": Method(
        weights.weight, True, "prompt", ("prompt",), "norm of the change of the unit's own weights"
    ),
}


def resolve(
    method: str, positions: str, has_base: bool, unit: str = "neuron", differentiable: bool = True
) -> tuple[str, Method, str]:
    """The method and positions, with ``auto`` resolved; OptionError for unknown or impossible ones.

    ``differentiable``: whether the metric has a gradient.
    """
    if method == "auto":
        method = "integrated" if has_base else "act-grad"
    if method not in METHODS:
        raise OptionError(f"unknown method {method!r}; use auto, {', '.join(METHODS)}")
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
