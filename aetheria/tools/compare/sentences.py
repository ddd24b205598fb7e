"""The words for each kind of cause. Decides nothing."""

from collections.abc import Callable, Mapping, Sequence

from aetheria.tools.compare.comparison import Comparison
from aetheria.tools.compare.examples import DifferingExamples
from aetheria.tools.compare.recorded import DATA_KEYS, Difference, describe_rows

_VERSIONS = ("jax", "jaxlib", "torch", "flax", "optax", "numpy", "aetheria", "python")
_MAX_NAMED = 3
_MAX_NUMBERED = 8  # examples


def counted(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> counted(1, "line"), counted(2, "line")
    ('1 line', '2 lines')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def values(comparison: Comparison, differences: Sequence[Difference]) -> str:
    named = [
        f"{each.path} is {each.a} in A and {each.b} in B" if each.a else f"{each.path}: {each.b}"
        for each in differences
    ]
    more = len(named) - _MAX_NAMED
    return ", ".join(named[:_MAX_NAMED]) + (f", and {more} more differ" if more > 0 else "")


def _seed(comparison: Comparison, differences: Sequence[Difference]) -> str:
    (seed,) = differences
    if seed.since:  # the base key is the snapshot's
        return f"the order of the examples differs (seed {seed.a} and {seed.b})"
    what = f"the base key differs (seed {seed.a} and {seed.b})"
    initial = None if comparison.computed is None else comparison.computed.initial
    return what if initial is None else f"{what}: initial parameters differ at {initial.leaf}"


def _origin(comparison: Comparison, differences: Sequence[Difference]) -> str:
    (origin,) = differences
    return f"A starts from {origin.a} and B from {origin.b}"


def _data(comparison: Comparison, differences: Sequence[Difference]) -> str:
    keys = [each for each in differences if each.path.split(".")[0] in DATA_KEYS]
    where = f" ({values(comparison, keys)})" if keys else ""
    computed, examples = comparison.computed, comparison.examples
    batch = None if computed is None else computed.batch
    if batch is not None and batch.examples:
        return _examples(batch.examples) + where
    if examples is not None:
        return _by_fingerprint(examples) + where
    if batch is not None:
        return f"the global batch of step {batch.step} is the first with other examples{where}"
    others = [each for each in differences if each not in keys]
    return values(comparison, others or keys)


def _examples(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"example {numbers[0]} of the training data differs"
    return f"examples {', '.join(map(str, numbers))} of the training data differ"


def _by_fingerprint(examples: DifferingExamples) -> str:
    rows, numbers = describe_rows(examples.rows), examples.in_parting
    num_rows = sum(stop - start for start, stop in examples.rows)
    if num_rows == 1 and numbers:
        return f"example {numbers[0]} of the training data differs"
    if len(numbers) == 1:
        return (
            f"example {numbers[0]} of the training data differs (of {rows}, whose digests differ, "
            "it alone is in the global batches where they part)"
        )
    if 1 < len(numbers) <= _MAX_NUMBERED:
        return (
            "examples of the training data differ, at least one of "
            f"{', '.join(map(str, numbers))} (of {rows}, whose digests differ, these are in the "
            "global batches where they part)"
        )
    text = f"{rows} of the training data have other digests"
    if examples.first_step is None:
        return text
    return f"{text}, and step {examples.first_step} is the first to train on any of them"


def _code(comparison: Comparison, differences: Sequence[Difference]) -> str:
    return f"the code differs: {', '.join(each.path for each in differences)}"


def _settings(comparison: Comparison, differences: Sequence[Difference]) -> str:
    return f"settings of the environment: {values(comparison, differences)}"


def _devices(comparison: Comparison, differences: Sequence[Difference]) -> str:
    counts = {each.path: each for each in differences}
    if (devices := counts.get("num_devices")) is not None:
        what = f"{counted(int(devices.a), 'device')} in A and {devices.b} in B"
    else:
        what = values(comparison, differences)
    return f"`fast` promises bits on one topology only: {what}"


def _versions(comparison: Comparison, differences: Sequence[Difference]) -> str:
    rank = lambda name: _VERSIONS.index(name) if name in _VERSIONS else len(_VERSIONS)
    first, *others = sorted(differences, key=lambda each: rank(each.path))
    also = f" (and other versions of {', '.join(each.path for each in others)})" if others else ""
    return f"{first.path} {first.a} in A and {first.b} in B{also}"


def _git(comparison: Comparison, differences: Sequence[Difference]) -> str:
    named = values(comparison, differences)
    return f"nothing else that is recorded differs but the source tree: {named}"


ADVICE: Mapping[str, str] = {"devices": "; use reproducibility elastic"}
TEXTS: Mapping[str, Callable[[Comparison, Sequence[Difference]], str]] = {
    "seed": _seed,
    "origin": _origin,
    "data": _data,
    "code": _code,
    "settings": _settings,
    "devices": _devices,
    "versions": _versions,
    "git": _git,
}
