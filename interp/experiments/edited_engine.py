"""An engine under which one model always runs with an intervention, so that any analyzer can look
at it so.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from interp.engines import Batch, Direction, Edit, Engine, Run
from interp.errors import OptionError
from interp.interventions.intervention import Intervention
from interp.models.model import Model
from interp.sites import Site


class Ablated:
    """Runs ``model`` with the intervention, before whatever edits it is asked for; other models as
    they are.

    Only whole texts can be read so: a donor keeps no cache. Raises OptionError where a cache is
    asked for, and for an intervention from twin prompts, which an engine does not know.
    """

    def __init__(self, engine: Engine, model: Model, intervention: Intervention) -> None:
        if intervention.twin:
            raise OptionError(
                f"{intervention.name} reads twin prompts, and an engine is given none; use another"
                " donor"
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
        """One pass of the engine beneath; see ``Engine.run``."""
        if model is self._model:
            if use_cache or cache is not None:
                raise OptionError(
                    "a method that lets the tuned model answer cannot locate again under an"
                    " ablation"
                )
            donor, donated = self._intervention.donor, {}
            if donor is not None:
                donated = self._engine.run(
                    donor, batch, reads=self._intervention.reads, keep=0
                ).values
            edits = [*self._intervention.bind(donated), *edits]
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
