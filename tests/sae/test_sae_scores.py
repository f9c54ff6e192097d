"""Scores of dictionaries: planted truth found, chance told apart from it, streamed sums, splices
that cost nothing.
"""

import numpy as np
import pytest
import torch

from benchmarks.dictionaries_training import Settings, config_of, fit
from benchmarks.worlds.synthetic import benchmark_world, flat, hierarchical, rates, scaled
from interp import claims
from interp.analyzers.sae_eval import SaeEval
from interp.capture import make_batch
from interp.engines import TorchEngine
from interp.errors import OptionError
from interp.interventions.edits import Transform
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet
from interp.sae import Dictionary, DictionaryConfig, save
from interp.sae.analysis.baselines import (
    Covariance,
    permuted_decoder,
    principal_components,
    random_directions,
)
from interp.sae.analysis.recovery import Recovery, match, uniqueness
from interp.sae.analysis.scores import Scores, density_table, score, scores_table
from interp.sae.analysis.splice import ZERO, ablations, reconstruct_with, recovered_share, splice
from interp.sites import Site
from interp.study import Study
from tests import tiny
from tests.documented import require_described

D = 6
SMALL = {
    "flat": lambda seed: flat(24, 12, seed=seed),
    "hierarchical": lambda seed: hierarchical(1, 8, 16, seed=seed),
    "scaled": lambda seed: scaled(30, 16, roots=1, depth=2, seed=seed),
}
WORLD = flat(64, 32)


@pytest.fixture
def rows():
    return torch.randn(400, D, generator=torch.Generator().manual_seed(1)) * 2 + 3


class TestWorlds:
    @pytest.mark.parametrize("name", SMALL)
    def test_a_draw_is_its_codes_and_depends_on_its_number_only(self, name):
        world = SMALL[name](3)
        one = world.draw(64, 5)
        torch.testing.assert_close(one.x, one.codes @ world.directions + world.bias)
        torch.testing.assert_close(world.directions.norm(dim=1), torch.ones(len(world.directions)))
        again = SMALL[name](3)
        again.draw(10, 1)
        assert torch.equal(again.draw(64, 5).x, one.x)
        for other in (
            world.draw(64, 6),
            world.draw(64, 5, held_out=True),
            SMALL[name](4).draw(64, 5),
        ):
            assert not torch.equal(other.codes, one.codes)

    @pytest.mark.parametrize(
        "world", [hierarchical(3, 5), scaled(30, 16, roots=1, depth=2)], ids=lambda w: w.name
    )
    def test_no_child_without_its_parent_and_no_two_siblings(self, world):
        fires = world.draw(2000).codes > 0
        child = (world.parents >= 0).nonzero().flatten()
        assert bool(fires[:, child].any())
        assert not bool((fires[:, child] & ~fires[:, world.parents[child]]).any())
        for parent in world.parents[child].unique():
            assert int(fires[:, world.parents == parent].sum(1).max()) == 1

    def test_features_fire_as_often_as_said(self):
        found = rates(hierarchical(2, 4, 28), 40_000)
        wanted = np.array(([0.2] * 3 + [0.04] * 9) * 2 + [0.05] * 4)
        np.testing.assert_allclose(found, wanted, atol=5 * np.sqrt(0.2 / 40_000))
        often = rates(scaled(16, 16, roots=1, depth=0, low=0.01, overlap=0.0))
        falling = np.arange(1, 17) ** -0.5
        law = 0.01 + 0.39 * (falling - falling[-1]) / (falling[0] - falling[-1])
        np.testing.assert_allclose(often, law, atol=5 * np.sqrt(0.2 / 20_000))

    def test_a_copula_makes_features_fire_together(self):
        """Intervention: without shared variables pairs outside of the forest fire together as
        chance has it.
        """
        excess = []
        for correlation in (0.0, 0.19):
            fires = (
                scaled(
                    30,
                    32,
                    roots=1,
                    depth=0,
                    low=0.2,
                    high=0.3,
                    correlation=correlation,
                    overlap=0.0,
                )
                .draw(20_000)
                .codes
                > 0
            )
            excess.append(float(torch.corrcoef(fires.float().T).fill_diagonal_(0).abs().max()))
        assert excess[0] < 0.04 < 0.2 < excess[1]

    def test_directions_that_fit_are_orthonormal_and_others_are_pushed_apart(self):
        torch.testing.assert_close(flat(8, 16).directions @ flat(8, 16).directions.T, torch.eye(8))
        generator = torch.Generator().manual_seed(0)
        free = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator))
        before = (free @ free.T).abs().fill_diagonal_(0).max(1).values.mean()
        assert WORLD.overlap < float(before) - 0.05

    def test_truth_does_not_lie_where_a_dictionary_starts(self):
        for seed in range(3):
            start = Dictionary(DictionaryConfig("topk", 32, 32, k=2), seed=seed)
            assert match(start.W_dec, flat(32, 32, seed=seed).directions).mcc < 0.7

    def test_recipes_that_mean_nothing_are_refused(self):
        for call, said in (
            (lambda: flat(low=0.5, high=0.1), "low <= high"),
            (lambda: scaled(20, 8), "does not fit into 20"),
            (lambda: scaled(rank=200, correlation=0.1), "must stay below 1"),
            (lambda: flat(8, exactly=9), "cannot fire"),
            (lambda: benchmark_world("round"), "unknown recipe"),
        ):
            with pytest.raises(OptionError, match=said):
                call()


