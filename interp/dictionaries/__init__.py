"""Sparse dictionaries of activations: autoencoders, transcoders and crosscoders in one class and one layout.

``config`` says what a dictionary is, ``dictionary`` does it; ``active`` has the products that touch active rows only,
``straight_through`` slopes of thresholds, ``pursuit`` matching pursuit; ``losses`` is what training minimises;
``folding`` moves norms and scales into weights; ``files`` keeps dictionaries as directories.
"""

from interp.dictionaries.active import Codes, Pattern
from interp.dictionaries.config import ARCHITECTURES, DictionaryConfig
from interp.dictionaries.dictionary import Dictionary, Reconstruction
from interp.dictionaries.files import load, save
from interp.dictionaries.folding import fold_decoder_norm, fold_scale

__all__ = [
    "ARCHITECTURES",
    "Codes",
    "Dictionary",
    "DictionaryConfig",
    "Pattern",
    "Reconstruction",
    "fold_decoder_norm",
    "fold_scale",
    "load",
    "save",
]
