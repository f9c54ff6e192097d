"""Sparse dictionaries of activations: autoencoders, transcoders and crosscoders in one class and
one parameter layout.

``core``: the dictionary, its edits of a model and its files. ``training``: activation sources,
losses and the training loop. ``analysis``: evaluation of trained dictionaries and comparison of two
models with them. ``formats``: files of other libraries.
"""

from interp.sae.core.config import ARCHITECTURES, DictionaryConfig
from interp.sae.core.dictionary import Dictionary, Reconstruction
from interp.sae.core.files import load, save
from interp.sae.core.fold_weights import fold_decoder_norm, fold_scale
from interp.sae.core.sparse_products import Codes, Pattern
from interp.sae.training.buffer import Buffer
from interp.sae.training.options import Training
from interp.sae.training.train import Job, train

__all__ = [
    "ARCHITECTURES",
    "Buffer",
    "Codes",
    "Dictionary",
    "DictionaryConfig",
    "Job",
    "Pattern",
    "Reconstruction",
    "Training",
    "fold_decoder_norm",
    "fold_scale",
    "load",
    "save",
    "train",
]
