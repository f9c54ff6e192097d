"""An engine that always runs one model under an intervention, so that analyzers can examine it."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from interp.engines import Batch, Direction, Edit, Engine, Run
from interp.errors import OptionError
from interp.interventions.intervention import Intervention
from interp.models.model import Model
from interp.sites import Site


class EditedEngine:
    """Runs ``model`` with the intervention, before any other edits, and other models unedited.

    Only whole texts can be read, since the donor keeps no cache. Raises OptionError for a pass with
    a cache, and for an intervention from twin prompts, which an engine does not have.
    """

    def __init__(self, engine: Engine, model: Model, intervention: Intervention) -> None:
        if intervention.twin:
            raise OptionError(
                f"{intervention.name} reads twin prompts, which an engine does not have; use"
                " another donor"
            )
        self._engine, self._model, self._intervention = engine, model, intervention
        self.name = engine.name

    def run(
        self,
        model: Model,
        batch: Batch,
        *,
        reads: Sequence[Site] = (),
        edits: Sequence[Edit] = (),
        gradients_at: Sequence[Site] = (),
        gradient_of: Callable | None = None,
        keep: int | None = 1,
        cache: Any = None,
        use_cache: bool = False,
        over: Bool[Tensor, "B T"] | None = None,
        along: Sequence[Direction] = (),
    ) -> Run:
        """One pass of the wrapped engine; see ``Engine.run``."""
        if model is self._model:
            if use_cache or cache is not None:
                raise OptionError(
                    "a method that generates answers of the tuned model cannot locate under an"
                    " ablation; use another method"
                )
            donor, activations = self._intervention.donor, {}
            if donor is not None:
                activations = self._engine.run(
                    donor, batch, reads=self._intervention.reads, keep=0
                ).values
            edits = [*self._intervention.bind(activations), *edits]
        return self._engine.run(
            model,
            batch,
            reads=reads,
            edits=edits,
            gradients_at=gradients_at,
            gradient_of=gradient_of,
            keep=keep,
            cache=cache,
            use_cache=use_cache,
            over=over,
            along=along,
        )
