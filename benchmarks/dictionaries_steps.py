"""Steps of other libraries' TopK dictionaries, in an environment of theirs: ``python
dictionaries_steps.py NAME``.

Speaks with ``benchmarks.dictionaries_speed`` by lines: for every line read on stdin one step is
taken and its seconds, CPU seconds and the process's peak memory are written. Needs nothing of
interp.
"""

import json
import resource
import sys
import time

import torch

D, F, K, N = 768, 12288, 32, 4096


def data() -> torch.Tensor:
    """The same rows for all."""
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


def plain():
    """Plain dense TopK with the same work a step: projection, counts, clipping, AuxK where latents
    are dead.
    """
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(F, D), dim=1)
    w_dec, w_enc = (torch.nn.Parameter(value) for value in (rows.clone(), rows.T.clone()))
    b_enc, b_dec = torch.nn.Parameter(torch.zeros(F)), torch.nn.Parameter(torch.zeros(D))
    given = [w_enc, b_enc, w_dec, b_dec]
    adam = torch.optim.Adam(given, 1e-4)
    since, x = torch.zeros(F, dtype=torch.int64), data()

    def step():
        pre = torch.addmm(b_enc, x - b_dec, w_enc)
        best, where = pre.topk(K, 1)
        codes = torch.zeros_like(pre).scatter(1, where, best.relu())
        error = x - (codes @ w_dec + b_dec)
        loss = error.square().sum(1).mean()
        dead = since > 10_000_000
        if bool(dead.any()):
            best, where = pre[:, dead].topk(min(D // 2, int(dead.sum())), 1)
            guess = torch.zeros(N, int(dead.sum())).scatter(1, where, best.relu()) @ w_dec[dead]
            left = error.detach()
            loss = (
                loss + ((guess - left).square().mean() / (left - left.mean(0)).square().mean()) / 32
            )
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            slope = w_dec.grad
            assert slope is not None  # backward gave it
            slope -= (slope * w_dec).sum(1, keepdim=True) * w_dec
            torch.nn.utils.clip_grad_norm_(given, 1.0)
            adam.step()
            w_dec.data = torch.nn.functional.normalize(w_dec, dim=1)
            counts = (codes > 0).sum(0)
            since.add_(N)
            since[counts > 0] = 0

    return step


def sparsify():
    """SparseCoder in a loop of its trainer's work: Adam, norm and parallel part, fired latents,
    clipping, AuxK.
    """
    from sparsify import SparseCoder  # pyright: ignore[reportMissingImports]
    from sparsify.config import SparseCoderConfig  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K), "cpu")
    adam = torch.optim.Adam(coder.parameters(), 1e-4)
    since, x = torch.zeros(F, dtype=torch.int64), data()

    def step():
        dead = since > 10_000_000
        found = coder(x, dead_mask=dead if bool(dead.any()) else None)
        adam.zero_grad()
        (found.fvu + found.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        adam.step()
        coder.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(F, dtype=torch.bool)
        fired[found.latent_indices.flatten()] = True
        since.add_(N)
        since[fired] = 0

    return step


def saelens():
    """SAELens' own training step of a TopK at its defaults."""
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        SAETrainer,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import (  # pyright: ignore[reportMissingImports]
        LoggingConfig,
        SAETrainerConfig,
    )

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=F, k=K))
    settings = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=10**9,
        device="cpu",
        autocast=False,
        lr=1e-4,
        lr_end=1e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=N,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
    )
    x = data()
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(lambda: x, None))

    def step():
        trainer._train_step(sae=sae, sae_in=x)

    return step


def dictionary_learning():
    """dictionary_learning's TopKTrainer.update."""
    from dictionary_learning.trainers.top_k import (  # pyright: ignore[reportMissingImports]
        TopKTrainer,
    )

    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=D,
        dict_size=F,
        k=K,
        layer=0,
        lm_name="none",
        device="cpu",
        seed=0,
    )
    x, number = data(), [0]

    def step():
        number[0] += 1
        trainer.update(number[0], x)

    return step


PEERS = {
    "plain": plain,
    "sparsify": sparsify,
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
}


def serve(make) -> None:
    """A step for every line on stdin."""
    try:
        step = make()
        step()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        wall, used = time.perf_counter(), time.process_time()
        step()
        told = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - used}
        print(
            json.dumps({**told, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}),
            flush=True,
        )


if __name__ == "__main__":
    serve(PEERS[sys.argv[1]])
