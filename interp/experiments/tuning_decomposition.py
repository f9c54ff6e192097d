"""Pre-training and fine-tuning components of a tuned model's block updates (TuCo, arXiv
2506.23423).

With ``f(x, l)`` the update of block l, on the tuned stream ``x_l``::

    PTC_l = f_base(x_l, l)
    FTC_l = f_tuned(x_l, l) - f_base(x_l, l)
    x_{l+1} = x_l + PTC_l + FTC_l

Two passes: one of the tuned model, whose stream is kept for the batch; one of the base, which gets
that stream before every block. Updates are sums of the outputs of attention and MLP, not
differences of large streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from interp.engines import Batch, Edit, Engine
from interp.errors import OptionError
from interp.interventions.edits import KeepLastPosition, Observe, Replace
from interp.models.model import Model
from interp.sites import Site

Granularity = Literal["block", "sublayer"]
Positions = Literal["last", "all"]
Path = Literal["fast", "full"]
Callback = Callable[[int, Tensor, Tensor], None]
PARTS = ("hook_attn_out", "hook_mlp_out")


@dataclass(frozen=True)
class TunedStream:
    """One batch of the tuned model: the stream before every block and after the last, and each
    block's outputs.

    ``attention`` and ``mlp`` are of all columns, or (``positions`` last) of the last one only.
    After a fast pass only the last column of the stream after the last block is valid.
    """

    batch: Batch
    positions: Positions
    before: tuple[Float[Tensor, "B T D"], ...]
    attention: tuple[Float[Tensor, "B P D"], ...]
    mlp: tuple[Float[Tensor, "B P D"], ...]

    @classmethod
    def read(
        cls,
        engine: Engine,
        model: Model,
        batch: Batch,
        positions: Positions = "last",
        path: Path = "full",
    ) -> TunedStream:
        """One pass of the tuned model without its head; ``path`` fast computes the last block's
        outputs for the last column only.
        """
        require_local_engine(engine)
        _require_last(path, positions)
        layers = range(model.anatomy.n_layers)
        sites = [Site(layer, "hook_resid_pre") for layer in layers] + [
            Site(layers[-1], "hook_resid_post")
        ]
        if positions == "all":
            values = engine.run(model, batch, reads=[*sites, *_output_sites(layers)], keep=0).values
            return cls(
                batch,
                positions,
                *(
                    tuple(values[site] for site in some)
                    for some in (
                        sites,
                        _output_sites(layers, PARTS[:1]),
                        _output_sites(layers, PARTS[1:]),
                    )
                ),
            )
        parts: dict[str, list[Tensor]] = {hook: [] for hook in PARTS}
        edits: list[Edit] = _last_column_edits(model, layers[-1:]) if path == "fast" else []
        edits += [
            Observe(Site(layer, hook), partial(_append_clone, kept, positions))
            for layer in layers
            for hook, kept in parts.items()
        ]
        values = engine.run(model, batch, reads=sites, edits=edits, keep=0).values
        return cls(
            batch, positions, tuple(values[site] for site in sites), *map(tuple, parts.values())
        )

    def cut(self, value: Float[Tensor, "B T D"]) -> Float[Tensor, "B P D"]:
        """The columns that are examined."""
        return value[:, -1:] if self.positions == "last" else value

    def update(self, layer: int) -> Float[Tensor, "B P D"]:
        """A block's update, in float64."""
        return self.attention[layer].double() + self.mlp[layer].double()

    def shifted(self, columns: int, pad_id: int) -> TunedStream:
        """The same stream after more columns of padding: equal values in another shape."""
        ids, mask = (
            pad(self.batch.ids, (columns, 0), value=pad_id),
            pad(self.batch.mask, (columns, 0), value=False),
        )
        before = tuple(pad(value, (0, 0, columns, 0)) for value in self.before)
        if self.positions == "last":
            return TunedStream(Batch(ids, mask), self.positions, before, self.attention, self.mlp)
        parts = (
            tuple(pad(value, (0, 0, columns, 0)) for value in part)
            for part in (self.attention, self.mlp)
        )
        return TunedStream(Batch(ids, mask), self.positions, before, *parts)


