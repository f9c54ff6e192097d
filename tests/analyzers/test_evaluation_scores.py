"""Scores of other evaluations as rows of an audit: planted drops, silence, an independent oracle."""

import numpy as np
import pytest
from scipy import stats

from interp.analyzers.audit import Audit
from interp.analyzers.evaluation_scores import EvaluationScores
from interp.errors import OptionError, PromptError
from interp.prompts.evaluation_logs import score_files
from tests import tiny
from tests.prompts.test_evaluation_logs import NAME, harness, line


@pytest.fixture(scope="module")
def study():
    base, tuned = tiny.planted(tiny.FAMILIES["llama"](seed=3, tie_word_embeddings=False), pairs=6)
    return tiny.study(tiny.exact(tuned), tiny.exact(base), 6, template=False)


def files(place, base, tuned):
    return [
        score_files(harness(place / name, [line(at, float(one)) for at, one in enumerate(scores)]))
        for name, scores in (("base", base), ("tuned", tuned))
    ]


def test_a_drop_fails_by_mcnemars_test(study, tmp_path):
    base = np.ones(80)
    tuned = (np.arange(80) >= 20).astype(float)
    run = EvaluationScores(*files(tmp_path, base, tuned))(study)
    assert run.summary["verdicts"]["arc_easy-acc-changes"] == "supported"
    made = Audit([run])(study)
    assert made["row"].tolist() == ["arc_easy-acc", "arc_easy-acc_norm"]
    assert made["p"][0] == pytest.approx(stats.binomtest(20, 20).pvalue)
    # the second metric of these files rises as much as the first one falls
    assert made["failed"].tolist() == [True, False]


def test_equal_scores_change_nothing_and_need_149_documents(study, tmp_path):
    scores = np.random.default_rng(0).random(149).round(3)
    run = EvaluationScores(*files(tmp_path, scores, scores))(study)
    assert set(run.summary["verdicts"].values()) == {"not supported"}
    assert Audit([run])(study)["verdict"].tolist() == ["not changed"] * 2
    few = EvaluationScores(*files(tmp_path / "few", scores[:148], scores[:148]))(study)
    assert Audit([few])(study)["verdict"].tolist() == ["cannot tell"] * 2


def test_graded_scores_are_tested_by_sign_flips(study, tmp_path):
    rng = np.random.default_rng(1)
    base, tuned = rng.random(40).round(4), rng.random(40).round(4)
    made = Audit([EvaluationScores(*files(tmp_path, base, tuned))(study)])(study)
    difference = tuned - base
    signs = np.random.default_rng(2).choice([-1, 1], (20_000, 40))
    draws = np.abs((signs * difference).mean(1))
    assert made["p"][0] == pytest.approx((draws >= abs(difference.mean())).mean(), abs=0.02)


def test_what_cannot_be_compared_is_refused(study, tmp_path):
    with pytest.raises(OptionError, match="need files of both models"):
        EvaluationScores()(study)
    base, _ = files(tmp_path, np.ones(5), np.ones(5))
    other = {"samples_boolq_2026-11-20T10-11-12.1.jsonl": base[NAME]}
    with pytest.raises(PromptError, match="has no scores of"):
        EvaluationScores(base, other)(study)
