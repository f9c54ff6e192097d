"""A remote service in a process of its own, which has torch, transformers and nnsight and nothing
of ours.

``python tests/ndif.py DIR`` runs one request, as a server does: it loads the model that DIR holds,
rebuilds what was sent, runs it and leaves what was saved. ``Service`` is the client's side, with a
directory in place of the wire.
"""

import json
import subprocess
import sys
from pathlib import Path

OURS = ("interp", "tests", "jaxtyping", "beartype", "transformer_lens")


class Absent:
    """An import hook for which a package is not installed."""

    def find_spec(self, name, path=None, target=None):
        """Refuse what the service does not have."""
        if name.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"the service has no {name}")


def serve(directory: Path) -> None:
    """Run the request that lies in a directory, and leave its answer there."""
    sys.meta_path.insert(0, Absent())
    import nnsight
    import torch
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.tracer import dec, inc
    from transformers import AutoModelForCausalLM

    model = nnsight.NNsight(
        AutoModelForCausalLM.from_pretrained(directory / "model").requires_grad_(False)
    )
    live = {f"Module:{part.path}": part._module for part in model.modules()} | {
        "Interleaver": model.interleaver
    }
    request = json.loads((directory / "request.json").read_text())
    tracer = RequestModel.deserialize((directory / "blob").read_bytes(), live, request["compress"])
    inc()
    try:
        tracer.execute(tracer.info.code)
    finally:
        dec()
    torch.save({"saved": tracer.info.frame.f_locals["saved"]}, directory / "answer")


def main(directory: Path) -> None:
    """As a client: one edited pass with gradients, here and remotely; prints the largest
    differences.
    """
    import nnsight
    import torch
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.schema.config import CONFIG

    from interp.engines import Batch, TorchEngine
    from interp.engines.nnsight_trace import NNsightEngine
    from interp.interventions.edits import Ablate, Blend
    from interp.metrics import Refusal
    from interp.models.model import Model
    from interp.sites import Site, neurons
    from tests import tiny

    CONFIG.API.APIKEY, CONFIG.APP.REMOTE_LOGGING = "a key", False

    class Service(RemoteBackend):
        """Everything of nnsight's own client but the wire."""

        def request(self, request, tracer):
            (directory / "blob").write_bytes(self._serialize(tracer))
            (directory / "request.json").write_text(request.metadata())
            subprocess.run([sys.executable, __file__, directory], cwd=directory, check=True)
            return torch.load(directory / "answer", weights_only=False)

    module = tiny.llama()
    tiny.save(module, directory / "model")
    model, metric = Model.wrap("owner/name@v2", module), Refusal(("sorry",), (54, 86, 273, 326))
    batch = Batch.pad([[5, 6, 7, 8, 9], [9, 8, 7]], 0)
    sites = [Site(layer, hook) for layer in range(3) for hook in model.anatomy.targets]
    halfway = Blend(Site(0, "hook_mlp_out"), torch.zeros(2, 5, model.anatomy.width), 0.5)
    asked = {
        "reads": sites,
        "edits": [Ablate(neurons(1), torch.tensor([2, 5])), halfway],
        "gradients_at": sites[:-1],
        "gradient_of": lambda logits: metric.log_odds(logits[:, -1]),
    }
    here, there = (
        TorchEngine().run(model, batch, **asked),
        NNsightEngine(True, Service).run(model, batch, **asked),
    )
    plain = TorchEngine().run(model, batch)
    print(
        json.dumps(
            {
                "logits": float((here.logits - there.logits).abs().max()),
                "values": max(float((here.values[s] - there.values[s]).abs().max()) for s in sites),
                "gradients": max(
                    float((here.gradients[s] - there.gradients[s]).abs().max()) for s in sites[:-1]
                ),
                "effect": float((here.logits - plain.logits).abs().max()),
                "request": json.loads((directory / "request.json").read_text()),
                "version": nnsight.__version__,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[2]))
