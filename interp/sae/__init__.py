"""Sparse dictionaries of activations: autoencoders, transcoders and crosscoders in one class and
one layout.

``core``: the dictionary itself, what it computes, its files. ``training``: sources of rows, losses,
the loop. ``analysis``: what trained dictionaries are judged and compared by. ``formats``: other
libraries' files. ``planted`` and ``synthetic``: data whose true features are known.
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
