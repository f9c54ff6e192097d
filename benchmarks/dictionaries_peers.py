"""One architecture trained by another library on draws from a file, run by the Python that has the
library.

``PYTHON benchmarks/dictionaries_peers.py FOLDER``: reads ``asked.json``, ``data.npy`` (steps,
batch, D), ``held.npy`` there, writes ``found.npz`` (decoder rows, outputs and codes of the held-out
inputs, seconds). Knows nothing of interp.

SAELens and dictionary_learning train with their own trainers, at the same learning rate, warm-up,
decay and count of inputs until a latent is dead; coefficients of penalties are steered to the same
L0 as ours. sparsify's trainer needs a language model, so its coder (forward pass, loss, AuxK of
1/32, unit norms) is stepped here with Adam.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

DEAD_AFTER = 50_000


def steered(strength: float, l0: float, wanted: float) -> float:
    """A penalty's next coefficient."""
    return min(max(strength * min(max((l0 + 1e-3) / wanted, 0.5), 2.0) ** 0.05, 1e-5), 10.0)


def saelens(asked, data):
    """By ``SAETrainer`` from an iterator of batches."""
    import sae_lens as lens  # pyright: ignore[reportMissingImports]
    from sae_lens.config import (  # pyright: ignore[reportMissingImports]
        LoggingConfig,
        SAETrainerConfig,
    )
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    steps, batch, width = data.shape
    latents, architecture, wanted = asked["latents"], asked["architecture"], asked["l0"]
    k = max(1, round(wanted))
    name, more = {
        "standard": ("Standard", {}),
        "gated": ("Gated", {}),
        "jumprelu": ("JumpReLU", {"jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 0.1}),
        "topk": ("TopK", {"k": k}),
        "batchtopk": ("BatchTopK", {"k": float(k)}),
        "matryoshka": (
            "MatryoshkaBatchTopK",
            {"k": float(k), "matryoshka_widths": [latents // part for part in (16, 8, 4, 2, 1)]},
        ),
        "matching_pursuit": ("MatchingPursuit", {"max_iterations": k, "residual_threshold": 1e-6}),
    }[architecture]
    config = getattr(lens, f"{name}TrainingSAEConfig")(d_in=width, d_sae=latents, **more)
    sae = getattr(lens, f"{name}TrainingSAE")(config)
    with torch.no_grad():
        sae.b_dec.copy_(data[0].mean(0))

    def batches():
        strength = 1e-2
        for step in range(steps + 1):
            x = data[min(step, steps - 1)]
            penalties = [n for n in trainer.coefficient_schedulers if n in ("l1", "l0")]
            if penalties:
                with torch.no_grad():
                    strength = steered(
                        strength, float((sae.encode(x) != 0).sum(1).float().mean()), wanted
                    )
                for penalty in penalties:
                    scheduler = trainer.coefficient_schedulers[penalty]
                    scheduler.final_value = scheduler.current_value = strength
            yield x

    settings = SAETrainerConfig(
        total_training_samples=steps * batch,
        train_batch_size_samples=batch,
        lr=asked["lr"],
        lr_end=asked["lr"],
        lr_warm_up_steps=int(asked["warm"] * steps),
        lr_decay_steps=int(asked["decay"] * steps),
        dead_feature_window=max(1, DEAD_AFTER // batch),
        logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=batches())
    trainer.fit()
    if architecture == "topk":  # ranked by norm in training: what it would export
        sae.fold_W_dec_norm()
    inference = lens.SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    inference.load_state_dict(state)
    return inference.W_dec, lambda x: (inference(x), inference.encode(x))


def dictionary_learning(asked, data):
    """By its trainers' ``update``."""
    from dictionary_learning.trainers import (  # pyright: ignore[reportMissingImports]
        batch_top_k,
        matryoshka_batch_top_k,
        top_k,
    )

    steps, _, width = data.shape
    latents, architecture = asked["latents"], asked["architecture"]
    cls, more = {
        "topk": (top_k.TopKTrainer, {}),
        "batchtopk": (batch_top_k.BatchTopKTrainer, {}),
        "matryoshka": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
            {"group_fractions": [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]},
        ),
    }[architecture]
    trainer = cls(
        steps=steps,
        activation_dim=width,
        dict_size=latents,
        k=max(1, round(asked["l0"])),
        layer=0,
        lm_name="none",
        lr=asked["lr"],
        warmup_steps=int(asked["warm"] * steps),
        decay_start=int((1 - asked["decay"]) * steps),
        threshold_start_step=min(1000, steps // 2),
        seed=asked["seed"],
        device="cpu",
        **more,
    )
    trainer.dead_feature_threshold = DEAD_AFTER
    for step in range(steps):
        trainer.update(step, data[step])
    coder = trainer.ae
    rows = coder.decoder.weight.T if hasattr(coder, "decoder") else coder.W_dec
    threshold = {} if architecture == "topk" else {"use_threshold": True}

    def made(x):
        codes = coder.encode(x, **threshold)
        return coder.decode(codes), codes

    return rows, made


def sparsify(asked, data):
    """Its coder's own forward pass and loss, stepped with Adam."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    steps, batch, width = data.shape
    latents = asked["latents"]
    config = SparseCoderConfig(num_latents=latents, k=max(1, round(asked["l0"])))
    coder = SparseCoder(width, config, dtype=torch.float32)
    coder.b_dec.data = data[0].mean(0)
    optimiser = torch.optim.Adam(coder.parameters(), asked["lr"])
    silent = torch.zeros(latents)
    for step in range(steps):
        rate = min(
            1,
            (step + 1) / max(1, asked["warm"] * steps),
            (steps - step) / max(1, asked["decay"] * steps),
        )
        optimiser.param_groups[0]["lr"] = asked["lr"] * rate
        coder.set_decoder_norm_to_unit_norm()
        dead = silent > DEAD_AFTER
        found = coder(data[step], dead_mask=dead if dead.any() else None)
        optimiser.zero_grad()
        (found.fvu + found.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        silent += batch
        silent[found.latent_indices.flatten()] = 0
    coder.set_decoder_norm_to_unit_norm()

    def made(x):
        found = coder(x)
        return found.sae_out, torch.zeros(len(x), latents).scatter_(
            1, found.latent_indices, found.latent_acts
        )

    return coder.W_dec, made


def overcomplete(asked, data):
    """By its ``train_sae`` over the batches in order."""
    from overcomplete.sae import (  # pyright: ignore[reportMissingImports]
        BatchTopKSAE,
        MpSAE,
        TopKSAE,
        train_sae,
    )

    steps, _, width = data.shape
    k = max(1, round(asked["l0"]))
    cls = {"topk": TopKSAE, "batchtopk": BatchTopKSAE, "matching_pursuit": MpSAE}[
        asked["architecture"]
    ]
    count = k * data.shape[1] if asked["architecture"] == "batchtopk" else k
    name = "k" if asked["architecture"] == "matching_pursuit" else "top_k"
    coder = cls(width, nb_concepts=asked["latents"], **{name: count})
    optimiser = torch.optim.Adam(coder.parameters(), asked["lr"])
    rises = [(0.1, 1.0, int(asked["warm"] * steps)), (1.0, 0.01, int(asked["decay"] * steps))]
    flat = steps - rises[0][2] - rises[1][2]
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, *rises[0]),
            torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0, flat),
            torch.optim.lr_scheduler.LinearLR(optimiser, *rises[1]),
        ],
        [rises[0][2], rises[0][2] + flat],
    )

    def loss(x, out, pre, codes, rows):
        return (x - out).square().sum(1).mean()

    train_sae(
        coder, [(x,) for x in data], loss, optimiser, scheduler=schedule, nb_epochs=1, device="cpu"
    )
    coder.eval()

    def made(x):
        codes = coder.encode(x)[-1]
        return coder.decode(codes), codes

    return coder.get_dictionary(), made


def main() -> None:
    """Train, and write what was found."""
    root = Path(sys.argv[1])
    asked = json.loads((root / "asked.json").read_text())
    data, held = (torch.from_numpy(np.load(root / f"{name}.npy")) for name in ("data", "held"))
    torch.manual_seed(asked["seed"] + 1)
    start = time.process_time()
    library = {
        "SAELens": saelens,
        "dictionary_learning": dictionary_learning,
        "sparsify": sparsify,
        "overcomplete": overcomplete,
    }[asked["library"]]
    rows, made = library(asked, data)
    took = time.process_time() - start
    with torch.no_grad():
        found = [made(x) for x in held]
    np.savez(
        root / "found.npz",
        rows=rows.detach().numpy().astype(np.float32),
        seconds=took,
        output=np.stack([output.detach().numpy() for output, _ in found]),
        codes=np.stack([codes.detach().to_dense().numpy() for _, codes in found]),
    )


if __name__ == "__main__":
    main()
