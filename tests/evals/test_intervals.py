"""The bootstrap beside figures that are known: of a mean, of two samples, of rows that stay together."""

import numpy as np
import pytest

from jaxforget.evals.intervals import bootstrap, mean_interval


def test_a_mean_of_many_lies_within_its_standard_errors():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    low, high = bootstrap(np.mean, [values])
    error = 1.96 * values.std() / 20
    np.testing.assert_allclose([values.mean() - low, high - values.mean()], error, rtol=0.15)
    assert bootstrap(np.mean, [values]) == (low, high), "not the same twice"
    assert bootstrap(np.mean, [values], seed=1) != (low, high)


@pytest.mark.parametrize("values", [np.full(7, 0.25), np.array([0.5])])
def test_what_does_not_vary_has_no_width(values):
    assert bootstrap(np.mean, [values]) == (values[0], values[0])


def test_the_stream_is_that_of_all_draws_at_once():
    """The draws from one sample are those of one array of random numbers."""
    values = np.random.default_rng(4).random(129)
    picks = np.random.default_rng(0).integers(0, 129, (1000, 129))
    assert bootstrap(np.mean, [values]) == tuple(np.percentile(values[picks].mean(axis=1), [2.5, 97.5]))


@pytest.mark.parametrize("count", [1, 2, 37, 1001, 30_000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_mean_of_whole_arrays_of_draws_is_that_of_single_ones(count, dtype):
    values = np.random.default_rng(6).lognormal(size=count).astype(dtype)
    assert mean_interval(values) == bootstrap(np.mean, [values])


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_the_mean_of_nothing_is_not_a_number():
    assert np.isnan(mean_interval(np.zeros(0))).all()
    assert np.isnan(bootstrap(np.mean, [np.zeros(0)])).all()


def test_rows_stay_together_and_samples_do_not():
    """Numerator and denominator in one row give a ratio that never varies; drawn apart they do."""
    parts = np.random.default_rng(5).uniform(1, 2, 50)
    low, high = bootstrap(lambda rows: rows[:, 0].sum() / rows[:, 1].sum(), [np.stack([3 * parts, parts], axis=1)])
    np.testing.assert_allclose([low, high], 3, rtol=1e-12)
    low, high = bootstrap(lambda a, b: a.sum() / b.sum(), [3 * parts, parts])
    assert low < 2.95 < 3.05 < high
