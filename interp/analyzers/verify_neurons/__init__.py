"""Verify a located set of neurons by intervention, compared with matched random sets, on held-out
prompts.
"""

from interp.analyzers.verify_neurons.analyzer import VerifyNeurons
from interp.analyzers.verify_neurons.findings import FEWEST_SETS, fewest_clusters

__all__ = ["FEWEST_SETS", "VerifyNeurons", "fewest_clusters"]
