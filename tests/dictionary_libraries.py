"""Dictionaries as the original libraries write and read them; run by an environment that has one,
never by ours.

``make LIBRARY OUT`` writes the fixtures of ``tests/data/dictionaries``: small random dictionaries
in the library's own files, with inputs and the library's own codes and outputs
(``expected.safetensors``). ``back LIBRARY FOLDER`` reads every folder in FOLDER with the library,
runs it on its ``given.safetensors`` and writes ``theirs.safetensors``.

Environments, each of its own, after ``pip install torch==2.13.0``:

    saelens              sae-lens==6.54.12 "transformer-lens>=2.16.1,<4"   (Gemma Scope and Llama
                         Scope by its loaders)
    sparsify             eai-sparsify==1.3.3
    dictionary-learning  dictionary-learning==0.1.0, or it without dependencies, and "nnsight<0.4"
                         einops tqdm datasets zstandard
    crosscoders          as dictionary-learning, and INTERP_CROSSCODERS, a folder with the
                         ``dictionary_learning`` of science-of-finetuning/crosscoder_learning and,
                         as ``kissane.py``, the crosscoder.py of
                         ckkissane/crosscoder-model-diff-replication (neither has a release)
"""

import json
import os
import sys
import types
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D, F, K, N = 8, 16, 3, 12


