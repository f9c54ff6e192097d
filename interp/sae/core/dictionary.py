"""``Dictionary``: one class for all architectures, in one parameter layout.

``W_enc`` [D, F], ``W_dec`` [F, O], ``b_enc`` [F], ``b_dec`` [O]. A crosscoder concatenates its
models along D and O, so a crosscoder of one model is an autoencoder with the same weights. Only
importers transpose.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import OptionError, required
from interp.maths.host import raw_bytes, to_host
from interp.provenance import digest
from interp.sae.core import matching_pursuit
from interp.sae.core.config import BATCHTOPK_ARCHITECTURES, TOPK_ARCHITECTURES, DictionaryConfig
from interp.sae.core.sparse_products import (
    Codes,
    Selector,
    autoencode,
    decode,
    topk_per_batch,
    topk_per_row,
)
from interp.sae.core.straight_through import jumprelu


class Reconstruction(NamedTuple):
    """Result of a forward pass: the output, in the units of the inputs, the codes, and dense
    pre-activations where the architecture computes them.
    """

    output: Float[Tensor, "N O"]
    codes: Codes
    pre: Float[Tensor, "N F"] | None = None


class Dictionary(nn.Module):
    """A sparse autoencoder, transcoder or crosscoder; ``config`` says how to interpret the
    parameters.

    Parameters by architecture: all have ``W_dec`` and ``b_dec``; all but matching pursuit have
    ``W_enc``, and ``b_enc`` unless gated; jumprelu has ``threshold`` [F]; gated has ``b_gate``,
    ``b_mag``, ``r_mag`` [F]; a skip connection is ``W_skip`` [O, D]. Buffers: ``threshold`` of a
    batchtopk or matryoshka (a float64 scalar, NaN until it is set), ``scale`` [models].
    """

    W_dec: nn.Parameter
    b_dec: nn.Parameter
    W_enc: nn.Parameter
    b_enc: nn.Parameter
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter
    W_skip: nn.Parameter
    threshold: Tensor
    scale: Tensor

    def __init__(
        self, config: DictionaryConfig, *, seed: int = 0, decoder_norm: float = 1.0
    ) -> None:
        """Tied initialisation: random decoder rows of norm ``decoder_norm``, the encoder is their
        transpose, biases are 0.

        All models of a crosscoder start with the same rows, as in Lindsey et al. (2024).
        """
        super().__init__()
        self.config = config
        # an offset, so that data drawn with the same small seed does not equal the initial
        # directions
        generator = torch.Generator().manual_seed((seed + 0x5EED_0001) % 2**32)
        width_per_model = config.outputs // config.models
        rows = torch.randn(config.width, width_per_model, generator=generator)
        rows = (rows / rows.norm(dim=1, keepdim=True) * decoder_norm).tile(1, config.models)
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.outputs))
        if config.architecture != "matching_pursuit":
            # the rows of latents are contiguous in memory, as gradients of active rows need
            encoder_rows = (
                rows
                if not config.is_transcoder
                else _random_directions(config, generator, decoder_norm)
            )
            self.W_enc = nn.Parameter(encoder_rows.clone().T)
            if config.architecture == "gated":
                for name in ("b_gate", "b_mag", "r_mag"):
                    setattr(self, name, nn.Parameter(torch.zeros(config.width)))
            else:
                self.b_enc = nn.Parameter(torch.zeros(config.width))
        if config.architecture == "jumprelu":
            self.threshold = nn.Parameter(torch.full((config.width,), 1e-2))
        elif config.architecture in BATCHTOPK_ARCHITECTURES:
            self.register_buffer("threshold", torch.tensor(math.nan, dtype=torch.float64))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(config.outputs, config.inputs))
        self.register_buffer("scale", torch.ones(config.models))
        self.bandwidth = 1e-3
        self._cached_digest: tuple[Any, str] = (None, "")

    # ------------------------------------------------------------------ inputs and outputs

    def normalise(self, x: Float[Tensor, "N D"]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Normalised inputs, and the shift and factor that undo the normalisation."""
        normalisation = self.config.normalisation
        if normalisation == "none":
            return x, (x.new_zeros(()), x.new_ones(()))
        if normalisation == "scale":
            scale = self.scale.to(x.dtype)
            return x * scale.repeat_interleave(self.config.d_in), (
                x.new_zeros(()),
                self._output_factor(x),
            )
        if normalisation == "layer-norm":
            # epsilon is not undone, as in the code of Gao et al. and in SAELens
            mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            return (x - mean) / (deviation + 1e-5), (mean, deviation)
        norm = x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / math.sqrt(
            self.config.d_in
        )
        return x / norm, (x.new_zeros(()), norm)

    def _output_factor(self, x: Tensor) -> Tensor:
        return (1 / self.scale.to(x.dtype)).repeat_interleave(
            self.config.outputs // self.config.models
        )

    def _subtract_bias(self, x: Tensor) -> Tensor:
        return x - self.b_dec if self.config.input_bias else x

    def pre_activations(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Inputs of the activation function, from normalised inputs; for a gated dictionary those
        of the gate.
        """
        if self.config.architecture == "matching_pursuit":
            raise OptionError(
                "a matching pursuit has no pre-activations: each selection depends on those"
                " before it"
            )
        bias = self.b_gate if self.config.architecture == "gated" else self.b_enc
        return torch.addmm(bias, self._subtract_bias(x), self.W_enc)

    # ------------------------------------------------------------------ codes

    @property
    def importance(self) -> Float[Tensor, " F"] | None:
        """Weights by which values are ranked: decoder norms summed over models; None if ranked by
        value.
        """
        return self.decoder_norms.sum(1) if self.config.rank_by == "norm" else None

    @property
    def digest(self) -> str:
        """Digest of the configuration and of all parameters with their dtypes; independent of the
        file format.

        Cached, and computed again when a parameter may have changed.
        """
        values = dict(sorted(self.state_dict().items()))
        state = [
            self.config.to_json(),
            {name: _fingerprint(value) for name, value in values.items()},
        ]
        if self._cached_digest[0] != state:
            digests = {
                name: [str(v.dtype), sha256(raw_bytes(v)).hexdigest()] for name, v in values.items()
            }
            self._cached_digest = state, digest({"config": state[0], "numbers": digests})
        return self._cached_digest[1]

    @property
    def decoder_norms(self) -> Float[Tensor, "F M"]:
        """Norm of each latent's decoder row, per model."""
        return self.W_dec.detach().unflatten(1, (self.config.models, -1)).norm(dim=2)

    def selector(self, training: bool) -> Selector:
        """A function from pre-activations to the active ones: the k largest of each row, the k
        largest per input of a batch in training, or those above the threshold.
        """
        config, weight = self.config, self.importance
        if config.architecture == "topk":
            return lambda pre: topk_per_row(pre, required(config.k, "a number of codes"), weight)
        if training:
            return lambda pre: topk_per_batch(pre, required(config.k, "a number of codes"), weight)
        if bool(to_host(self.threshold.isnan())):
            raise OptionError(
                f"this {config.architecture} dictionary has no threshold, so its codes would"
                " depend on the batch; train it further"
            )
        return lambda pre: (
            Codes.from_dense(
                (
                    (pre if weight is None else pre * weight)
                    > self.threshold.to(pre.dtype).clamp_min(0)
                )
                * pre
            ).pattern
        )

    def encode_sparse(self, x: Float[Tensor, "N D"]) -> Codes:
        """Sparse codes of inputs in their original units."""
        return self.reconstruct(x).codes

    def encode(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Dense codes of inputs in their original units."""
        return self.encode_sparse(x).dense()

    def reconstruct(self, x: Float[Tensor, "N D"], *, training: bool = False) -> Reconstruction:
        """Codes and output of inputs in their original units; ``training`` selects codes over the
        batch where the architecture does so.
        """
        normalised_input, undo = self.normalise(x)
        reconstruction = self.reconstruct_normalised(normalised_input, training=training)
        return reconstruction._replace(output=reconstruction.output * undo[1] + undo[0])

    def reconstruct_normalised(
        self, x: Float[Tensor, "N D"], *, training: bool = False
    ) -> Reconstruction:
        """As ``reconstruct``, for normalised inputs; the output is normalised too."""
        config, pre = self.config, None
        if config.architecture in TOPK_ARCHITECTURES:
            out, codes = autoencode(
                x,
                self.W_enc,
                self.b_enc,
                self.W_dec,
                self.b_dec,
                subtract_bias=config.input_bias,
                selector=self.selector(training),
            )
        elif config.architecture == "matching_pursuit":
            codes, residual = matching_pursuit.pursue(
                x - self.b_dec, self.W_dec, threshold=config.residual_threshold, steps=config.steps
            )
            out = x - residual
        else:
            pre = self.pre_activations(x)
            dense = self.activate(pre)
            codes, out = Codes.from_dense(dense), dense @ self.W_dec + self.b_dec
        if config.skip:
            out = out + x @ self.W_skip.T
        return Reconstruction(out, codes, pre)

    def activate(self, pre: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """Dense codes from pre-activations, for standard, jumprelu and gated dictionaries."""
        if self.config.architecture == "standard":
            return pre.relu()
        if self.config.architecture == "jumprelu":
            return jumprelu(pre, self.threshold, self.bandwidth) * (pre > 0)
        if self.config.architecture == "gated":
            return (pre > 0) * self.magnitude(pre).relu()
        raise OptionError(
            f"codes of a {self.config.architecture} dictionary depend on more than one"
            " pre-activation"
        )

    def magnitude(self, pre: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """Magnitudes of a gated dictionary before their relu, from the gate's pre-activations."""
        return (pre - self.b_gate) * self.r_mag.exp() + self.b_mag

    def decode(self, codes: Codes | Float[Tensor, "N F"]) -> Float[Tensor, "N O"]:
        """Output from codes, before normalisation is undone and without a skip connection."""
        return (
            decode(codes, self.W_dec) if isinstance(codes, Codes) else codes @ self.W_dec
        ) + self.b_dec

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N O"]:
        """Reconstruction of inputs in their original units."""
        return self.reconstruct(x).output


def _fingerprint(value: Tensor) -> list[Any]:
    """A cheap fingerprint of a tensor: torch's version counter and a checksum.

    Torch does not count writes through ``.data``; the sum of the bits as integers detects those.
    """
    integer_type = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[
        value.element_size()
    ]
    total = int(to_host(value.view(integer_type).sum(dtype=torch.int64)))
    version = None if value.is_inference() else value._version
    return [str(value.dtype), list(value.shape), value.data_ptr(), version, total]


def _random_directions(config: DictionaryConfig, generator: torch.Generator, norm: float) -> Tensor:
    rows = torch.randn(config.width, config.d_in, generator=generator)
    return (rows / rows.norm(dim=1, keepdim=True) * norm).tile(1, config.models)
