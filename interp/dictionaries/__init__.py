"""Sparse dictionaries of activations: autoencoders, transcoders and crosscoders in one class and one layout.

``config`` says what a dictionary is, ``dictionary`` does it; ``active`` has the products that touch active rows only,
``straight_through`` slopes of thresholds, ``pursuit`` matching pursuit; ``losses`` is what training minimises;
``folding`` moves norms and scales into weights; ``files`` keeps dictionaries as directories.

Training: ``sources`` of rows (``activations`` of models, cached shards), a mixing ``buffer``, ``options``, ``learner``
(one dictionary's step), ``training`` (the loop), ``checkpoints``, ``together`` (several processes).

Judgement: ``scores`` streamed over inputs, ``baselines`` (principal components, random rows), ``place`` in a pair,
``splice``, ``synthetic`` worlds and ``recovery`` of what is true there. Comparison of models: ``scaling`` and
``classes`` of a crosscoder's latents, ``differences``, ``applied``, ``exchange``, ``diff``; ``probe``, ``confirm`` and
``reading`` of single latents (where they fire: ``activity``; what they write: ``unembedding``), ``shift`` of concepts.
``formats``: other libraries' files.
"""

from interp.dictionaries.active import Codes, Pattern
from interp.dictionaries.buffer import Buffer
from interp.dictionaries.config import ARCHITECTURES, DictionaryConfig
from interp.dictionaries.dictionary import Dictionary, Reconstruction
from interp.dictionaries.files import load, save
from interp.dictionaries.folding import fold_decoder_norm, fold_scale
from interp.dictionaries.options import Training
from interp.dictionaries.training import Job, train

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
