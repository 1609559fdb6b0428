"""Summaries and verdicts of arms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from reid_aug.baselines.ranking import Ranking
from reid_aug.bench.results import save_scores, scores_file
from reid_aug.bench.run import Result
from reid_aug.bench.statistics import over_seeds, paired_bootstrap
from reid_aug.bench.summary import summarise, verdicts


class TestVerdicts:
    """What is said of arms whose scores are made up here, with a truth that is known."""

    def simulated(self, folder: Path, gains: dict[str, float], luck: float, seed: int, seeds: int = 3) -> Result:
        rng = np.random.default_rng(seed)
        hardness, lines = rng.random(80), []
        for arm, gain in gains.items():
            for number in range(seeds):
                ap = (0.2 + 0.4 * hardness + gain + luck * rng.standard_normal() + 0.1 * rng.standard_normal(80)).clip(0, 1)
                first = np.where(rng.random(80) < ap, 0, 3)
                cmc = np.array([(first <= rank).mean() for rank in range(20)])
                kept = Ranking(cmc, float(ap.mean()), 0.1, ap, ap, first, np.ones(80, dtype=bool))
                save_scores(scores_file(folder, arm, "x", number), kept)
                scores = {"rank1": cmc[0], "rank5": cmc[4], "rank10": cmc[9], "map": kept.map, "minp": 0.1}
                about = {"baseline": "quick", "arm": arm, "seed": number, "config": "x", "steps": 1, "seconds": 1.0, "train_images": 9}
                lines.append({**about, **scores})
        return Result(folder, lines, {}, {})

    def test_a_planted_gain_is_found_and_equal_arms_are_not_told_apart(self, tmp_path: Path) -> None:
        right = {"planted": 0, "equal": 0, "harmful": 0}
        for trial in range(20):
            gains = {"none": 0.0, "planted": 0.15, "equal": 0.0, "harmful": -0.15}
            sentences = verdicts(summarise(self.simulated(tmp_path / str(trial), gains, luck=0.02, seed=trial)))
            words = {"planted": "helps", "equal": "no measurable effect", "harmful": "hurts"}
            for sentence, (arm, word) in zip(sentences, words.items(), strict=True):
                assert sentence.startswith(f"`{arm}` ")
                right[arm] += word in sentence
        assert right["equal"] >= 19 and right["planted"] >= 19 and right["harmful"] >= 19

    def test_one_training_is_said_to_be_one(self, tmp_path: Path) -> None:
        result = self.simulated(tmp_path, {"none": 0.0, "planted": 0.3}, luck=0.02, seed=0, seeds=1)
        (sentence,) = verdicts(summarise(result))
        assert "`planted` helps" in sentence and "of these trainings alone" in sentence and "(Holm's p < 0.001)" in sentence

    def test_p_values_pay_for_every_arm_tried(self, tmp_path: Path) -> None:
        gains = {"none": 0.0, "planted": 0.06}
        alone = summarise(self.simulated(tmp_path / "a", gains, luck=0.01, seed=5))[1]
        many = summarise(self.simulated(tmp_path / "b", gains | {f"arm{i}": 0.0 for i in range(4)}, luck=0.01, seed=5))[1]
        single, five = alone.gains["map"], many.gains["map"]
        assert single.over_trainings == five.over_trainings and single.training_p is not None and five.training_p is not None
        assert five.training_p == pytest.approx(min(1.0, 5 * single.training_p))

    def test_erasings_gain_is_not_credited_to_what_goes_with_it(self, tmp_path: Path) -> None:
        gains = {"none": 0.0, "erasing": 0.15, "copies": 0.0, "pg2": 0.0, "pg2+erasing": 0.15, "pg2+gated+erasing": 0.4}
        helps = {"erasing": 0, "pg2": 0, "pg2+erasing": 0, "pg2+gated+erasing": 0}
        for trial in range(20):
            summaries = summarise(self.simulated(tmp_path / str(trial), gains, luck=0.02, seed=trial))
            by_arm = {summary.arm: text for summary, text in zip(summaries[1:], verdicts(summaries), strict=True)}
            for arm in helps:
                helps[arm] += f"`{arm}` helps" in by_arm[arm]
            assert all("beyond `erasing` alone: mAP" in by_arm[arm] and "`copies`" not in by_arm[arm] for arm in list(by_arm)[-2:])
            assert "against `copies`" in by_arm["pg2"] and "beyond" not in by_arm["pg2"] + by_arm["erasing"]
            table, none = {summary.arm: summary for summary in summaries}, summaries[0].scores["map"][0]
            both = table["pg2+erasing"]
            assert both.gains["map"].over_queries.mean == pytest.approx(both.scores["map"][0] - none)
            assert both.gains_beyond["map"].over_queries.mean == pytest.approx(both.scores["map"][0] - table["erasing"].scores["map"][0])
        assert helps["pg2+erasing"] <= 1 and helps["pg2"] <= 1 and helps["erasing"] >= 19 and helps["pg2+gated+erasing"] >= 19

    @pytest.mark.parametrize(
        ("arm", "others", "alone", "control"),
        [
            ("pg2", ("none", "copies", "erasing"), None, "copies"),
            ("erasing", ("none", "copies"), None, "copies"),
            ("copies", ("none", "erasing"), None, None),
            ("pg2+erasing", ("none", "copies"), None, "copies"),
            ("pg2+erasing", ("none", "copies", "erasing", "pg2+gated"), "erasing", None),
            ("pg2+erasing", ("none", "copies", "copies+erasing", "erasing", "vdg+erasing"), "erasing", "copies+erasing"),
            ("pg2+more", ("none", "none+more", "erasing"), "none+more", None),
            ("copies+erasing", ("none", "copies", "erasing"), "erasing", None),
        ],
    )
    def test_what_an_arm_is_compared_with(
        self, arm: str, others: tuple[str, ...], alone: str | None, control: str | None, tmp_path: Path
    ) -> None:
        summary = summarise(self.simulated(tmp_path, dict.fromkeys((*others, arm), 0.0), luck=0.02, seed=0))[-1]
        assert (summary.arm, summary.alone, summary.control) == (arm, alone, control)
        assert bool(summary.gains_beyond) == (alone is not None) and (summary.map_gain_over_control is None) == (control is None)
        (sentence,) = verdicts([summary])
        assert ("an arm `erasing` would tell" in sentence) == (arm == "pg2+erasing" and alone is None)

    def test_equal_arms_are_not_told_from_copies_by_the_luck_of_their_trainings(self, tmp_path: Path) -> None:
        """An interval over queries alone leaves out 0 in many a comparison of equal arms, so it does not stand there with many seeds."""
        wrong = np.zeros(2, dtype=int)
        for trial in range(40):
            result = self.simulated(tmp_path / str(trial), {"none": 0.0, "copies": 0.0, "equal": 0.0}, luck=0.02, seed=trial)
            summaries = summarise(result)
            ap = {
                arm: np.stack([np.load(scores_file(result.folder, arm, "x", seed))["ap"] for seed in range(3)])
                for arm in ("copies", "equal")
            }
            for kind, gain in enumerate((summaries[2].map_gain_over_control, paired_bootstrap(ap["equal"], ap["copies"]))):
                assert gain is not None and gain.mean == pytest.approx(float(ap["equal"].mean() - ap["copies"].mean()))
                wrong[kind] += not gain.low <= 0 <= gain.high
            assert re.search(r"; against `copies` \S+ \[.*\] over queries and trainings\.$", verdicts(summaries)[1])
        assert wrong[0] <= 6 and wrong[1] >= 10, wrong

    def test_one_seed_is_compared_with_copies_over_queries(self, tmp_path: Path) -> None:
        summaries = summarise(self.simulated(tmp_path, {"none": 0.0, "copies": 0.0, "equal": 0.0}, luck=0.0, seed=0, seeds=1))
        ap = [np.load(scores_file(tmp_path, arm, "x", 0))["ap"] for arm in ("equal", "copies")]
        assert summaries[2].map_gain_over_control == paired_bootstrap(*ap)
        assert re.search(r"; against `copies` \S+ \[.*\] over queries\.$", verdicts(summaries)[1])

    def test_p_values_pay_for_comparisons_with_erasing(self, tmp_path: Path) -> None:
        """Four gains over `none` and one beyond `erasing`: the least p of five is multiplied by five."""
        gains = {"none": 0.0, "erasing": 0.0, "planted": 0.06, "pg2": 0.0, "pg2+erasing": 0.0}
        result = self.simulated(tmp_path, gains, luck=0.01, seed=5)
        planted = summarise(result)[2].gains["map"]
        ap = [np.stack([np.load(scores_file(tmp_path, arm, "x", seed))["ap"] for seed in range(3)]) for arm in ("planted", "none")]
        test = over_seeds(*ap)
        assert test is not None and planted.training_p == pytest.approx(min(1.0, 5 * test.p_value))

    def test_none_alone_has_no_verdict(self, tmp_path: Path) -> None:
        assert verdicts(summarise(self.simulated(tmp_path, {"none": 0.0}, luck=0.02, seed=0))) == []
