"""How far tuning moved a pair's weights, unit by unit."""

import numpy as np

from interp.maths.host import to_host
from interp.models.pair import Pair
from interp.models.units import HEAD, NEURON, Unit
from interp.sites import Weight


def weight_change(pair: Pair, unit: Unit = NEURON) -> np.ndarray:
    """Euclidean norm ``[L, U]`` of the change of each unit's own weights.

    A neuron's are its gate and up rows and its down column; a head's its query rows, the key and value rows it reads
    (shared by the heads of a group) and its columns of the output projection.
    """
    base, tuned = pair.require_base("weight"), pair.tuned
    anatomy = tuned.anatomy
    reading = ["attn.q", "attn.k", "attn.v"] if unit is HEAD else ["mlp.in", *(["mlp.gate"] if anatomy.gated else [])]
    norms = []
    for layer in range(anatomy.n_layers):
        total = np.zeros(unit.count(anatomy))
        for name in (*reading, unit.matrix):
            change = (tuned.weight(Weight(layer, name)) - base.weight(Weight(layer, name))).double()
            squares = to_host(change.square().sum(0 if name == unit.matrix else 1))
            if unit is HEAD:
                squares = squares.reshape(-1, anatomy.head_width).sum(1)
            # one key-value head stands for every head of its group
            total += np.repeat(squares, len(total) // len(squares))
        norms.append(np.sqrt(total))
    return np.stack(norms)
