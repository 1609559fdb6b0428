"""Summaries and verdicts of arms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from reid_aug.baselines.ranking import Ranking
from reid_aug.bench import report
from reid_aug.bench.results import save_scores, scores_file
from reid_aug.bench.run import Result
from reid_aug.bench.statistics import over_seeds, paired_bootstrap, resolvable, share_of_gain
from reid_aug.bench.summary import oracle_beside, summarise, verdicts


class Simulated:
    """Arms whose scores are made up here, with a truth that is known."""

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

    def ap(self, folder: Path, arm: str) -> np.ndarray:
        return np.stack([np.load(scores_file(folder, arm, "x", seed))["ap"] for seed in range(3)])


class TestVerdicts(Simulated):
    """What is said of them."""

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
        for trial in range(10):
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
        assert helps["pg2+erasing"] <= 1 and helps["pg2"] <= 1 and helps["erasing"] >= 9 and helps["pg2+gated+erasing"] >= 9

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
            ("pg2+grey-patch", ("none", "copies", "grey-patch", "erasing"), "grey-patch", None),
            ("pg2+grey-patch", ("none", "copies"), None, "copies"),
        ],
    )
    def test_what_an_arm_is_compared_with(
        self, arm: str, others: tuple[str, ...], alone: str | None, control: str | None, tmp_path: Path
    ) -> None:
        summary = summarise(self.simulated(tmp_path, dict.fromkeys((*others, arm), 0.0), luck=0.02, seed=0))[-1]
        assert (summary.arm, summary.alone, summary.control) == (arm, alone, control)
        assert bool(summary.gains_beyond) == (alone is not None) and (summary.map_gain_over_control is None) == (control is None)
        (sentence,) = verdicts([summary])
        for name in ("erasing", "grey-patch"):
            unknown = f"how much of it is {name}'s own, an arm `{name}` would tell" in sentence
            assert unknown == (arm == f"pg2+{name}" and alone is None)

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


class TestOracle(Simulated):
    """How much of the gain of true images an arm has."""

    GAINS = {"none": 0.0, "pg2": 0.06, "pg2+erasing": 0.16, "erasing": 0.1, "oracle": 0.12, "oracle+erasing": 0.22}

    def test_shares_are_of_the_gains_over_the_same_arm(self, tmp_path: Path) -> None:
        summaries = {summary.arm: summary for summary in summarise(self.simulated(tmp_path, self.GAINS, luck=0.005, seed=0))}
        shares = {arm: (summary.oracle, summary.oracle_share) for arm, summary in summaries.items() if summary.oracle}
        for arm, oracle, base in (("pg2", "oracle", "none"), ("pg2+erasing", "oracle+erasing", "erasing")):
            expected = share_of_gain(*(self.ap(tmp_path, name) for name in (arm, oracle, base)))
            assert expected is not None and shares.pop(arm) == (oracle, expected)
            means = {name: summaries[name].scores["map"][0] for name in (arm, oracle, base)}
            assert expected.mean == pytest.approx((means[arm] - means[base]) / (means[oracle] - means[base]))
        assert not shares and summaries["oracle"].oracle_share is summaries["erasing"].oracle_share is None

    def test_a_gain_that_may_be_none_has_no_parts(self, tmp_path: Path) -> None:
        result = self.simulated(tmp_path, {"none": 0.0, "pg2": 0.05, "oracle": 0.0}, luck=0.02, seed=0)
        (_, pg2, _) = summaries = summarise(result)
        assert pg2.oracle == "oracle" and pg2.oracle_share is None
        assert "share of the oracle's gain" not in report.gains_table(summaries)

    @pytest.mark.parametrize(
        ("arm", "others", "oracle"),
        [
            ("pg2", ("none",), None),
            ("pg2", ("none", "oracle+whole"), None),
            ("pg2", ("none", "oracle+whole", "oracle"), "oracle"),
            ("pg2+whole", ("none", "oracle+whole", "oracle"), "oracle+whole"),
            ("pg2+online", ("none", "oracle"), "oracle"),
            ("pg2+gated+lsro", ("none", "oracle", "oracle+lsro+gated"), "oracle+lsro+gated"),
            ("pg2+grey-patch", ("none", "oracle", "oracle+grey-patch"), None),
            ("pg2+grey-patch", ("none", "grey-patch", "oracle"), None),
            ("pg2+grey-patch", ("none", "grey-patch", "oracle+grey-patch"), "oracle+grey-patch"),
            ("pg2+grey-patch+erasing", ("none", "erasing", "oracle+erasing+grey-patch"), None),
            ("copies", ("none", "oracle"), None),
            ("erasing", ("none", "oracle", "oracle+erasing"), None),
            ("oracle+whole", ("none", "oracle"), None),
        ],
    )
    def test_which_oracle_stands_beside_an_arm(self, arm: str, others: tuple[str, ...], oracle: str | None) -> None:
        assert oracle_beside(arm, (*others, arm)) == oracle

    def test_tables_and_record_have_it(self, tmp_path: Path) -> None:
        gains = {"none": 0.0, "pg2": 0.06, "pg2+whole": 0.06, "oracle": 0.12, "oracle+whole": 0.12}
        result = self.simulated(tmp_path, gains, luck=0.005, seed=0)
        summaries = summarise(result)
        rows = {line.split(" | ")[0].strip("| "): line.rstrip(" |").split(" | ")[-1] for line in report.gains_table(summaries).splitlines()}
        assert rows["arm"] == "share of the oracle's gain"
        for arm, oracle in (("pg2", "oracle"), ("pg2+whole", "oracle+whole")):
            share = share_of_gain(*(self.ap(tmp_path, name) for name in (arm, oracle, "none")))
            assert share is not None
            of = "" if oracle == "oracle" else " of `oracle+whole`"
            assert rows[arm] == f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]{of}"
            assert report._recorded(result, summaries)["baselines"]["quick"][arm]["share of"] == {oracle: share._asdict()}
        assert "%" not in rows["oracle"] and "share of" not in report._recorded(result, summaries)["baselines"]["quick"]["oracle"]


class TestResolvable(Simulated):
    """What gain these trainings can find."""

    def test_it_is_that_of_the_scores(self, tmp_path: Path) -> None:
        summaries = summarise(self.simulated(tmp_path, {"none": 0.0, "pg2": 0.0, "vdg": 0.0}, luck=0.02, seed=0))
        none = self.ap(tmp_path, "none")
        gains = {arm: resolvable(self.ap(tmp_path, arm), none) for arm in ("pg2", "vdg")}
        assert {summary.arm: summary.resolvable for summary in summaries} == {"none": None, **gains}
        (low, first), (high, last) = sorted((gain, arm) for arm, gain in gains.items() if gain is not None)
        text = report._resolvable(summaries)
        span = f"{100 * low:.1f} (`{first}`) to {100 * high:.1f} (`{last}`)"
        assert text.startswith(f"With 3 seeds, a true gain over `none` of {span} points of mAP is found in four of five such benchmarks")
        assert f"gain over `none` of {100 * (gains['pg2'] or 0):.1f} points" in report._resolvable(summaries[:2])

    def test_one_training_says_nothing_of_others(self, tmp_path: Path) -> None:
        summaries = summarise(self.simulated(tmp_path, {"none": 0.0, "pg2": 0.0}, luck=0.02, seed=0, seeds=1))
        assert summaries[1].resolvable is None and report._resolvable(summaries) == ""