class TestRecovery:
    def test_truth_itself_is_found_whole_under_any_order_and_sign(self):
        world = hierarchical(2, 8, 32)
        drawn = world.draw(4000)
        order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
        sign = torch.where(
            torch.rand(32, generator=torch.Generator().manual_seed(3)) < 0.5, -1.0, 1.0
        )
        said = Recovery((world.directions * sign[:, None])[order], world.directions, world.parents)
        said = said.update(drawn.codes[:, order], drawn.codes).summary()
        for name in ("mcc", "uniqueness", "found", "precision", "recall", "f1", "accuracy"):
            assert said[name] == pytest.approx(1), name
        assert (said["absorbed"], said["missed_alone"], said["pairs"]) == (0, 0, 18)

    def test_duplicates_are_worth_less(self):
        truth = flat(16, 16).directions
        double = torch.cat([truth[:8], truth[:8]])
        assert match(double, truth).mcc == pytest.approx(0.5, abs=1e-6)
        assert uniqueness(double, truth) == 0.5

    def test_absorption_is_the_share_of_silences_that_were_planted(self):
        world = hierarchical(1, 8, 20)
        drawn = world.draw(20_000)
        codes = drawn.codes.clone()
        silent = (codes[:, 3] > 0) & (
            torch.rand(len(codes), generator=torch.Generator().manual_seed(4)) < 0.6
        )
        codes[silent, 0] = 0
        said = (
            Recovery(world.directions, world.directions, world.parents)
            .update(codes, drawn.codes)
            .absorption
        )
        assert said["absorbed"] == pytest.approx(0.6 / 9, abs=0.01)
        # two other children see that silence as the parent's own
        assert 0 < said["missed_alone"] < 0.05

    def test_random_rows_and_dealt_out_latents_give_chance(self):
        world = WORLD
        free = torch.randn(5, 64, 32, generator=torch.Generator().manual_seed(5))
        found = [match(part, world.directions).mcc for part in free]
        assert max(found) < 0.55
        drawn = world.draw(8000)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(6))
        said = (
            Recovery(world.directions, world.directions)
            .update(drawn.codes[:, order], drawn.codes)
            .summary()
        )
        often = drawn.codes.gt(0).double().mean(0)
        assert said["mcc"] == pytest.approx(1)
        # firing that knows nothing of the truth is right as often as the truth fires
        assert said["precision"] == pytest.approx(float(often.mean()), abs=0.03)
        assert said["f1"] < 0.15

    def test_counts_by_sklearn(self):
        from sklearn.metrics import precision_recall_fscore_support as by_sklearn

        world = flat(16, 16)
        drawn = world.draw(500)
        noisy = drawn.codes * (
            torch.rand(500, 16, generator=torch.Generator().manual_seed(7)) < 0.7
        )
        mine = Recovery(world.directions, world.directions)
        for part in range(0, 500, 130):
            mine.update(noisy[part : part + 130], drawn.codes[part : part + 130])
        theirs = by_sklearn(
            (drawn.codes > 0).numpy(), (noisy > 0).numpy(), average=None, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
            np.testing.assert_allclose(mine.latents[name], value)

    @pytest.mark.parametrize(("rows", "truths"), [(40, 70), (70, 40), (50, 50)])
    def test_sparse_matching_is_the_dense_one_with_all_candidates_and_never_better(
        self, rows, truths
    ):
        generator = torch.Generator().manual_seed(8)
        one, other = (
            torch.randn(rows, 12, generator=generator),
            torch.randn(truths, 12, generator=generator),
        )
        whole, wide = match(one, other), match(one, other, 70)
        assert wide.mcc == pytest.approx(whole.mcc)
        assert sorted(zip(wide.latents, wide.truths, strict=True)) == sorted(
            zip(whole.latents, whole.truths, strict=True)
        )
        for few in (1, 3, 10):
            less = match(one, other, few)
            assert len(set(less.latents)) == len(set(less.truths)) == min(rows, truths)
            assert less.mcc <= whole.mcc + 1e-12

    def test_topk_finds_a_planted_flat_truth(self):
        """Calibrated: 0.988 to 0.993 over seeds 0 to 3 in 200 steps, where the threshold is 0.95."""
        world = flat(16, 16, low=0.05, exactly=2)
        found = fit(
            config_of("topk", 16, 32, 2),
            lambda step: world.draw(128, step).x,
            2,
            Settings(steps=200, lr=1e-2),
        )
        said = Recovery(found.W_dec, world.directions)
        assert said.matching.mcc >= 0.95
        drawn = world.draw(2000, held_out=True)
        matched = said.update(found.encode_sparse(drawn.x), drawn.codes).latents["f1"][
            said.matching.latents
        ]
        assert np.median(matched) > 0.8


class TestScores:
    def scored(self, rows, output, step=37, **more):
        scores = Scores(D, 4)
        codes = torch.zeros(len(rows), 4)
        codes[::2, 1] = 1
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores.update(
                rows[part], output[part], codes[part], **{k: v[part] for k, v in more.items()}
            )
        return scores

    def test_perfect_mean_and_zero(self, rows):
        assert self.scored(rows, rows).summary()["fvu"] == 0
        assert self.scored(rows, rows.mean(0).expand_as(rows)).summary()["fvu"] == pytest.approx(
            1, abs=1e-6
        )
        nothing = self.scored(rows, torch.zeros_like(rows)).summary()
        assert nothing["fvu"] > 2
        assert nothing["explained_variance_centred"] == pytest.approx(0, abs=1e-9)
        assert (nothing["l0"], nothing["dead"], nothing["dense"]) == (0.5, 0.75, 0.25)

    def test_numbers_are_numpys_and_do_not_depend_on_the_batches(self, rows):
        output = rows * 0.9 + 0.2 * torch.randn(
            rows.shape, generator=torch.Generator().manual_seed(9)
        )
        x, y = rows.double().numpy(), output.double().numpy()
        size = np.linalg.norm(x, axis=1)
        wanted = {
            "fvu": ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
            "explained_variance_centred": 1 - (x - y).var(0).sum() / x.var(0).sum(),
            "mse": ((x - y) ** 2).sum(1).mean(),
            "cosine": ((x * y).sum(1) / size / np.linalg.norm(y, axis=1)).mean(),
            "shrinkage": (np.linalg.norm(y, axis=1) / size).mean(),
            "bias": (y**2).sum() / (x * y).sum(),
        }
        for step in (1, 37, 400):
            found = self.scored(rows, output, step).summary()
            for name, value in wanted.items():
                assert found[name] == pytest.approx(value, rel=1e-6), name

    def test_masked_rows_change_nothing_whatever_they_hold(self, rows):
        output, mask = rows * 0.8, torch.arange(len(rows)) % 3 > 0
        broken = torch.where(mask[:, None], rows, 1e20)
        one = self.scored(rows, output, mask=mask).summary()
        assert (
            self.scored(broken, torch.where(mask[:, None], output, torch.nan), mask=mask).summary()
            == one
        )
        assert one["tokens"] == int(mask.sum())
        apart = self.scored(rows[mask], output[mask]).summary()
        assert {k: one[k] for k in ("fvu", "cosine")} == pytest.approx(
            {k: apart[k] for k in ("fvu", "cosine")}
        )

    def test_parts_are_those_rows_alone_from_their_own_mean(self, rows):
        roles, output = (torch.arange(len(rows)) < 100).long(), rows * 0.8
        scores = Scores(D, 4, {"special": (1,), "content": (0,)})
        scores.update(rows, output, torch.ones(len(rows), 4), roles=roles)
        alone = self.scored(rows[:100], output[:100])
        assert scores.summary("special")["fvu"] == pytest.approx(alone.summary()["fvu"])
        assert scores.summary("special")["tokens"] + scores.summary("content")["tokens"] == len(
            rows
        )
        told = scores_table({"one": scores})
        assert list(told["part"]) == ["all", "special", "content"]
        with pytest.raises(OptionError, match="need the role"):
            scores.update(rows, output, torch.ones(len(rows), 4))

    def test_every_latent_is_in_one_bin_of_the_densities(self, rows):
        told = density_table({"one": self.scored(rows, rows)})
        assert told["latents"].sum() == 4
        assert told["latents"][0] == 3
        assert told["latents"][-1] == 1


class TestBaselines:
    def test_principal_components_are_numpys_and_best_of_their_axes(self, rows):
        x = rows * torch.arange(1.0, D + 1)
        seen = Covariance.empty(D)
        for start in range(0, 400, 70):
            seen.update(x[start : start + 70])
        np.testing.assert_allclose(seen.deviation / 399, np.cov(x.double().numpy().T), rtol=1e-9)
        for k in (1, 3, D):
            found = score(principal_components(seen, k), [x]).summary()
            centred = x.double().numpy() - x.double().numpy().mean(0)
            inside = np.linalg.svd(centred, full_matrices=False)[2] @ centred.T
            best = np.sort(inside**2, axis=0)[-k:].sum() / (centred**2).sum()
            assert found["explained_variance"] == pytest.approx(best, abs=1e-5)
            assert found["l0"] == k

    def test_random_rows_take_as_many_codes_and_less_of_the_variance(self):
        world = WORLD
        x = world.draw(2000).x
        seen = Covariance.empty(32).update(x)
        made = random_directions(seen, 4, 64)
        found, true = (
            score(made, [x]).summary(),
            Dictionary(DictionaryConfig("matching_pursuit", 32, 64, steps=4)),
        )
        with torch.no_grad():
            true.W_dec.copy_(world.directions)
            true.b_dec.copy_(world.bias)
        assert 3.5 < found["l0"] <= 4
        assert found["explained_variance"] < score(true, [x]).summary()["explained_variance"] - 0.1
        assert match(made.W_dec, world.directions).mcc < 0.55
        own = Dictionary(DictionaryConfig("topk", 32, 64, k=4), seed=0)
        assert match(made.W_dec, own.W_dec).mcc < 0.55

    def test_rows_dealt_out_anew_keep_codes_and_lose_reconstruction(self):
        dictionary = Dictionary(DictionaryConfig("topk", 16, 16, k=16))
        x = torch.randn(50, 16, generator=torch.Generator().manual_seed(10))
        other = permuted_decoder(dictionary)
        assert torch.equal(other.encode(x), dictionary.encode(x))
        assert (
            score(other, [x]).summary()["explained_variance"]
            < score(dictionary, [x]).summary()["explained_variance"] - 0.3
        )


@pytest.fixture(scope="module")
def pair():
    return Pair.from_modules(tiny.exact(tiny.llama()), None, tiny.tokenizer())


def study_of(pair, texts=tuple(tiny.PROMPTS), **more):
    prompts = tuple(Prompt(i, text, str(i)) for i, text in enumerate(texts))
    return Study(pair, OneClass(PromptSet(prompts, "memory")), None, **more)


class TestSplice:
    site = Site(1, "hook_resid_post")

    def costs(self, pair, made, cut=None):
        study = study_of(pair)
        encoded = study.encoded("positive")
        batch, _ = make_batch(encoded, range(len(encoded)), 0, pair.tuned.device)
        counted = batch.real if cut is None else batch.real & cut(batch)
        return splice(TorchEngine(), pair.tuned, batch, self.site, made, counted), batch, counted

    def test_the_same_value_costs_nothing_and_zero_recovers_nothing(self, pair):
        costs, *_ = self.costs(pair, {"same": lambda rows: rows, ZERO: torch.zeros_like})
        total = {
            name: [float(part.sum()) for part in cost] for name, cost in costs.by_condition.items()
        }
        assert total["same"] == [total["clean"][0], 0.0]
        assert total[ZERO][1] > 0
        for i in (0, 1):
            clean, zero = total["clean"][i], total[ZERO][i]
            low, high = min(clean, zero), max(clean, zero)
            assert recovered_share(low, low, high) == 1
            assert recovered_share(high, low, high) == 0
        assert np.isnan(recovered_share(1.0, 2.0, 1.0))

    def test_a_perfect_dictionary_is_the_same_value(self, pair):
        seen = Covariance.empty(32).update(self.costs(pair, {})[0].values.flatten(0, 1))
        whole = principal_components(seen, 32, torch.float64)
        costs, *_ = self.costs(pair, {"whole": reconstruct_with(whole)} | ablations(seen.mean))
        assert float(costs.by_condition["whole"].kl.sum()) == pytest.approx(0, abs=1e-9)
        assert float(costs.by_condition["mean"].kl.sum()) > 1e-3

    def test_positions_that_do_not_count_are_left_alone(self, pair):
        def early(batch):
            return batch.positions < 2

        costs, _, counted = self.costs(pair, {ZERO: torch.zeros_like}, early)
        assert torch.equal(costs.positions, counted.sum(1))
        edit = Transform(self.site, torch.zeros_like, counted)
        value = costs.values
        new = edit.apply(value)
        assert torch.equal(new[~counted], value[~counted])
        assert bool((new[counted] == 0).all())
        assert bool((value[counted] != 0).any())

    def test_losses_are_the_models_own(self, pair):
        costs, batch, _ = self.costs(pair, {})
        for row in range(len(batch.ids)):
            ids = batch.ids[row][batch.mask[row]][None]
            own = pair.tuned.module(ids, labels=ids).loss
            assert float(costs.by_condition["clean"].loss[row]) == pytest.approx(
                float(own) * (ids.shape[1] - 1), rel=1e-5
            )


def dictionary_of(pair, k=6):
    seen = TestSplice().costs(pair, {})[0].values.flatten(0, 1)
    return principal_components(Covariance.empty(32).update(seen), k)


class TestEvaluation:
    def test_a_run_is_kept_with_claims_that_can_be_measured_again(self, pair):
        dictionary = dictionary_of(pair)
        analyzer = SaeEval(dictionary, "blocks.1.hook_resid_post")
        found = analyzer(study_of(pair))
        made = claims.from_table(found.tables["claims"])
        assert {claim.name for claim in made} >= {
            "explains-more-than-pca",
            "recovers-more-divergence-than-pca",
        }
        for claim in made:
            claims.check(claim, found)
        # a dictionary that is nearly the baseline is not found to be better than it
        assert not next(claim for claim in made if claim.name == "explains-more-than-pca").supported
        assert set(found["dictionary"]) == {"dictionary", "pca", "random"}
        assert set(found["part"]) == {"all", "special", "content"}
        split = study_of(pair, batch_size=1)
        again = analyzer(split)
        np.testing.assert_allclose(
            again["explained_variance"], found["explained_variance"], atol=1e-6
        )
        np.testing.assert_allclose(
            again.tables["recovered"]["recovered"],
            found.tables["recovered"]["recovered"],
            atol=1e-4,
        )
        bare = SaeEval(dictionary, "blocks.1.hook_resid_post", content_only=True)
        fewer = bare(study_of(pair))
        assert set(fewer["part"]) == {"all"}
        content = (found["part"] == "content") & (found["dictionary"] == "dictionary")
        assert fewer["tokens"][0] == found["tokens"][content][0]
        assert fewer.provenance.key != found.provenance.key

    def test_rows_per_prompt_add_up_to_the_scores(self, pair):
        dictionary = dictionary_of(pair)
        found = SaeEval(dictionary, "blocks.1.hook_resid_post")(study_of(pair))
        require_described(found)
        prompts = found.tables["prompts"]
        for name in ("dictionary", "pca", "random"):
            whole = (found["dictionary"] == name) & (found["part"] == "all")
            assert 1 - prompts[name].sum() / prompts["deviation"].sum() == pytest.approx(
                found["explained_variance"][whole][0], abs=1e-6
            )

    def test_a_command_keeps_and_recalls_it(self, pair, tmp_path, run):
        tiny.save(tiny.llama(), tmp_path / "model")
        (tmp_path / "text.txt").write_text("\n".join(tiny.PROMPTS))
        save(dictionary_of(pair), tmp_path / "sae", {"site": "blocks.1.hook_resid_post"})
        words = [
            "sae",
            "eval",
            tmp_path / "sae",
            "--model",
            tmp_path / "model",
            "--data",
            tmp_path / "text.txt",
            "--store",
            tmp_path / "runs",
            "--json",
        ]
        code, out, err = run(*words)
        assert code == 0, err
        assert '"cached": false' in out
        assert '"explained_variance"' in out
        code, out, _ = run(*words)
        assert code == 0
        assert '"cached": true' in out

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--site", "blocks.9.hook_resid_post"], "blocks.9"),
            (["--site", "nowhere"], "is not a site"),
            (["--site", "blocks.1.mlp.hook_post"], "width 32"),
        ],
    )
    def test_a_wrong_site_is_one_line(self, pair, tmp_path, run, only_line, more, said):
        tiny.save(tiny.llama(), tmp_path / "model")
        (tmp_path / "text.txt").write_text("\n".join(tiny.PROMPTS))
        save(dictionary_of(pair), tmp_path / "sae")
        code, _, err = run(
            "sae",
            "eval",
            tmp_path / "sae",
            "--model",
            tmp_path / "model",
            "--data",
            tmp_path / "text.txt",
            "--store",
            tmp_path / "runs",
            "--quiet",
            *more,
        )
        assert code == 2
        assert said in only_line(err)

    def test_a_fingerprint_is_of_the_numbers(self):
        two = Dictionary(DictionaryConfig("topk", 8, 8, models=2, k=2))
        assert two.digest == Dictionary(two.config).digest
        assert two.digest != Dictionary(two.config, seed=1).digest
