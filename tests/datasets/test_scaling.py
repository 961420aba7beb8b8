from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from metarun.datasets import scaling
from metarun.datasets.scaling import Normalise, Scaling, scaled
from metarun.errors import UserError

ROWS = np.arange(0, 60, 2)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("how", [Normalise.each, Normalise.channel])
def test_the_rows_that_are_measured_get_mean_0_and_deviation_1(
    how: Normalise, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "AT_ONCE", 7)  # in parts, the last one smaller
    generator = np.random.default_rng(0)
    x = 1e6 + generator.normal(size=(60, *shape)) * generator.uniform(0.01, 100, shape)
    learned = Scaling.of(x, ROWS, how, [], "input")
    axes = (0,) if how is Normalise.each else (0, 1) if len(shape) == 1 else (0, *range(2, x.ndim))
    np.testing.assert_allclose(np.squeeze(learned.mean), x[ROWS].mean(axes), rtol=1e-12)
    np.testing.assert_allclose(np.squeeze(learned.deviation), x[ROWS].std(axes), rtol=1e-9)
    out = scaled(x, learned)
    assert out.dtype == np.float32 and out.shape == x.shape
    np.testing.assert_allclose(out[ROWS].mean(axes, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(out[ROWS].std(axes, dtype=np.float64), 1, atol=1e-5)
    again = Scaling.read(json.loads(json.dumps(learned.plain())))
    assert np.array_equal(scaled(x, again), out), "a run's config.json gives other bits"


def test_whole_numbers_of_a_byte_are_measured_without_overflow() -> None:
    x = np.full((5000, 2), 250, np.uint8)
    x[::2] = 10
    learned = Scaling.of(x, np.arange(5000), Normalise.each, [], "input")
    assert learned.mean.tolist() == [130, 130] and learned.deviation.tolist() == [120, 120]


def test_what_does_not_change_is_refused_by_name() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[ROWS, 1] = 7.5  # other rows differ, but meta-training does not see them
    with pytest.raises(UserError, match=r"^dataset: load has the same value, 7.5, in all 30 meta-training rows"):
        Scaling.of(x, ROWS, Normalise.each, ["speed", "load", "x"], "input")
    with pytest.raises(UserError, match=r"^dataset: input \[1\] has the same value"):
        Scaling.of(x, ROWS, Normalise.each, [], "input")
    Scaling.of(x, ROWS, Normalise.channel, [], "input")
    series = np.random.default_rng(0).normal(size=(60, 3, 4))
    series[:, 2] = 0
    with pytest.raises(UserError, match=r"^dataset: input \[2\] has the same value, 0,"):
        Scaling.of(series, ROWS, Normalise.channel, [], "input")


@pytest.mark.parametrize("value", [1e300, 1e-320])
def test_deviations_that_float64_does_not_hold_are_refused(value: float) -> None:
    x = np.zeros((60, 1))
    x[4] = value
    with (
        warnings.catch_warnings(),
        pytest.raises(UserError, match=f"load goes from 0 to {value:g}".replace("+", r"\+")),
    ):
        warnings.simplefilter("error")
        Scaling.of(x, ROWS, Normalise.each, ["load"], "input")


def test_numbers_that_float32_does_not_hold_are_refused() -> None:
    with pytest.raises(UserError, match=r"1e\+39 is too large a number: float32 ends at 3.4e38"):
        scaled(np.array([[1.0], [1e39]]), None)
