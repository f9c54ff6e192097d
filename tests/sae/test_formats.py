"""Other libraries' dictionaries: read as they compute, written so that they compute alike, broken
ones in a line.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.cli import GROUPS
from interp.errors import DictionaryError, OptionError
from interp.sae import DictionaryConfig, fold_decoder_norm, fold_scale, load, save
from interp.sae.core.config import ARCHITECTURES, TOPK_ARCHITECTURES
from interp.sae.core.dictionary import Dictionary
from interp.sae.formats import WRITABLE, detect, read, write

DATA = Path(__file__).parents[1] / "data" / "dictionaries"
CASES = sorted(
    path.parent.relative_to(DATA).as_posix() for path in DATA.rglob("expected.safetensors")
)
FORMATS = {"crosscoders": "crosscoder"}
D, F, K = 8, 16, 3
KINDS = {"gemma-scope/embedding": "embeddings"}
BATCHTOPK = {"dict_class": "BatchTopKSAE"}


def close(found, expected):
    """Equal to 1e-6 of the largest number, which is a few roundings of float32."""
    assert float((found.detach() - expected).abs().max()) <= 1e-6 * max(
        1.0, float(expected.abs().max())
    )


def copied(case, tmp_path):
    return Path(shutil.copytree(DATA / case, tmp_path / Path(case).name))


def changed(path, **tensors):
    """A safetensors file or a state of torch with some tensors changed by functions."""
    load_, save_ = (
        (load_file, save_file) if path.suffix == ".safetensors" else (torch.load, torch.save)
    )
    kept = load_(path)
    for name, change in tensors.items():
        name = name.replace("__", ".")
        kept[name] = change(kept[name]).contiguous()
    save_(kept, path)


def said(path, **more):
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.mark.parametrize("case", CASES)
def test_codes_and_outputs_are_the_librarys_own(case):
    expected = load_file(DATA / case / "expected.safetensors")
    assert float((expected["codes"] > 0).float().mean()) > 0.1
    dictionary, about = read(DATA / case, kind=KINDS.get(case))
    family = case.split("/")[0]
    assert about["format"] == detect(DATA / case) == FORMATS.get(family, family)
    found = dictionary.reconstruct(expected["x"])
    close(found.output, expected["output"])
    close(found.codes.dense(), expected["codes"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("to", WRITABLE)
def test_what_is_written_does_the_same_or_is_refused_in_a_line(case, to, tmp_path):
    expected = load_file(DATA / case / "expected.safetensors")
    dictionary, about = read(DATA / case, kind=KINDS.get(case))
    try:
        folder = write(dictionary, tmp_path / "out", to, about)
    except OptionError as error:
        line = str(error)
    else:
        line = None
    if line is not None:
        assert "\n" not in line
        assert "use --to" in line
        assert to != "interp"
        assert not list(tmp_path.iterdir())
        return
    again, kept = read(folder)
    close(again(expected["x"]), expected["output"])
    for key in ("site", "model", "layer", "mask"):
        assert kept[key] == about[key]
    assert detect(folder) == to


def test_what_each_library_can_express():
    """Which architectures go where, so that a conversion that is lost is noticed."""
    can = {}
    for to in WRITABLE[1:]:
        can[to] = {name for name in ARCHITECTURES if expressible(made(name), to)}
    assert can == {
        "saelens": set(ARCHITECTURES),
        "sparsify": {"topk"},
        "dictionary-learning": set(ARCHITECTURES) - {"matching_pursuit"},
    }
    assert expressible(made("standard", normalisation="layer-norm"), "saelens")
    for to in ("sparsify", "dictionary-learning"):
        assert not expressible(made("topk", normalisation="layer-norm"), to)
    for to in WRITABLE[1:]:
        assert not expressible(made("standard", models=2, input_bias=False), to)


def made(architecture, seed=3, **more):
    """A dictionary whose parameters are all in play; decoder norms unlike where that can be folded."""
    if architecture in TOPK_ARCHITECTURES:
        more = {"k": K, **({"prefixes": (4, 8, F)} if architecture == "matryoshka" else {}), **more}
    dictionary = Dictionary(DictionaryConfig(architecture, D, F, **more), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in dictionary.named_parameters():
            if name not in ("W_dec", "W_enc"):
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
        if architecture != "matching_pursuit" and (
            architecture not in TOPK_ARCHITECTURES or more.get("rank_by") == "norm"
        ):
            dictionary.W_dec.mul_(torch.rand(F, 1, generator=generator) + 0.5)
        if architecture in ("batchtopk", "matryoshka"):
            dictionary.threshold.fill_(0.4)
        if more.get("normalisation") == "scale":
            dictionary.scale.fill_(1.7)
    return dictionary


def expressible(dictionary, to):
    folder = Path(os.environ["INTERP_CACHE"]) / "formats"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write(dictionary, folder, to)
    except OptionError:
        return False
    return True


ALL = (
    [(name, {}) for name in ARCHITECTURES]
    + [(name, {"rank_by": "norm"}) for name in TOPK_ARCHITECTURES]
    + [(name, {"input_bias": False}) for name in ARCHITECTURES if name != "matching_pursuit"]
    + [(name, {"normalisation": "scale"}) for name in ARCHITECTURES]
    + [("standard", {"normalisation": kind}) for kind in ("layer-norm", "constant-norm")]
    + [
        (name, {"d_out": d_out, "input_bias": False, "skip": skip})
        for name in ("standard", "jumprelu", "topk", "batchtopk")
        for d_out in (D, D - 2)
        for skip in (False, True)
    ]
)
TARGETS = {"saelens": 30, "sparsify": 6, "dictionary-learning": 20}
"""At least so many of ``ALL`` are written for each library."""


def given_to(library, root, seed=3):
    """Every dictionary of ``ALL`` that a library can hold, written for it."""
    x = torch.randn(24, D, generator=torch.Generator().manual_seed(seed))
    written = {}
    for number, (name, more) in enumerate(ALL):
        dictionary, folder = made(name, seed, **more), root / f"{number:02d}-{name}"
        try:
            write(
                dictionary,
                folder,
                library,
                {"site": "blocks.3.hook_resid_post", "model": "tiny", "layer": 3},
            )
        except OptionError:
            continue
        save_file({"x": x}, folder / "given.safetensors")
        written[folder] = dictionary
    return x, written


@pytest.mark.parametrize("library", TARGETS)
def test_every_convention_survives_the_way_there_and_back(library, tmp_path):
    x, written = given_to(library, tmp_path)
    assert len(written) >= TARGETS[library]
    for folder, dictionary in written.items():
        again, about = read(folder)
        close(again(x), dictionary(x).detach())
        assert (about["site"], about["model"], about["layer"]) == (
            "blocks.3.hook_resid_post",
            "tiny",
            3,
        )


@pytest.mark.slow
@pytest.mark.parametrize("library", TARGETS)
def test_the_original_library_reads_what_we_write(library, tmp_path):
    variable = f"INTERP_{library.upper().replace('-', '_')}_PYTHON"
    if not (python := os.environ.get(variable)):
        pytest.skip(
            f"{variable} names no python that has {library} (tests/dictionary_libraries.py says how"
            " to make one)"
        )
    worst = {"output": 0.0, "codes": 0.0}
    x, written = given_to(library, tmp_path, seed=5)
    program = Path(__file__).parents[1] / "dictionary_libraries.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [python, program, "back", library, tmp_path],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    for folder, dictionary in written.items():
        theirs = load_file(folder / "theirs.safetensors")
        close(theirs["output"], dictionary(x).detach())
        again, about = read(folder)
        if about["source"].get("trainer", {}).get("dict_class") == "AutoEncoder":
            again = fold_decoder_norm(again)  # as its loader does
        close(again.encode(x), theirs["codes"])
        worst["output"] = max(
            worst["output"], float((theirs["output"] - dictionary(x)).detach().abs().max())
        )
        worst["codes"] = max(
            worst["codes"], float((theirs["codes"] - again.encode(x)).detach().abs().max())
        )
    print(library, len(written), "dictionaries, largest differences:", worst)


class TestLayoutsGoByNames:
    @pytest.mark.parametrize("library", TARGETS)
    def test_a_square_dictionary_is_not_turned(self, library, tmp_path):
        dictionary = Dictionary(DictionaryConfig("topk", D, D, k=K), seed=1)
        with torch.no_grad():
            dictionary.W_enc.add_(torch.randn(D, D, generator=torch.Generator().manual_seed(2)))
        folder = write(dictionary, tmp_path / "out", library)
        x = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
        close(read(folder)[0](x), dictionary(x).detach())
        weights = folder / {
            "saelens": "sae_weights.safetensors",
            "sparsify": "sae.safetensors",
        }.get(library, "ae.pt")
        (folder / "interp.json").unlink()
        changed(weights, **{"W_enc" if library == "saelens" else "encoder__weight": torch.t})
        assert float((read(folder)[0](x) - dictionary(x)).detach().norm()) > 0.1

    def test_a_turned_matrix_that_is_not_square_is_said(self, tmp_path):
        folder = copied("saelens/standard", tmp_path)
        changed(folder / "sae_weights.safetensors", W_enc=torch.t)
        with pytest.raises(
            DictionaryError, match=r"W_enc is \[16, 8\], its configuration says \[8, 16\]"
        ):
            read(folder)


def test_an_exported_batchtopk_finds_the_codes_of_its_threshold(tmp_path):
    x = torch.randn(40, D, generator=torch.Generator().manual_seed(0))
    for name in ("batchtopk", "matryoshka"):
        for rank_by in ("value", "norm"):
            dictionary = made(name, rank_by=rank_by)
            again, about = read(write(dictionary, tmp_path / f"{name}-{rank_by}", "saelens"))
            assert again.config.architecture == "jumprelu"
            assert about["trained_as"] == {"matryoshka": "matryoshka_batchtopk"}.get(name, name)
            norms = dictionary.decoder_norms.sum(1) if rank_by == "norm" else 1.0
            close(again.encode(x), (dictionary.encode(x) * norms).detach())


# ---------------------------------------------------------------------- broken files

WEIGHTS = {
    "saelens/topk_by_norm": "sae_weights.safetensors",
    "sparsify/layers.3": "sae.safetensors",
    "dictionary-learning/BatchTopKSAE": "ae.pt",
    "crosscoders/batchtopk": "model.safetensors",
    "crosscoders/crosscoder": "ae_final.pt",
    "kissane-crosscoder/blocks.3.hook_resid_pre": "cc_weights.pt",
    "gemma-scope/layer_3": "params.npz",
    "llama-scope/Llama3_1-8B-Base-L3R-8x": "checkpoints/final.safetensors",
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_cut_off_file_is_one_line(case, share, tmp_path, run, only_line):
    folder = copied(case, tmp_path)
    weights = folder / WEIGHTS[case]
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(share * len(whole))])
    code, out, err = run("sae", "convert", folder, tmp_path / "out")
    assert (code, out) == (2, "")
    assert "download it again" in only_line(err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_number_that_is_none_is_one_line(case, tmp_path, run, only_line):
    folder = copied(case, tmp_path)
    weights = folder / WEIGHTS[case]
    if weights.suffix == ".npz":
        with np.load(weights) as archive:
            arrays = dict(archive)
        arrays["W_dec"][3, 2] = np.nan
        np.savez(weights, **arrays)
    else:
        keys = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights)
        name = next(key for key in keys if key in ("W_dec", "decoder.weight"))

        def spoiled(value):
            value = value.clone().contiguous()
            value.view(-1)[5] = torch.nan
            return value

        changed(weights, **{name.replace(".", "__"): spoiled})
    code, out, err = run("sae", "convert", folder, tmp_path / "out")
    assert (code, out) == (2, "")
    assert "1 values of W_dec are not finite" in only_line(err)


@pytest.mark.parametrize("case", [case for case, name in WEIGHTS.items() if name.endswith(".pt")])
def test_a_pickle_that_could_run_code_is_not_opened(case, tmp_path, run, only_line):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    folder = copied(case, tmp_path)
    torch.save({"encoder.weight": Harm()}, folder / WEIGHTS[case])
    code, _, err = run("sae", "convert", folder, tmp_path / "out")
    assert code == 2
    assert "could run code, and is not opened" in only_line(err)
    (folder / WEIGHTS[case]).write_bytes(pickle.dumps(Harm()))
    assert run("sae", "convert", folder, tmp_path / "out")[0] == 2
    assert not (tmp_path / "harm").exists()
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    code, _, err = run("sae", "convert", tmp_path / "params.npz", tmp_path / "out")
    assert code == 2
    assert "pickled objects" in only_line(err)


@pytest.mark.parametrize(
    "case", ["saelens/standard", "sparsify/layers.3", "dictionary-learning/AutoEncoder"]
)
def test_a_tensor_too_few_or_too_many_is_named(case, tmp_path):
    folder = copied(case, tmp_path)
    weights = next(
        p
        for p in folder.iterdir()
        if p.name in ("sae_weights.safetensors", "sae.safetensors", "ae.pt")
    )
    load_, save_ = (
        (load_file, save_file) if weights.suffix == ".safetensors" else (torch.load, torch.save)
    )
    whole = load_(weights)
    gone = next(key for key in whole if "bias" in key or key == "b_enc")
    save_({key: value for key, value in whole.items() if key != gone}, weights)
    with pytest.raises(DictionaryError, match="lacks"):
        read(folder)
    save_({**whole, "surplus": torch.zeros(2)}, weights)
    with pytest.raises(DictionaryError, match="surplus"):
        read(folder)


@pytest.mark.parametrize(
    ("case", "config", "more", "line"),
    [
        ("saelens/standard", "cfg.json", {"architecture": "temporal"}, "architecture 'temporal'"),
        ("saelens/standard", "cfg.json", {"d_in": "many"}, "d_in is 'many'"),
        ("saelens/standard", "cfg.json", {"d_in": 9}, r"W_enc is \[8, 16\]|W_dec is"),
        (
            "saelens/standard",
            "cfg.json",
            {"normalize_activations": "covariance_whitening"},
            "not supported",
        ),
        ("saelens/topk_by_value", "cfg.json", {"k": 99}, "k from 1 to its width 16, not 99"),
        (
            "saelens/matching_pursuit",
            "cfg.json",
            {"stop_on_duplicate_support": False},
            "stop_on_duplicate_support",
        ),
        (
            "sparsify/layers.3",
            "cfg.json",
            {"activation": "groupmax"},
            "'groupmax' is not supported",
        ),
        ("sparsify/layers.3", "cfg.json", {"k": None}, "k is None"),
        (
            "dictionary-learning/BatchTopKSAE",
            "config.json",
            {"trainer": {**BATCHTOPK, "k": 9}},
            "k is 3",
        ),
        ("llama-scope/Llama3_1-8B-Base-L3R-8x", "hyperparams.json", {"act_fn": "topk"}, "'topk'"),
        ("kissane-crosscoder/blocks.3.hook_resid_pre", "cfg.json", {"d_in": 9}, "d_in 9"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_line(case, config, more, line, tmp_path):
    folder = copied(case, tmp_path)
    said(folder / config, **more)
    with pytest.raises(DictionaryError, match=line) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_dictionary_is_said(tmp_path):
    with pytest.raises(DictionaryError, match="no such file or folder"):
        detect(tmp_path / "none")
    with pytest.raises(DictionaryError, match=r"no known format \(it contains nothing"):
        detect(tmp_path)
    with pytest.raises(
        DictionaryError, match=r"contains 5 dictionaries \(layers\.3, layers\.3\.mlp"
    ):
        detect(DATA / "sparsify")
    folder = copied("saelens/standard", tmp_path)
    shutil.copy(folder / "sae_weights.safetensors", folder / "sae.safetensors")
    with pytest.raises(DictionaryError, match="saelens and sparsify"):
        detect(folder)
    (folder / "sae.safetensors").unlink()
    (folder / "cfg.json").write_text("{")
    with pytest.raises(DictionaryError, match="cannot be read"):
        read(folder)
    with pytest.raises(OptionError, match="only read"):
        write(made("standard"), tmp_path / "out", "gemma-scope")
    with pytest.raises(OptionError, match="not known"):
        write(made("standard"), tmp_path / "out", "onnx")
    with pytest.raises(DictionaryError, match="exists already"):
        write(made("standard"), folder, "saelens")


# ---------------------------------------------------------------------- half-folded, folded twice


def times(factor):
    return lambda value: value * factor


class TestFolds:
    """What is recognised: where a file says one thing of its norms or scale and its numbers are
    another.
    """

    def refused(self, folder, line):
        with pytest.raises(DictionaryError, match=line) as caught:
            read(folder)
        assert "--as-is" in str(caught.value)
        assert "\n" not in str(caught.value)
        dictionary, about = read(folder, as_is=True)
        assert about["doubts"]
        return dictionary

    def test_a_topk_by_norm_whose_rows_are_not_of_norm_1(self, tmp_path):
        folder = copied("saelens/topk_by_norm", tmp_path)
        changed(
            folder / "sae_weights.safetensors",
            W_dec=lambda value: value * torch.linspace(0.5, 2, F)[:, None],
        )
        self.refused(folder, "0.5 to 2: it is half-folded")

    def test_a_batchtopk_whose_thresholds_took_the_norms_too(self, tmp_path):
        folder = copied("saelens/batchtopk", tmp_path)
        changed(
            folder / "sae_weights.safetensors",
            threshold=lambda value: value * torch.linspace(0.5, 2, F),
        )
        self.refused(folder, "single threshold, this has thresholds of .* folded twice")
        folder = copied("saelens/matryoshka", tmp_path)
        changed(folder / "sae_weights.safetensors", W_dec=times(3.0))
        self.refused(folder, "rows of norm 3 to 3: it is half-folded")

    @pytest.mark.parametrize("factor", [0.5, 1.6])
    def test_atoms_of_a_pursuit_that_were_scaled(self, factor, tmp_path):
        folder = copied("saelens/matching_pursuit", tmp_path)
        changed(folder / "sae_weights.safetensors", W_dec=times(factor))
        self.refused(folder, r"start at norm 1, these have norm .* half-folded")

    def test_rows_that_are_off_by_a_step_of_training_are_no_fold(self, tmp_path):
        """SAELens normalises a pursuit's atoms at the start only, sparsify rows before a step and
        not after it.
        """
        off = torch.linspace(0.95, 1.1, F)[:, None]
        folder = copied("saelens/matching_pursuit", tmp_path)
        changed(folder / "sae_weights.safetensors", W_dec=lambda value: value * off)
        assert "0.95 to 1.1" in read(folder)[1]["notes"][0]
        folder = copied("sparsify/layers.3", tmp_path)
        changed(folder / "sae.safetensors", W_dec=lambda value: value * off)
        assert not read(folder)[1]["folded"]["decoder_norm"]

    def test_a_scale_that_is_neither_folded_nor_kept_or_both(self, tmp_path):
        folder = copied("saelens/standard", tmp_path)
        said(folder / "cfg.json", normalize_activations="expected_average_only_in")
        self.refused(folder, "neither folded nor in activation_scaler.json")
        (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
        dictionary, about = read(folder)
        assert about["folded"]["scale"] is False
        expected = load_file(folder / "expected.safetensors")
        close(dictionary(expected["x"] / 2.5) * 2.5, expected["output"])
        said(folder / "cfg.json", normalize_activations="none")
        self.refused(folder, "would be scaled twice")

    def test_rows_that_are_said_to_be_of_norm_1(self, tmp_path):
        folder = copied("sparsify/layers.3", tmp_path)
        changed(folder / "sae.safetensors", W_dec=times(2.0))
        self.refused(folder, "normalize_decoder says")
        for name in ("AutoEncoderTopK", "BatchTopKSAE"):
            folder = copied(f"dictionary-learning/{name}", tmp_path)
            changed(folder / "ae.pt", decoder__weight=times(2.0))
            self.refused(folder, f"{name} keeps its decoder rows at norm 1")

    def test_a_crosscoders_scale_against_its_own_deviations(self, tmp_path):
        folder = copied("crosscoders/batchtopk_scaled", tmp_path)
        changed(folder / "ae_final.pt", activation_global_scale=torch.square)
        self.refused(folder, "folded twice, or is half")

    @pytest.mark.parametrize("to", WRITABLE)
    def test_what_we_wrote_and_something_folded_since(self, to, tmp_path):
        """A scale folded a second time (``W_enc`` times, ``W_dec`` by), and half of it; the files
        still look whole.
        """
        names = {"sparsify": ("sae.safetensors", "encoder__weight", "W_dec")}
        names["saelens"] = ("sae_weights.safetensors", "W_enc", "W_dec")
        names["interp"] = ("weights.safetensors", "W_enc", "W_dec")
        names["dictionary-learning"] = ("ae.pt", "encoder__weight", "decoder__weight")
        file, enc, dec = names[to]
        dictionary = fold_scale(made("topk", normalisation="scale"))
        with torch.no_grad():
            dictionary.W_dec.mul_(1.7)  # rows of norm 1, which dictionary-learning asks for
        folder = write(dictionary, tmp_path / "out", to)
        read(folder)
        half = Path(shutil.copytree(folder, tmp_path / "half"))
        changed(folder / file, **{enc: times(1.7), dec: times(1 / 1.7)})
        with pytest.raises(DictionaryError, match=r"folded twice|norm 1"):
            read(folder)
        changed(half / file, **{enc: times(1.7)})
        with pytest.raises(
            DictionaryError, match=r"W_enc 1.7 times the recorded norm; it is half-folded"
        ):
            read(half)

    def test_another_number_type_is_no_fold(self, tmp_path):
        folder = write(made("topk"), tmp_path / "out", "sparsify")
        changed(
            folder / "sae.safetensors",
            **{k: lambda v: v.bfloat16() for k in ("encoder__weight", "W_dec")},
        )
        read(folder)

    def test_a_checkpoint_in_training_is_folded_when_it_is_read(self):
        dictionary, about = read(DATA / "saelens/topk_checkpoint")
        assert about["folded"]["decoder_norm"]
        assert "folded on reading" in about["notes"][0]
        torch.testing.assert_close(dictionary.decoder_norms.sum(1), torch.ones(F))


def test_a_threshold_that_was_never_set_is_asked_for(tmp_path):
    folder = copied("dictionary-learning/BatchTopKSAE", tmp_path)
    changed(folder / "ae.pt", threshold=lambda value: torch.tensor(-1.0))
    dictionary, about = read(folder)
    assert "no threshold was set" in about["notes"][0]
    with pytest.raises(OptionError, match="no threshold"):
        dictionary(torch.zeros(1, D))
    for to in ("saelens", "dictionary-learning"):
        with pytest.raises(OptionError, match="train it further"):
            write(dictionary, tmp_path / "out", to)


def test_older_files_and_single_files_are_read(tmp_path):
    folder = copied("sparsify/layers.3", tmp_path)
    tensors = load_file(folder / "sae.safetensors")
    tensors["decoder.weight"] = tensors.pop("W_dec").T.contiguous()
    save_file(tensors, folder / "sae.safetensors")
    cases = {"sparsify/layers.3": folder}
    folder = copied("saelens/jumprelu", tmp_path)
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, folder / "sae_weights.safetensors")
    cases["saelens/jumprelu"] = folder
    folder = copied("dictionary-learning/BatchTopKSAE", tmp_path)
    (folder / "checkpoints").mkdir()
    cases["dictionary-learning/BatchTopKSAE"] = (folder / "ae.pt").rename(
        folder / "checkpoints" / "ae_100.pt"
    )
    cases["gemma-scope/layer_3"] = DATA / "gemma-scope/layer_3/params.npz"
    for case, path in cases.items():
        expected = load_file(DATA / case / "expected.safetensors")
        close(read(path)[0](expected["x"]), expected["output"])


def test_codes_per_model_are_refused(tmp_path):
    folder = copied("crosscoders/batchtopk_sae_norm", tmp_path)
    changed(folder / "ae_final.pt", code_normalization_id=lambda value: torch.tensor(5))
    with pytest.raises(DictionaryError, match="decoupled"):
        read(folder)


def test_what_is_known_survives_a_format_that_has_no_place_for_it(tmp_path):
    dictionary, about = read(DATA / "saelens/topk_by_value")
    assert about["site"] == "blocks.3.hook_resid_post"
    assert about["mask"] == {"prepend_bos": True, "exclude_special_tokens": [0, 1]}
    assert read(write(dictionary, tmp_path / "out", "sparsify", about))[1]["mask"] == about["mask"]
    kept = load(save(dictionary, tmp_path / "ours", about))[1]
    assert kept["source"]["metadata"]["hook_name"] == about["site"]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    dictionary = made("topk", rank_by="value")
    with torch.no_grad():
        dictionary.W_dec[2].mul_(3)
    with pytest.raises(OptionError, match="would select other codes"):
        write(dictionary, tmp_path / "out", "dictionary-learning")
    assert not list(tmp_path.iterdir())
    dictionary.config = replace(dictionary.config, rank_by="norm")
    x = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
    close(
        read(write(dictionary, tmp_path / "out", "dictionary-learning"))[0](x),
        dictionary(x).detach(),
    )


# ---------------------------------------------------------------------- the command


def test_convert_on_the_command_line(run, tmp_path, only_line):
    source = DATA / "dictionary-learning" / "AutoEncoderTopK"
    code, out, err = run("sae", "convert", source, tmp_path / "out", "--to", "saelens")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'out'}: topk 8 x 16, dictionary-learning -> saelens")
    assert err.startswith("note: it has a threshold of 0.7")
    code, out, err = run("sae", "convert", tmp_path / "out", tmp_path / "ours", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["site"] == "resid_post_layer_3"
    x = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
    close(read(tmp_path / "ours")[0](x), read(source)[0](x).detach())
    code, out, err = run("sae", "convert", source, tmp_path / "ours")
    assert code == 2
    assert "exists already" in only_line(err)
    code, _, err = run(
        "sae", "convert", DATA / "saelens/jumprelu", tmp_path / "new", "--to", "sparsify"
    )
    assert code == 2
    assert (
        only_line(err)
        == "interp: sparsify supports topk only, and this is jumprelu; use --to saelens\n"
    )
    assert not (tmp_path / "new").exists()


def test_the_group_lists_its_commands_without_torch(run, only_line):
    code, out, err = run("sae", "--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in GROUPS["sae"][1])
    assert run("sae") == (code, out, err)
    code, _, err = run("sae", "conver")
    assert code == 2
    assert "Did you mean 'convert'?; see `interp sae --help`" in only_line(err)
    program = (
        "import sys; from interp.cli import main; main(['sae', '--help']); main(['sae', 'convert',"
        " '--help'])\nsys.exit(' '.join(name for name in ('torch', 'numpy', 'rich') if name in"
        " sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [(group, name) for group, (_, names) in GROUPS.items() for name in names]
)
def test_every_command_of_a_group_has_help(run, words):
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
