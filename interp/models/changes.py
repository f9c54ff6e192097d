"""How far tuning moved a pair's weights, unit by unit."""

import numpy as np

from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.sites import Weight


def weight_change(pair: Pair) -> np.ndarray:
    """Euclidean norm ``[L, N]`` of the change of each neuron's gate and up rows and its down column."""
    base, tuned = pair.require_base("weight"), pair.tuned
    matrices = ["mlp.in", "mlp.out", *(["mlp.gate"] if tuned.anatomy.gated else [])]
    norms = []
    for layer in range(tuned.anatomy.n_layers):
        total = 0.0
        for name in matrices:
            change = (tuned.weight(Weight(layer, name)) - base.weight(Weight(layer, name))).double()
            total = total + change.square().sum(0 if name == "mlp.out" else 1)
        norms.append(to_host(total.sqrt()))
    return np.stack(norms)
