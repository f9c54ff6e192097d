"""Locate the MLP neurons that carry a behaviour learned in fine-tuning: one score per neuron."""

from interp.analyzers.locate_neurons.analyzer import LocateNeurons
from interp.analyzers.locate_neurons.methods import METHODS
from interp.analyzers.locate_neurons.selection import Top

__all__ = ["METHODS", "LocateNeurons", "Top"]
