"""``Dictionary``: one class for every architecture, in one canonical layout.

``W_enc`` [D, F], ``W_dec`` [F, O], ``b_enc`` [F], ``b_dec`` [O]; a crosscoder's models stand side
by side in D and in O, so that one of a single model is the autoencoder with the same weights.
Importers transpose, nothing else does.
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
from interp.sae.analysis import pursuit
from interp.sae.core.config import BY_BATCH, SPARSE, DictionaryConfig
from interp.sae.core.sparse_products import (
    Choose,
    Codes,
    autoencode,
    decode,
    top_per_batch,
    top_per_row,
)
from interp.sae.core.straight_through import jump


class Reconstruction(NamedTuple):
    """What became of a batch: the output in the inputs' own units, the codes, and the
    pre-activations where dense.
    """

    output: Float[Tensor, "N O"]
    codes: Codes
    pre: Float[Tensor, "N F"] | None = None


class Dictionary(nn.Module):
    """A sparse autoencoder, transcoder or crosscoder. ``config`` says how the parameters are to be
    read.

    Parameters by architecture: all have ``W_dec`` and ``b_dec``; all but matching pursuit ``W_enc``
    and (but gated) ``b_enc``; jumprelu ``threshold`` [F]; gated ``b_gate``, ``b_mag``, ``r_mag``
    [F]; skip ``W_skip`` [O, D]. Buffers: ``threshold`` of a batchtopk or matryoshka (a float64
    scalar, NaN until it is set), ``scale`` [models].
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
        """Tied initialisation: random decoder rows of norm ``decoder_norm``, the encoder its
        transpose, biases 0.

        Every model of a crosscoder gets the same rows, as in Lindsey et al. (2024).
        """
        super().__init__()
        self.config = config
        # data drawn from the same small seed would be the very directions that the dictionary
        # starts from
        generator = torch.Generator().manual_seed((seed + 0x5EED_0001) % 2**32)
        each = config.outputs // config.models
        rows = torch.randn(config.width, each, generator=generator)
        rows = (rows / rows.norm(dim=1, keepdim=True) * decoder_norm).tile(1, config.models)
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.outputs))
        if config.architecture != "matching_pursuit":
            # rows of latents lie in memory one after the other, which gradients by active rows need
            into = (
                rows if not config.is_transcoder else _directions(config, generator, decoder_norm)
            )
            self.W_enc = nn.Parameter(into.clone().T)
            if config.architecture == "gated":
                for name in ("b_gate", "b_mag", "r_mag"):
                    setattr(self, name, nn.Parameter(torch.zeros(config.width)))
            else:
                self.b_enc = nn.Parameter(torch.zeros(config.width))
        if config.architecture == "jumprelu":
            self.threshold = nn.Parameter(torch.full((config.width,), 1e-2))
        elif config.architecture in BY_BATCH:
            self.register_buffer("threshold", torch.tensor(math.nan, dtype=torch.float64))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(config.outputs, config.inputs))
        self.register_buffer("scale", torch.ones(config.models))
        self.bandwidth = 1e-3
        self._known_digest: tuple[Any, str] = (None, "")

    # ------------------------------------------------------------------ inputs and outputs

    def normalised(self, x: Float[Tensor, "N D"]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Inputs as the encoder reads them, and the shift and factor that undo it."""
        kind = self.config.normalisation
        if kind == "none":
            return x, (x.new_zeros(()), x.new_ones(()))
        if kind == "scale":
            per = self.scale.to(x.dtype)
            return x * per.repeat_interleave(self.config.d_in), (
                x.new_zeros(()),
                self._output_factor(x),
            )
        if kind == "layer-norm":
            # the small number is not undone, as in the code of Gao et al. and in SAELens
            mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True)
            return (x - mean) / (spread + 1e-5), (mean, spread)
        size = x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny) / math.sqrt(
            self.config.d_in
        )
        return x / size, (x.new_zeros(()), size)

    def _output_factor(self, x: Tensor) -> Tensor:
        return (1 / self.scale.to(x.dtype)).repeat_interleave(
            self.config.outputs // self.config.models
        )

    def _inside(self, x: Tensor) -> Tensor:
        return x - self.b_dec if self.config.input_bias else x

    def pre_activations(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """What the activation function reads, of normalised inputs; the gate's of a gated
        dictionary.
        """
        if self.config.architecture == "matching_pursuit":
            raise OptionError(
                "a matching pursuit has no pre-activations: every choice depends on those before it"
            )
        bias = self.b_gate if self.config.architecture == "gated" else self.b_enc
        return torch.addmm(bias, self._inside(x), self.W_enc)

    # ------------------------------------------------------------------ codes

    @property
    def importance(self) -> Float[Tensor, " F"] | None:
        """What values are ranked times: the decoder's norms (summed over models), None by value."""
        return self.decoder_norms.sum(1) if self.config.rank_by == "norm" else None

    @property
    def digest(self) -> str:
        """Digest of the configuration and of all numbers and their types, whatever file format they
        were read from.

        Computed again only where the numbers may have changed since the last time.
        """
        values = dict(sorted(self.state_dict().items()))
        state = [self.config.to_json(), {name: _state_of(value) for name, value in values.items()}]
        if self._known_digest[0] != state:
            numbers = {
                name: [str(v.dtype), sha256(raw_bytes(v)).hexdigest()] for name, v in values.items()
            }
            self._known_digest = state, digest({"config": state[0], "numbers": numbers})
        return self._known_digest[1]

    @property
    def decoder_norms(self) -> Float[Tensor, "F M"]:
        """Norm of every latent's decoder row, for every model."""
        return self.W_dec.detach().unflatten(1, (self.config.models, -1)).norm(dim=2)

    def choose(self, training: bool) -> Choose:
        """Which pre-activations are codes: the k largest of a row, of a batch in training, or above
        the threshold.
        """
        config, weight = self.config, self.importance
        if config.architecture == "topk":
            return lambda pre: top_per_row(pre, required(config.k, "a number of codes"), weight)
        if training:
            return lambda pre: top_per_batch(pre, required(config.k, "a number of codes"), weight)
        if bool(to_host(self.threshold.isnan())):
            raise OptionError(
                f"this {config.architecture} dictionary has no threshold, so that what it finds"
                " would depend on the batch; train it further, or set it with calibrate()"
            )
        return lambda pre: (
            Codes.of(
                (
                    (pre if weight is None else pre * weight)
                    > self.threshold.to(pre.dtype).clamp_min(0)
                )
                * pre
            ).pattern
        )

    def encode_sparse(self, x: Float[Tensor, "N D"]) -> Codes:
        """Codes of inputs in their own units."""
        return self.reconstruct(x).codes

    def encode(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Codes of inputs in their own units, zeros included."""
        return self.encode_sparse(x).dense()

    def reconstruct(self, x: Float[Tensor, "N D"], *, training: bool = False) -> Reconstruction:
        """Codes and output of inputs in their own units; ``training`` chooses by batch where the
        architecture does.
        """
        inside, undo = self.normalised(x)
        found = self.raw(inside, training=training)
        return found._replace(output=found.output * undo[1] + undo[0])

    def raw(self, x: Float[Tensor, "N D"], *, training: bool = False) -> Reconstruction:
        """As ``reconstruct``, of inputs that are normalised already, the output normalised too."""
        config, pre = self.config, None
        if config.architecture in SPARSE:
            out, codes = autoencode(
                x,
                self.W_enc,
                self.b_enc,
                self.W_dec,
                self.b_dec,
                subtract=config.input_bias,
                choose=self.choose(training),
            )
        elif config.architecture == "matching_pursuit":
            codes, rest = pursuit.pursue(
                x - self.b_dec, self.W_dec, threshold=config.residual_threshold, steps=config.steps
            )
            out = x - rest
        else:
            pre = self.pre_activations(x)
            dense = self.activated(pre)
            codes, out = Codes.of(dense), dense @ self.W_dec + self.b_dec
        if config.skip:
            out = out + x @ self.W_skip.T
        return Reconstruction(out, codes, pre)

    def activated(self, pre: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """Dense codes of the pre-activations of a standard, jumprelu or gated dictionary."""
        if self.config.architecture == "standard":
            return pre.relu()
        if self.config.architecture == "jumprelu":
            return jump(pre, self.threshold, self.bandwidth) * (pre > 0)
        if self.config.architecture == "gated":
            return (pre > 0) * self.magnitude(pre).relu()
        raise OptionError(
            f"codes of a {self.config.architecture} dictionary depend on more than one"
            " pre-activation"
        )

    def magnitude(self, pre: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """A gated dictionary's magnitudes before their relu, of its gate's pre-activations."""
        return (pre - self.b_gate) * self.r_mag.exp() + self.b_mag

    def decode(self, codes: Codes | Float[Tensor, "N F"]) -> Float[Tensor, "N O"]:
        """Output of codes, before normalisation is undone and without a skip connection."""
        return (
            decode(codes, self.W_dec) if isinstance(codes, Codes) else codes @ self.W_dec
        ) + self.b_dec

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N O"]:
        """Reconstruction of inputs in their own units."""
        return self.reconstruct(x).output


def _state_of(value: Tensor) -> list[Any]:
    """What changes when numbers do, at the cost of reading them once: the version that torch
    counts, and their sum.

    Torch does not count what is written through ``.data``; the sum, of their bits as whole numbers,
    has that too.
    """
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    total = int(to_host(value.view(whole).sum(dtype=torch.int64)))
    version = None if value.is_inference() else value._version
    return [str(value.dtype), list(value.shape), value.data_ptr(), version, total]


def _directions(config: DictionaryConfig, generator: torch.Generator, norm: float) -> Tensor:
    rows = torch.randn(config.width, config.d_in, generator=generator)
    return (rows / rows.norm(dim=1, keepdim=True) * norm).tile(1, config.models)