def decompose(
    engine: Engine,
    base: Model,
    stream: TunedStream,
    callback: Callback,
    granularity: Granularity = "block",
    path: Path = "full",
) -> None:
    """One pass of the base on the tuned stream; ``callback(layer, ptc, ftc)`` gets each block's
    ``[B, P, D]`` in float64.

    ``granularity`` sublayer gives the base's MLP the stream after the *tuned* attention: the same
    total, divided otherwise. ``path`` fast (last column only) computes output projections and MLPs
    for one column: equal up to rounding.
    """
    require_local_engine(engine)
    _require_last(path, stream.positions)
    layers = range(base.anatomy.n_layers)
    replacements = [
        Replace(Site(layer, "hook_resid_pre"), stream.before[layer]) for layer in layers
    ]
    if stream.positions == "all" and granularity == "block":
        values = engine.run(
            base, stream.batch, reads=_output_sites(layers), edits=replacements, keep=0
        ).values
        for layer in layers:
            attention, mlp = (values.pop(site).double() for site in _output_sites([layer]))
            ptc = attention + mlp
            callback(layer, ptc, stream.update(layer).to(ptc.device) - ptc)
        return
    parts: list[Tensor] = []

    def arrived(layer: int, value: Tensor) -> None:
        parts.append(stream.cut(value).double())
        if len(parts) == 2:
            ptc = parts[0] + parts[1]
            parts.clear()
            callback(layer, ptc, stream.update(layer).to(ptc.device) - ptc)

    edits: list[Edit] = []
    for layer in layers:
        edits.append(replacements[layer])
        if path == "fast":
            edits += _last_column_edits(base, [layer])
        edits.append(Observe(Site(layer, "hook_attn_out"), partial(arrived, layer)))
        if granularity == "sublayer":
            edits.append(Replace(Site(layer, "hook_attn_out"), stream.attention[layer]))
        edits.append(Observe(Site(layer, "hook_mlp_out"), partial(arrived, layer)))
    engine.run(base, stream.batch, edits=edits, keep=0)


def base_stream_ends(
    engine: Engine, base: Model, stream: TunedStream, path: Path = "full"
) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B P D"]]:
    """The base's own stream on the same tokens, before the first block and after the last (one
    pass).
    """
    _require_last(path, stream.positions)
    last = base.anatomy.n_layers - 1
    sites = [Site(0, "hook_resid_pre"), Site(last, "hook_resid_post")]
    edits = _last_column_edits(base, [last]) if path == "fast" else []
    values = engine.run(base, stream.batch, reads=sites, edits=edits, keep=0).values
    start, end = (stream.cut(values[site]).double() for site in sites)
    return start, end


def required_hooks() -> Sequence[str]:
    """The sites that an architecture must have."""
    return ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def require_local_engine(engine: Engine) -> None:
    """Raise OptionError for a remote engine: functions that observe a pass must run in this
    process.
    """
    if getattr(engine, "remote", False):
        raise OptionError(
            "the decomposition observes passes while they run, which a remote engine cannot do;"
            " leave out --remote"
        )


def _require_last(path: Path, positions: Positions) -> None:
    if path == "fast" and positions != "last":
        raise OptionError(
            "the fast path is for the last token only; use the full path for all positions"
        )


def _last_column_edits(model: Model, layers: Sequence[int]) -> list[Edit]:
    """Edits that restrict output projections and MLPs of some blocks to the last column."""
    # architectures without these sites are computed in full
    hooks = [hook for hook in ("attn.hook_z", "mlp.hook_in") if hook in model.anatomy.targets]
    return [KeepLastPosition(Site(layer, hook)) for layer in layers for hook in hooks]


def _output_sites(layers: Sequence[int], parts: Sequence[str] = PARTS) -> list[Site]:
    """The sites of the blocks' outputs, block by block.

    For all columns they are reads, not observers, so that a prefix shared by the prompts is
    computed once.
    """
    return [Site(layer, hook) for layer in layers for hook in parts]


def _append_clone(values: list[Tensor], positions: Positions, value: Tensor) -> None:
    values.append((value[:, -1:] if positions == "last" else value).detach().clone())
