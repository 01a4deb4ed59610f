"""Means over seeds with their spread; the order of the values never shows in the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# Student's t, two-sided 95 %, by degrees of freedom from 1 (R: qt(0.975, 1:30)); more than 30 take the last,
# which is wider. Spelled out because scipy.stats takes a second to import.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Summary:
    """What is said of one quantity over seeds.

    Attributes:
        count: how many values there are.
        mean: their mean; None without any.
        std: their sample standard deviation (n - 1); None for fewer than two.
    """

    count: int
    mean: float | None
    std: float | None

    def format(self, digits: int = 2, *, spread: bool = True) -> str:
        """Write "91.97 ± 0.12 (3)": mean, standard deviation, count; "91.97" for one value, "-" for none."""
        if self.mean is None:
            return "-"
        if self.std is None or not spread:
            return _fixed(self.mean, digits)
        return f"{_fixed(self.mean, digits)} ± {_fixed(self.std, digits)} ({self.count})"

    def __str__(self) -> str:
        return self.format()


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


def summarise(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are there; None is left out."""
    present = [value for value in values if value is not None]
    return Summary(len(present), mean(present) if present else None, standard_deviation(present))


def mean(values: Iterable[float]) -> float:
    """Average at least one value, exactly rounded, whatever their order."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def standard_deviation(values: Iterable[float]) -> float | None:
    """Give the sample standard deviation, dividing by n - 1; None for fewer than two values."""
    numbers = list(values)
    if len(numbers) < 2:
        return None
    centre = mean(numbers)
    return math.sqrt(math.fsum((number - centre) ** 2 for number in numbers) / (len(numbers) - 1))


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and how far it carries.

    Attributes:
        count: pairs.
        mean: of the differences.
        low: lower end of the mean's 95 % interval (Student's t).
        high: its upper end.
    """

    count: int
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Say on which side of zero the whole interval lies: "better", "worse", or "not resolved"."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not resolved"

    def __str__(self) -> str:
        """Write "+0.31 [-0.05, +0.67] (3)": mean, interval, count."""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}] ({self.count})"


def paired(differences: Iterable[float], *, step: float = 0.0) -> Difference | None:
    """Summarise paired differences of two quantities.

    Args:
        differences: one value a seed; fewer than two prove nothing.
        step: between neighbouring values of the quantities, such as one test image: two differences may be
            equal by chance, and rounding to steps (variance step^2 / 12 of either quantity) stays in the
            interval.

    Returns:
        None for fewer than two.
    """
    summary = summarise(differences)
    if summary.mean is None or summary.std is None:
        return None
    quantile = _T95[min(summary.count - 1, len(_T95)) - 1]
    reach = quantile * math.sqrt((summary.std**2 + step**2 / 6) / summary.count)
    return Difference(summary.count, summary.mean, summary.mean - reach, summary.mean + reach)
