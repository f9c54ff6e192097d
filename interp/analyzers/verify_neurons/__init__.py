"""Verify a located set of neurons by intervention, compared with matched random sets, on held-out
prompts.
"""

from interp.analyzers.verify_neurons.analyzer import VerifyNeurons
from interp.analyzers.verify_neurons.findings import MIN_RANDOM_SETS, min_clusters

__all__ = ["MIN_RANDOM_SETS", "VerifyNeurons", "min_clusters"]
