"""The order of test files, for workers that each take whole files: the slow ones spread over the
first part of a run, so that none is left alone at the end, and quick ones between them.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, zip_longest

import pytest

_QUICK_BETWEEN = 2  # quick files after each slow one, as long as there are slow ones


def by_file(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Orders a collection by files; within a file, nothing changes. A file is slow if one of its
    tests has the marker `slow`; of the others, those with many tests come first.
    """
    files = [[*tests] for _, tests in groupby(items, key=lambda item: item.path)]
    slow = [tests for tests in files if any(test.get_closest_marker("slow") for test in tests)]
    quick = sorted((tests for tests in files if tests not in slow), key=len, reverse=True)
    return [*chain.from_iterable(_spread(slow, quick))]


def _spread(slow: list[list], quick: list[list]) -> Iterator[list]:
    cut = len(slow) * _QUICK_BETWEEN
    between = [quick[start : start + _QUICK_BETWEEN] for start in range(0, cut, _QUICK_BETWEEN)]
    for one, few in zip_longest(slow, between, fillvalue=[]):
        yield one
        yield from few
    yield from quick[cut:]