def shaken(module, unit=False):
    """The module with every floating parameter random, decoder norms unlike unless ``unit``."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "W_dec" in name or "decoder.weight" in name:
                value.copy_(torch.randn(value.shape))
                axis = 0 if "decoder.weight" in name and value.ndim == 2 else -1
                value.div_(value.norm(dim=axis, keepdim=True))
                if not unit:
                    latents = (
                        -1 if axis == 0 else (1 if "decoder" in name and value.ndim == 3 else 0)
                    )
                    factors = 0.5 + torch.rand(value.shape[latents])
                    value.copy_((value.transpose(latents, -1) * factors).transpose(latents, -1))
            elif value.ndim > 1:
                value.copy_(torch.randn(value.shape) * 0.5)
            elif "threshold" in name:
                value.copy_(0.2 + 0.5 * torch.rand(value.shape))
            else:
                value.copy_(torch.randn(value.shape) * 0.3)
    return module


def keep(folder, x, codes, output):
    save_tensors(folder / "expected.safetensors", x=x, codes=codes, output=output)


def save_tensors(path, **tensors):
    save_file({key: value.detach().float().contiguous() for key, value in tensors.items()}, path)


# ---------------------------------------------------------------------- SAELens


def saelens_make(out):
    import sae_lens
    from sae_lens import SAE
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
    from sae_lens.saes.sae import SAEMetadata

    def said():
        return SAEMetadata(
            model_name="tiny",
            hook_name="blocks.3.hook_resid_post",
            prepend_bos=True,
            exclude_special_tokens=[0, 1],
        )

    def inference(name, architecture, unit=False, d_sae=F, **more):
        cls, config = SAE_CLASS_REGISTRY[architecture]
        given = {"d_in": D, "d_sae": d_sae, "metadata": said(), **more}
        sae = shaken(cls(config(**given)), unit)
        sae.save_model(out / name)
        finish(name)

    def finish(name):
        sae = SAE.load_from_disk(out / name)
        x = torch.randn(N, D) * 1.5
        keep(out / name, x, sae.encode(x), sae(x))

    def trained(name, architecture, checkpoint=False, d_sae=F, **more):
        cls, config = SAE_TRAINING_CLASS_REGISTRY[architecture]
        sae = shaken(cls(config(d_in=D, d_sae=d_sae, metadata=said(), **more)))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold = torch.tensor(0.8, dtype=torch.float64)
        (sae.save_model if checkpoint else sae.save_inference_model)(out / name)
        if not checkpoint or architecture == "topk":
            finish(name)

    inference("standard", "standard")
    inference("standard_not_subtracted", "standard", apply_b_dec_to_input=False)
    inference("standard_layer_norm", "standard", normalize_activations="layer_norm")
    inference("standard_constant_norm", "standard", normalize_activations="constant_norm_rescale")
    inference("standard_square", "standard", d_sae=D)
    inference("gated", "gated")
    inference("jumprelu", "jumprelu")
    inference("topk_by_value", "topk", k=K)
    trained("topk_by_norm", "topk", k=K, rescale_acts_by_decoder_norm=True)
    trained("topk_checkpoint", "topk", checkpoint=True, k=K, rescale_acts_by_decoder_norm=True)
    trained("batchtopk", "batchtopk", k=K, rescale_acts_by_decoder_norm=True)
    trained(
        "matryoshka",
        "matryoshka_batchtopk",
        k=K,
        matryoshka_widths=[4, 8, F],
        rescale_acts_by_decoder_norm=True,
    )
    inference("matching_pursuit", "matching_pursuit", unit=True, residual_threshold=0.5)
    inference("transcoder", "transcoder", d_out=D - 2, apply_b_dec_to_input=False)
    inference("skip_transcoder", "skip_transcoder", d_out=D - 2, apply_b_dec_to_input=False)
    inference("jumprelu_transcoder", "jumprelu_transcoder", d_out=D - 2, apply_b_dec_to_input=False)
    inference(
        "jumprelu_skip_transcoder",
        "jumprelu_skip_transcoder",
        d_out=D - 2,
        apply_b_dec_to_input=False,
    )
    # what 5 wrote: no version, flat
    inference("legacy_topk", "topk", k=K)
    config = json.loads((out / "legacy_topk" / "cfg.json").read_text())
    for key in (
        "architecture",
        "k",
        "rescale_acts_by_decoder_norm",
        "metadata",
        "apply_b_dec_to_input",
    ):
        config.pop(key)
    config |= {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "hook_point": "blocks.3.hook_resid_pre",
    }
    config |= {"model_name": "tiny", "normalize_activations": False}
    (out / "legacy_topk" / "cfg.json").write_text(json.dumps(config))
    finish("legacy_topk")
    scopes_make(out.parent, sae_lens)


def scopes_make(out, sae_lens):
    import numpy as np
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    def local(repo_id, filename, subfolder="", **_):
        return str(out / repo_id.split("/")[0] / Path(subfolder) / filename)

    loaders.hf_hub_download = local

    def run(folder, state, config, scale=None):
        sae = JumpReLUSAE(
            JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=config["apply_b_dec_to_input"])
        )
        sae.load_state_dict({key: value.float() for key, value in state.items()})
        if scale is not None:
            sae.fold_activation_norm_scaling_factor(scale)
        x = torch.randn(N, D) * 1.5
        keep(folder, x, sae.encode(x), sae(x))

    for name in ("layer_3", "embedding"):
        folder = out / "gemma-scope" / name
        folder.mkdir(parents=True)
        W_dec = torch.nn.functional.normalize(torch.randn(F, D))
        arrays = {"W_enc": torch.randn(D, F) * 0.4, "W_dec": W_dec, "b_enc": torch.randn(F) * 0.3}
        arrays |= {"b_dec": torch.randn(D) * 0.3, "threshold": 0.2 + torch.rand(F)}
        np.savez(folder / "params.npz", **{key: value.numpy() for key, value in arrays.items()})
        loaders.get_gemma_2_config_from_hf = lambda *a, **b: {
            "d_in": D,
            "apply_b_dec_to_input": False,
        }
        config, state, _ = loaders.gemma_2_sae_huggingface_loader("gemma-scope/x", name)
        run(folder, state, config)
    folder = out / "llama-scope" / "Llama3_1-8B-Base-L3R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    norms = {"in": 1.7, "out": 1.7}
    hyper = {
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
        "d_model": D,
        "d_sae": F,
        "expansion_factor": 2,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.15,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "top_k": 50,
        "sparsity_include_decoder_norm": True,
    }
    (folder / "hyperparams.json").write_text(json.dumps(hyper))
    tensors = {"encoder.weight": torch.randn(F, D) * 0.4, "encoder.bias": torch.randn(F) * 0.3}
    tensors |= {"decoder.weight": torch.nn.functional.normalize(torch.randn(D, F), dim=0)}
    tensors |= {"decoder.bias": torch.randn(D) * 0.3}
    # the loader goes through bfloat16
    tensors = {key: value.bfloat16().float() for key, value in tensors.items()}
    save_file(tensors, folder / "checkpoints" / "final.safetensors")
    config, state, _ = loaders.llama_scope_sae_huggingface_loader(
        "llama-scope/x", folder.name, cfg_overrides={"dtype": "float32"}
    )
    run(folder, state, config, D**0.5 / norms["in"])


def saelens_back(folder, x):
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


# ---------------------------------------------------------------------- sparsify


def sparsify_run(sae, x):
    top, where, _ = sae.encode(x)
    codes = torch.zeros(len(x), sae.num_latents).scatter_(1, where, top)
    return codes, sae(x).sae_out


def sparsify_make(out):
    from sparsify import SparseCoder, SparseCoderConfig

    for name, more in {
        "layers.3": {},
        "layers.3.unnormalised": {"normalize_decoder": False},
        "layers.3.skip": {"skip_connection": True},
        "layers.3.mlp": {"transcode": True},
        "layers.3.mlp.skip": {"transcode": True, "skip_connection": True},
    }.items():
        sae = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K, **more))
        shaken(sae, unit=not name.endswith("unnormalised") and "transcode" not in more)
        sae.save_to_disk(out / name)
        x = torch.randn(N, D) * 1.5
        keep(out / name, x, *sparsify_run(sae, x))
    (out / "config.json").write_text(
        json.dumps({"model": "tiny", "ctx_len": 64, "exclude_tokens": [0]})
    )


def sparsify_back(folder, x):
    from sparsify import SparseCoder

    return sparsify_run(SparseCoder.load_from_disk(folder), x)


# ---------------------------------------------------------------------- dictionary_learning


def dictionary_learning_make(out):
    from dictionary_learning import dictionary as plain
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    for cls, more in (
        (plain.AutoEncoder, {}),
        (plain.AutoEncoderNew, {}),
        (plain.GatedAutoEncoder, {}),
        (plain.JumpReluAutoEncoder, {}),
        (top_k.AutoEncoderTopK, {"k": K}),
        (batch_top_k.BatchTopKSAE, {"k": K}),
        (matryoshka_batch_top_k.MatryoshkaBatchTopKSAE, {"k": K, "group_sizes": [4, 4, F - 8]}),
    ):
        sae = shaken(cls(D, F, **more), unit=bool(more))
        if more:
            sae.threshold.fill_(0.7)
        folder = out / cls.__name__
        folder.mkdir(parents=True)
        torch.save(sae.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": cls.__name__,
            "activation_dim": D,
            "dict_size": F,
            "layer": 3,
            "lm_name": "tiny",
        }
        trainer |= {"submodule_name": "resid_post_layer_3", **({"k": K} if more else {})}
        (folder / "config.json").write_text(
            json.dumps({"trainer": trainer, "buffer": {"ctx_len": 64}})
        )
        x = torch.randn(N, D) * 1.5
        keep(folder, x, sae.encode(x), sae(x))


def dictionary_learning_back(folder, x):
    from dictionary_learning.utils import load_dictionary

    sae, _ = load_dictionary(str(folder), "cpu")
    return sae.encode(x), sae(x)


# ---------------------------------------------------------------------- crosscoders


def crosscoders_make(out):
    sys.path.insert(0, os.environ["INTERP_CROSSCODERS"])
    from dictionary_learning import dictionary as fork

    for name, cls, more in (
        ("crosscoder", fork.CrossCoder, {}),
        ("batchtopk", fork.BatchTopKCrossCoder, {"k": K, "code_normalization": "CROSSCODER"}),
        ("batchtopk_sae_norm", fork.BatchTopKCrossCoder, {"k": K, "code_normalization": "SAE"}),
        ("batchtopk_scaled", fork.BatchTopKCrossCoder, {"k": K, "target_rms": 3.0}),
    ):
        if name.endswith("scaled"):
            more = {
                **more,
                "activation_mean": torch.randn(2, D) * 0.3,
                "activation_std": torch.rand(2, D) + 0.5,
            }
        sae = shaken(cls(D, F, num_layers=2, **more))
        if "k" in more:
            sae.threshold.fill_(0.6)
        folder = out / name
        if name == "batchtopk":
            sae.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
        else:
            folder.mkdir(parents=True)
            torch.save(sae.state_dict(), folder / "ae_final.pt")
            trainer = {
                "dict_class": cls.__name__,
                "activation_dim": D,
                "dict_size": F,
                "layer": 3,
                "lm_name": "tiny",
            }
            (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        x = torch.randn(N, 2, D) * 0.6
        keep(folder, x.flatten(1), sae.encode(x), sae(x).flatten(1))
    # its module imports a module of helpers, of which the class needs four names
    import einops

    helpers = types.ModuleType("utils")
    vars(helpers).update(torch=torch, Path=Path, json=json, einops=einops)
    sys.modules["utils"] = helpers
    import kissane

    config = {
        "dict_size": F,
        "d_in": D,
        "enc_dtype": "fp32",
        "seed": 0,
        "dec_init_norm": 0.1,
        "device": "cpu",
    }
    config |= {"model_name": "tiny", "hook_point": "blocks.3.hook_resid_pre"}
    sae = shaken(kissane.CrossCoder(config))
    folder = out.parent / "kissane-crosscoder" / "blocks.3.hook_resid_pre"
    folder.mkdir(parents=True)
    torch.save(sae.state_dict(), folder / "cc_weights.pt")
    (folder / "cfg.json").write_text(json.dumps(config))
    x = torch.randn(N, 2, D) * 0.6
    keep(folder, x.flatten(1), sae.encode(x), sae(x).flatten(1))


def main(action, library, folder):
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    here = globals()
    name = library.replace("-", "_")
    if action == "make":
        here[f"{name}_make"](Path(folder) / library)
        return
    for each in sorted(Path(folder).iterdir()):
        codes, output = here[f"{name}_back"](each, load_file(each / "given.safetensors")["x"])
        save_tensors(each / "theirs.safetensors", codes=codes, output=output)


if __name__ == "__main__":
    main(*sys.argv[1:])
