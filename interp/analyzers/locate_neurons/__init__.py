"""Locate the MLP neurons that carry a fine-tuned behaviour: a score per neuron, by one of several
methods.
"""

from interp.analyzers.locate_neurons.analyzer import LocateNeurons
from interp.analyzers.locate_neurons.methods import METHODS
from interp.analyzers.locate_neurons.selection import Top

__all__ = ["METHODS", "LocateNeurons", "Top"]
