"""Refusal as log-odds and as text, against numpy in float64; broken answers; perplexity."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp.errors import MetricError
from interp.metrics import REFUSAL_MARKERS, Refusal, is_malformed, read_markers, token_losses
from tests import tiny

IDS = (3, 7, 11)
METRIC = Refusal(("sorry",), IDS)


def oracle(logits):
    logits = np.asarray(logits, dtype=np.float64)
    inside = np.isin(np.arange(logits.shape[-1]), IDS)
    return logsumexp(logits[..., inside], axis=-1) - logsumexp(logits[..., ~inside], axis=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_log_odds_are_numpys(dtype, tolerance, scale):
    logits = scale * torch.randn(20, 40, dtype=dtype, generator=torch.Generator().manual_seed(0))
    found = METRIC.log_odds(logits)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, oracle(logits), rtol=tolerance, atol=tolerance * max(scale, 1)
    )


def test_bfloat16_logits_are_summed_in_float32():
    logits = torch.randn(8, 4000, generator=torch.Generator().manual_seed(0)).bfloat16()
    np.testing.assert_allclose(METRIC.log_odds(logits), oracle(logits.float()), rtol=1e-5)


def test_log_odds_do_not_saturate_where_a_probability_does():
    logits = torch.zeros(2, 40)
    logits[0, 3], logits[1, 3] = 60.0, 120.0
    probability = logits.softmax(-1)[:, list(IDS)].sum(-1)
    assert probability.tolist() == [1.0, 1.0]
    low, high = METRIC.log_odds(logits)
    assert high - low == pytest.approx(60.0, abs=1e-3)


def test_log_odds_are_those_of_the_summed_probability():
    logits = torch.randn(5, 40, dtype=torch.float64)
    share = logits.softmax(-1)[:, list(IDS)].sum(-1)
    torch.testing.assert_close(METRIC.log_odds(logits), torch.logit(share))


def test_log_odds_do_not_see_a_shift_nor_the_batch():
    logits = torch.randn(6, 40, dtype=torch.float64)
    torch.testing.assert_close(METRIC.log_odds(logits + 5), METRIC.log_odds(logits))
    assert torch.equal(METRIC.log_odds(logits)[2:3], METRIC.log_odds(logits[2:3]))


def test_log_odds_gradient_is_finite_and_right():
    logits = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(METRIC.log_odds, logits)


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("Sorry, I cannot help.", True),
        ("i\u2019m SORRY about that", True),
        ("I CAN'T do this", True),
        ("I can\u2019t do this", True),
        ("UNFORTUNATELY not", True),
        ("Sure: first open the door.", False),
        ("", False),
        ("I can do that", False),
    ],
)
def test_markers_are_read_without_regard_to_case_or_apostrophe(answer, refused):
    assert Refusal(REFUSAL_MARKERS, (1,)).is_refusal(answer) is refused


def test_a_marker_typed_with_a_curly_apostrophe_finds_a_straight_one():
    assert Refusal(("I can\u2019t",), (1,)).is_refusal("i can't")


def test_the_defaults_hold_plain_sorry():
    assert "sorry" in REFUSAL_MARKERS
    assert Refusal(REFUSAL_MARKERS, (1,)).is_refusal("So sorry")


def words(*vocabulary, unknown="[UNK]"):
    """A tokenizer that knows whole words and nothing else."""
    table = {word: number for number, word in enumerate([unknown, *vocabulary])}
    backend = Tokenizer(models.WordLevel(table, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def test_spellings_vary_case_and_space():
    bpe = tiny.tokenizer()
    found = {bpe.decode([index]) for index in Refusal.from_tokenizer(bpe, ["Sorry"]).token_ids}
    # " Sorry" is one token; the other spellings begin with a piece that begins other words too
    assert found == {" Sorry"}
    pieces = {bpe.decode([index]) for index in Refusal.from_tokenizer(bpe, ["Zebra"]).token_ids}
    assert {piece.strip()[0] for piece in pieces} == {"Z", "z"}


def test_spellings_that_begin_with_an_unknown_token_are_dropped():
    metric = Refusal.from_tokenizer(words("Sorry", "SORRY", "no"), ["sorry"])
    assert metric.token_ids == (1, 2)


def test_only_the_first_token_needs_to_be_known():
    assert Refusal.from_tokenizer(words("I", "am"), ["I regret"]).token_ids == (1,)
    with pytest.raises(MetricError):
        Refusal.from_tokenizer(words("regret"), ["I regret"])


def test_markers_that_no_token_can_spell_are_refused():
    with pytest.raises(
        MetricError, match="no token of this tokenizer begins any of the 2 refusal markers"
    ) as caught:
        Refusal.from_tokenizer(words("yes", "no"), ["sorry", "cannot"])
    assert "'sorry'" in str(caught.value)
    assert "--markers" in str(caught.value)


@pytest.mark.parametrize("markers", [[], [""], ["  "], ["sorry", ""]])
def test_a_blank_marker_would_stand_in_every_answer(markers):
    with pytest.raises(MetricError):
        Refusal.from_tokenizer(tiny.tokenizer(), markers)


def test_identity_tells_what_the_numbers_depend_on():
    one = Refusal.from_tokenizer(tiny.tokenizer(), ["Sorry"]).identity
    assert one != Refusal.from_tokenizer(tiny.tokenizer(), ["Sorry", "cannot"]).identity
    assert one == Refusal.from_tokenizer(tiny.tokenizer(), ["Sorry"]).identity


def test_marker_files(tmp_path):
    path = tmp_path / "markers.txt"
    path.write_bytes("\ufeffSorry\r\n\r\n  I won\u2019t \n".encode())
    assert read_markers(path) == ("Sorry", "I won\u2019t")
    for data, said in ((b"\n \n", "holds no markers"), (b"\xff\xfe", "cannot be read as UTF-8")):
        path.write_bytes(data)
        with pytest.raises(MetricError, match=said):
            read_markers(path)
    with pytest.raises(MetricError, match="no marker file"):
        read_markers(tmp_path / "none")
    with pytest.raises(MetricError, match="cannot be read"):
        read_markers(tmp_path)


STOPS = (1,)


@pytest.mark.parametrize(
    ("answer", "ended_before", "broken"),
    [
        ([5, 6, 7, 1], True, False),
        ([5, 6, 7], True, True),
        ([5, 6, 7], False, False),
        ([5, 6, 7, 1], False, False),
        ([1], True, True),
        ([], False, True),
        ([2, 3, 4, 5] * 3 + [1], True, True),
        ([2, 3, 4, 5] * 2 + [1], True, False),
        ([9] * 6 + [1], True, True),
        ([9] * 5 + [1], True, False),
        ([2, 3, 4, 5, 8, 2, 3, 4, 5, 9, 2, 3, 4, 5, 1], True, True),
    ],
)
def test_malformed(answer, ended_before, broken):
    assert is_malformed(answer, STOPS, ended_before) is broken


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_token_losses_are_numpys_and_padding_is_zero(dtype):
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = torch.tensor([[1, 2, 3], [4, 5, 6]])
    real = torch.tensor([[False, True, True], [True, True, True]])
    exact = logits.double().numpy()
    expected = (
        logsumexp(exact, axis=-1)
        - np.take_along_axis(exact, targets.numpy()[..., None], -1)[..., 0]
    )
    found = token_losses(logits, targets, real).double().numpy()
    np.testing.assert_allclose(found, np.where(real, expected, 0.0), rtol=1e-6)
