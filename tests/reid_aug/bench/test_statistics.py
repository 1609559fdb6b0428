"""Statistics against scipy, hand-worked cases, and simulations whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from reid_aug.bench.statistics import holm, mean_std, over_seeds, paired_bootstrap, resolvable, share_of_gain, sign_flip_test


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered, trials, truth = 0, 600, 0.3
    for trial in range(trials):
        shared = rng.standard_normal(60)  # hard queries are hard for both arms; an unpaired interval would be too wide
        a, b = shared + truth + rng.standard_normal(60), shared
        _, low, high = paired_bootstrap(a, b, samples=400, confidence=0.9, seed=trial)
        covered += low <= truth <= high
    assert 0.86 <= covered / trials <= 0.93  # four standard errors are 0.05; of 60 queries a percentile interval covers 0.89


def test_the_interval_agrees_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.random(200), rng.random(200)
    mean, low, high = paired_bootstrap(a, b, samples=20_000)
    expected = stats.bootstrap((a - b,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    width = expected.high - expected.low
    assert mean == pytest.approx((a - b).mean(), abs=1e-12)
    assert low == pytest.approx(expected.low, abs=0.03 * width)
    assert high == pytest.approx(expected.high, abs=0.03 * width)


def test_a_resample_takes_the_same_queries_in_every_seed():
    rng = np.random.default_rng(2)
    a, b = rng.random((3, 50)), rng.random((3, 50))
    result = paired_bootstrap(a, b, samples=500)
    np.testing.assert_allclose(result, paired_bootstrap(a.mean(0), b.mean(0), samples=500), rtol=0, atol=1e-12)
    # Three copies of one seed say no more than one.
    copies = paired_bootstrap(np.repeat(a[:1], 3, 0), np.repeat(b[:1], 3, 0), samples=500)
    np.testing.assert_allclose(copies, paired_bootstrap(a[0], b[0], samples=500), rtol=0, atol=1e-12)


def test_invalid_queries_are_left_out():
    rng = np.random.default_rng(3)
    a, b = rng.random(40), rng.random(40)
    holes = np.arange(40) % 5 == 0
    with_holes = [np.where(holes, np.nan, x) for x in (a, b)]
    assert paired_bootstrap(*with_holes, samples=300) == paired_bootstrap(a[~holes], b[~holes], samples=300)
    assert sign_flip_test(*with_holes, samples=300) == sign_flip_test(a[~holes], b[~holes], samples=300)


@pytest.mark.parametrize("test", [paired_bootstrap, sign_flip_test])
def test_results_depend_on_the_seed_only(test):
    rng = np.random.default_rng(4)
    a, b = rng.random(30), rng.random(30)
    assert test(a, b, samples=500, seed=1) == test(a, b, samples=500, seed=1)
    assert test(a, b, samples=500, seed=1) != test(a, b, samples=500, seed=2)


def test_samples_drawn_in_blocks_are_as_many_as_asked_for(monkeypatch):
    a, b = np.arange(10.0), np.zeros(10)
    whole = paired_bootstrap(a, b, samples=1001)
    monkeypatch.setattr("reid_aug.bench.statistics._BLOCK_ELEMENTS", 64)
    np.testing.assert_allclose(paired_bootstrap(a, b, samples=1001), whole, rtol=0, atol=1e-12)
    # All ten signs equal has a probability of 2/1024.
    assert sign_flip_test(np.ones(10), b, samples=20_000) == pytest.approx(2 / 1024, rel=0.4)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_sign_flip_agrees_with_every_flip_of_scipy(shift):
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal(10) + shift, rng.standard_normal(10)
    exact = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    ).pvalue
    assert sign_flip_test(a, b, samples=20_000) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_p_values_of_equal_arms_are_uniform():
    rng = np.random.default_rng(6)
    trials = 3000
    p = np.array([sign_flip_test(rng.random(40), rng.random(40), samples=199, seed=i) for i in range(trials)])
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / trials))


def test_a_planted_effect_is_found_and_identical_arms_are_not():
    rng = np.random.default_rng(7)
    b = rng.random(300)
    noise = rng.standard_normal(300)
    a = b + 0.05 + 0.1 * (noise - noise.mean())
    assert sign_flip_test(a, b, samples=999) == 1 / 1000
    assert sign_flip_test(b, a, samples=999) == 1 / 1000
    low, high = paired_bootstrap(a, b)[1:]
    assert 0 < low < 0.05 < high < 0.1
    assert sign_flip_test(b, b, samples=99) == 1.0
    assert paired_bootstrap(b, b) == (0.0, 0.0, 0.0)


def test_holm_worked_by_hand():
    # Sorted: .01·4 = .04, .02·3 = .06, .03·2 = .06, .04·1 = .04, which may not fall below .06.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(holm([0.6, 0.7]), [1.0, 1.0])
    np.testing.assert_array_equal(holm([]), [])


def test_holm_rejects_as_the_step_down_procedure_does():
    rng = np.random.default_rng(8)
    for _ in range(50):
        p = rng.random(6) ** 3
        rejected = np.zeros(6, dtype=bool)
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (6 - step):
                break
            rejected[i] = True
        np.testing.assert_array_equal(holm(p) <= 0.05, rejected)


def test_mean_and_sample_deviation():
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    mean, std = mean_std([5.0])
    assert mean == 5.0
    assert np.isnan(std)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), r"both \(Q,\) or both \(S, Q\).*\(1,\) and \(2,\)"),
        (lambda: sign_flip_test([], []), "not empty"),
        (lambda: paired_bootstrap([np.nan, 1.0], [1.0, 1.0]), "valid in every arm.*1 of 2"),
        (lambda: paired_bootstrap([[np.nan, 1.0], [1.0, 1.0]], [[np.nan, 1.0], [1.0, 1.0]]), "valid in every arm.*1 of 2"),
        (lambda: paired_bootstrap([np.nan], [np.nan]), "one query at least is valid"),
        (lambda: paired_bootstrap([np.inf], [1.0]), "infinity"),
        (lambda: paired_bootstrap([1.0], [1.0], confidence=95), "confidence is between 0 and 1, got 95"),
        (lambda: sign_flip_test([1.0], [1.0], samples=0), "samples is 1 at least, got 0"),
        (lambda: holm([0.5, 1.5]), "from 0 to 1"),
        (lambda: holm([np.nan]), "from 0 to 1"),
        (lambda: mean_std([]), "one number at least"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def trainings(rng, seeds, queries, hardness, spread, gain=0.0):
    """Scores (S, Q): queries differ, and every training has luck of its own, on all queries and on each."""
    luck = spread * rng.standard_normal((seeds, 1)) + 0.5 * rng.standard_normal((seeds, queries))
    return hardness + gain + luck


def test_two_equal_arms_are_not_told_apart_by_the_luck_of_their_trainings():
    rng = np.random.default_rng(0)
    wrong = np.zeros(2)
    trials = 400
    for trial in range(trials):
        hardness = rng.standard_normal(120)
        a, b = (trainings(rng, 3, 120, hardness, spread=0.3) for _ in range(2))
        low, high = paired_bootstrap(a, b, samples=300, seed=trial)[1:]
        test = over_seeds(a, b)
        wrong += (not low <= 0 <= high, test.p_value < 0.05)
        assert (test.p_value < 0.05) == (not test.interval.low <= 0 <= test.interval.high)
    assert wrong[1] / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5
    assert wrong[0] / trials > 0.3  # which is why an interval over queries alone decides nothing


def test_a_planted_gain_is_found():
    rng = np.random.default_rng(1)
    significant = 0
    for _ in range(40):
        hardness = rng.standard_normal(120)
        a, b = trainings(rng, 3, 120, hardness, spread=0.05, gain=0.3), trainings(rng, 3, 120, hardness, spread=0.05)
        result = over_seeds(a, b)
        significant += result.p_value < 0.05 and result.interval.low > 0
    assert significant >= 38


def test_without_luck_of_the_queries_it_is_welchs_test():
    # Queries that all differ by the same leave the seeds alone: scipy's unequal-variance t-test.
    rng = np.random.default_rng(2)
    a, b = rng.random((5, 1)), 0.2 + 3 * rng.random((4, 1))
    result = over_seeds(np.repeat(a, 30, 1), np.repeat(b, 30, 1))
    welch = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert result.p_value == pytest.approx(welch.pvalue) and result.degrees == pytest.approx(welch.df)
    low, high = welch.confidence_interval()
    assert result.interval == pytest.approx(((a.mean() - b.mean()), low, high))


def test_without_luck_of_the_seeds_it_is_the_paired_test():
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    b -= b.mean() - a.mean() + 0.1
    result = over_seeds(np.repeat(a[None], 3, 0), np.repeat(b[None], 3, 0))
    paired = stats.ttest_rel(a, b)
    assert result.p_value == pytest.approx(paired.pvalue) and result.degrees == pytest.approx(49)


def test_what_seeds_can_and_can_not_say():
    rng = np.random.default_rng(4)
    a = rng.random((3, 20))
    assert over_seeds(a[:1], a[1:]) is None and over_seeds(a[0], a[1]) is None
    assert over_seeds(a, a).p_value == 1.0 and over_seeds(a, a).interval.mean == 0.0
    same = np.ones((2, 5))
    assert over_seeds(same, same).p_value == 1.0 and over_seeds(same + 1, same).p_value == 0.0
    holes = a.copy()
    holes[:, 3] = np.nan
    assert over_seeds(holes, holes + 0.1).interval.mean == pytest.approx(-0.1)
    with pytest.raises(ValueError, match=r"\(S, Q\) and \(T, Q\)"):
        over_seeds(a, a[:, :5])
    with pytest.raises(ValueError, match="valid in every arm"):
        over_seeds(holes, a)


def two_seeds(first, second):
    """Scores of two trainings that are the same for each of two queries: only trainings have luck."""
    return [[first, first], [second, second]]


class TestShareOfGain:
    """The part that one arm's gain is of another's."""

    def test_where_the_arm_alone_has_luck_it_is_students_interval_over_the_oracles_gain(self):
        """0.1 ± 0.01 of 0.2, one degree of freedom: t is 12.706."""
        result = share_of_gain(two_seeds(0.29, 0.31), two_seeds(0.4, 0.4), two_seeds(0.2, 0.2))
        half = stats.t.ppf(0.975, 1) * 0.01 / 0.2
        assert half == pytest.approx(0.6353, abs=1e-4) and result == pytest.approx((0.5, 0.5 - half, 0.5 + half))

    def test_where_the_oracle_alone_has_luck_the_gain_is_divided_by_the_ends_of_its_interval(self):
        """0.1 of 0.2 ± 0.01: from 0.1 / 0.327 to 0.1 / 0.073. That the delta method would call ± 0.318."""
        result = share_of_gain(two_seeds(0.3, 0.3), two_seeds(0.39, 0.41), two_seeds(0.2, 0.2))
        assert result == pytest.approx((0.5, 0.1 / 0.3270620, 0.1 / 0.0729380), abs=1e-5)

    def test_luck_of_none_counts_in_both_gains(self):
        """None at 0.2 ± 0.01: gains 0.1 and 0.2 rise and fall together, and ρ with them by (1 − ρ) 0.01 / 0.2."""
        result = share_of_gain(two_seeds(0.3, 0.3), two_seeds(0.4, 0.4), two_seeds(0.19, 0.21))
        shift = stats.t.ppf(0.975, 1) * 0.01
        ends = [(0.1 - way) / (0.2 - way) for way in (shift, -shift)]
        assert result == pytest.approx((0.5, *ends))

    def test_the_whole_gain_is_the_whole_share(self):
        rng = np.random.default_rng(5)
        none = rng.random((4, 50))
        result = share_of_gain(none + 0.2, none + 0.2, none)
        assert result.mean == pytest.approx(1) and result.low < 1 < result.high

    def test_it_covers_the_true_share_about_as_often_as_it_says(self):
        rng = np.random.default_rng(6)
        covered, told, truth = 0, 0, 0.6
        for _ in range(600):
            hardness = rng.random(120)
            spreads = ((0.015, (4, 1)), (0.2, (1, 120)), (0.05, (4, 120)))  # of trainings, of queries, of both
            luck = [sum(spread * rng.standard_normal(shape) for spread, shape in spreads) for _ in range(3)]
            arm, oracle, none = (hardness + gain + part for gain, part in zip((0.1 * truth, 0.1, 0.0), luck, strict=True))
            result = share_of_gain(arm, oracle, none)
            told += result is not None
            covered += result is not None and result.low <= truth <= result.high
        assert told > 450 and 0.92 <= covered / told <= 0.98  # four standard errors are 0.03

    def test_no_share_of_a_gain_that_may_be_none(self):
        few = two_seeds(0.3, 0.3)
        assert share_of_gain(few, two_seeds(0.3, 0.5), two_seeds(0.2, 0.2)) is None
        assert share_of_gain(few, two_seeds(0.1, 0.1), two_seeds(0.2, 0.2)) is None
        assert share_of_gain(few[:1], [[0.4, 0.4]], [[0.2, 0.2]]) is None
        with pytest.raises(ValueError, match=r"\(S, Q\) and \(T, Q\).*\(2, 2\) and \(2, 1\) and \(2, 2\)"):
            share_of_gain(few, [[0.4], [0.4]], few)


def standard(n, queries=5):
    """Scores of n trainings with a standard deviation of 1, the same on every query."""
    values = np.arange(n) - (n - 1) / 2
    return np.repeat((values / values.std(ddof=1))[:, None], queries, 1)


class TestResolvable:
    """The gain that so many queries and trainings tell from luck."""

    @pytest.mark.parametrize(("effect", "trainings"), [(1.0, 17), (0.8, 26), (0.5, 64)])
    def test_it_is_cohens_table(self, effect, trainings):
        """Cohen (1988, table 2.4.1): so many in each group find an effect of that many deviations with power 80 % at 5 %, two-sided."""
        assert resolvable(standard(trainings), standard(trainings)) <= effect < resolvable(standard(trainings - 1), standard(trainings - 1))

    def test_many_queries_and_no_luck_of_trainings(self):
        """A normal distribution's (1.960 + 0.842) standard errors."""
        rng = np.random.default_rng(7)
        luck = rng.standard_normal(40_000)
        luck = (luck - luck.mean()) / luck.std(ddof=1)
        assert resolvable(np.stack((luck, luck)), np.zeros((2, 40_000))) == pytest.approx(2.8016 / 200, rel=1e-3)

    def test_that_gain_is_found_in_four_of_five(self):
        rng = np.random.default_rng(8)
        error, trials = (2 / 4) ** 0.5, 1500
        # Of true deviations, not of observed ones: four trainings, six degrees of freedom.
        gain = resolvable(standard(4), standard(4))
        assert gain > 2.8 * error, "few degrees of freedom cost power"
        found = 0
        for _ in range(trials):
            a, b = (np.repeat(rng.standard_normal((4, 1)), 5, 1) for _ in range(2))
            found += stats.ttest_ind(a[:, 0] + gain, b[:, 0]).pvalue < 0.05
        assert found / trials == pytest.approx(0.8, abs=4 * (0.16 / trials) ** 0.5)

    def test_it_falls_with_more_trainings_and_rises_with_power(self):
        gains = [resolvable(standard(n), standard(n)) for n in (2, 3, 5, 10)]
        assert gains == sorted(gains, reverse=True)
        assert resolvable(standard(4), standard(4), power=0.9) > resolvable(standard(4), standard(4))
        assert resolvable(standard(4)[:1], standard(4)) is None
        with pytest.raises(ValueError, match="power is above 1 - confidence.*got 0.04 and 0.95"):
            resolvable(standard(4), standard(4), power=0.04)
