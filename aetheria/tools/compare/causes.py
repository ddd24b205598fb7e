"""Ranks what can have made two runs differ, and says the most likely cause in one sentence.

In this order: what the computation here tells apart before what it does not, what began where the
runs part before what was there already, and then a fixed order of kinds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aetheria.tools.compare.comparison import APPLIED, Comparison
from aetheria.tools.compare.examples import DifferingExamples
from aetheria.tools.compare.recorded import DATA_KEYS, Difference, Group, describe_rows

_ORDER: Sequence[Group] = (
    "seed",
    "config",
    "origin",
    "data",
    "code",
    "settings",
    "devices",
    "versions",
    "machine",
    "git",
)
_VERSIONS = ("jax", "jaxlib", "torch", "flax", "optax", "numpy", "aetheria", "python")
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One possible cause.

    Attributes:
        group: what kind of thing it is.
        text: what differs, in words.
        rank: sorts causes, the most likely first.
    """

    group: str
    text: str
    rank: tuple[int, bool, int]


def rank_causes(comparison: Comparison) -> list[Cause]:
    """The possible causes, the most likely first; none if the runs do not part."""
    if comparison.parting is None:
        return []
    found = [_cause(comparison, *each) for each in _by_group(comparison)]
    if not found and (logged := _logged_setting(comparison)):
        found.append(Cause(group="config", text=logged, rank=(0, True, 0)))
    return sorted(found, key=lambda cause: cause.rank)


def conclude(comparison: Comparison) -> str:
    """The sentence at the end of the page."""
    if comparison.parting is None:
        return _equal(comparison)
    causes = rank_causes(comparison)
    why = causes[0].text if causes else _unknown(comparison)
    return f"they part {_where(comparison)}: {why}"


def _by_group(comparison: Comparison) -> Iterator[tuple[Group, int, list[Difference]]]:
    """The differences that may matter, together where they are of one kind and began together."""
    groups: dict[tuple[Group, int], list[Difference]] = {}
    for each in comparison.recorded:
        if _may_matter(each, comparison):
            groups.setdefault((each.group, each.since), []).append(each)
    for (group, since), differences in groups.items():
        yield group, since, differences


def _may_matter(difference: Difference, comparison: Comparison) -> bool:
    if not difference.may_change_bits:
        return False
    if difference.group == "origin":
        return comparison.last_equal == 0  # else both went the same way from there
    if difference.group == "data":
        return _data_may_matter(difference, comparison)
    return True


def _data_may_matter(difference: Difference, comparison: Comparison) -> bool:
    """Whether the data can be the cause: that of another split only of its own metrics, and that of
    training only once an example that differs was drawn.
    """
    split, _, kind = difference.path.partition(" ")
    if kind.startswith("split") and split != "train":
        parting = comparison.metrics.parting
        return parting is not None and parting.split == split
    examples = comparison.examples
    if examples is None or examples.first_step is None:
        return True
    return examples.first_step <= (comparison.parting or 0)


def _cause(
    comparison: Comparison, group: Group, since: int, differences: Sequence[Difference]
) -> Cause:
    text = _TEXTS.get(group, _values)(comparison, differences)
    if since and group in ("config", "seed", "data", "settings", "devices", "versions", "code"):
        text += f" from step {since} on ({_change(comparison, group, since)})"
    # The loss of a step is that of the state before it.
    began_here = since > 0 and since >= comparison.last_equal - 1
    rank = (_evidence(comparison, group, differences), not began_here, _ORDER.index(group))
    return Cause(group=group, text=text, rank=rank)


def _evidence(comparison: Comparison, group: Group, differences: Sequence[Difference]) -> int:
    """0: what was computed or read speaks for it; 1: nothing does; 2: it speaks against it."""
    computed, examples = comparison.computed, comparison.examples
    if group == "data" and examples is not None and examples.in_parting:
        return 0
    keys = {each.path.split(".")[0] for each in differences}
    applied = group in APPLIED or bool(keys & set(DATA_KEYS))
    if computed is None:
        return 1
    if computed.differs:
        if group == "data":
            return 0 if computed.batch is not None and computed.batch.how == "values" else 2
        return 0 if applied else 2
    return 2 if applied and computed.last_step >= (comparison.parting or 0) else 1


def _where(comparison: Comparison) -> str:
    computed, parting = comparison.computed, comparison.parting
    if computed is not None and computed.initial is not None:
        return "at initialization"
    if computed is not None and computed.step is not None:
        is_recorded = computed.first_step <= comparison.last_equal + 1
        if is_recorded and comparison.last_equal < computed.step <= (parting or 0):
            return f"at step {computed.step}"
    if parting is not None and parting > comparison.last_equal + 1:
        return f"after step {comparison.last_equal}, at step {parting} at the latest"
    return f"at step {parting}"


def _change(comparison: Comparison, group: Group, since: int) -> str:
    changed = [
        run.name
        for run in (comparison.a, comparison.b)
        if since in (stretch.first_step for stretch in run.stretches[1:])
    ]
    return f"{group} changed at a resume of {' and '.join(changed)}"


def _values(comparison: Comparison, differences: Sequence[Difference]) -> str:
    named = [f"{each.path} is {each.a} in A and {each.b} in B" for each in differences]
    more = len(named) - _MAX_NAMED
    return ", ".join(named[:_MAX_NAMED]) + (f", and {more} more differ" if more > 0 else "")


def _seed(comparison: Comparison, differences: Sequence[Difference]) -> str:
    (seed,) = differences
    what = f"the base key differs (seed {seed.a} and {seed.b})"
    initial = None if comparison.computed is None else comparison.computed.initial
    return what if initial is None else f"{what}: initial parameters differ at {initial.leaf}"


def _origin(comparison: Comparison, differences: Sequence[Difference]) -> str:
    (origin,) = differences
    return f"A starts from {origin.a} and B from {origin.b}"


def _data(comparison: Comparison, differences: Sequence[Difference]) -> str:
    keys = [each for each in differences if each.path.split(".")[0] in DATA_KEYS]
    where = f" ({_values(comparison, keys)})" if keys else ""
    computed, examples = comparison.computed, comparison.examples
    batch = None if computed is None else computed.batch
    if batch is not None and batch.examples:
        return f"{_examples(batch.examples)} of the training data{where}"
    if examples is not None:
        return _by_fingerprint(examples) + where
    others = [each for each in differences if each not in keys]
    return _values(comparison, others or keys)


def _examples(numbers: Sequence[int]) -> str:
    """The subject of a sentence, with its verb."""
    if len(numbers) == 1:
        return f"what differs is example {numbers[0]}"
    return f"what differs are examples {', '.join(map(str, numbers))}"


def _by_fingerprint(examples: DifferingExamples) -> str:
    rows = describe_rows(examples.rows)
    if len(examples.in_parting) == 1:
        return (
            f"example {examples.in_parting[0]} of the training data differs (of {rows}, whose "
            "digests differ, it alone is in the global batches where they part)"
        )
    text = f"{rows} of the training data have other digests"
    if examples.first_step is None:
        return text
    return f"{text}, and step {examples.first_step} is the first to train on any of them"


def _code(comparison: Comparison, differences: Sequence[Difference]) -> str:
    return f"the code differs: {', '.join(each.path for each in differences)}"


def _settings(comparison: Comparison, differences: Sequence[Difference]) -> str:
    return f"settings of the environment: {_values(comparison, differences)}"


def _devices(comparison: Comparison, differences: Sequence[Difference]) -> str:
    counts = {each.path: each for each in differences}
    if (devices := counts.get("num_devices")) is not None:
        what = f"{devices.a} device{'' if devices.a == '1' else 's'} in A and {devices.b} in B"
    else:
        what = _values(comparison, differences)
    record = comparison.a.record_after(comparison.last_equal)
    if record.is_elastic:
        return what
    return f"`fast` promises bits on one topology only: {what}; use reproducibility elastic"


def _versions(comparison: Comparison, differences: Sequence[Difference]) -> str:
    rank = lambda name: _VERSIONS.index(name) if name in _VERSIONS else len(_VERSIONS)
    first, *others = sorted(differences, key=lambda each: rank(each.path))
    also = f" (and other versions of {', '.join(each.path for each in others)})" if others else ""
    return f"{first.path} {first.a} in A and {first.b} in B{also}"


def _git(comparison: Comparison, differences: Sequence[Difference]) -> str:
    named = _values(comparison, differences)
    return f"nothing else that is recorded differs but the source tree: {named}"


_TEXTS: Mapping[str, Callable[[Comparison, Sequence[Difference]], str]] = {
    "seed": _seed,
    "origin": _origin,
    "data": _data,
    "code": _code,
    "settings": _settings,
    "devices": _devices,
    "versions": _versions,
    "git": _git,
}


def _logged_setting(comparison: Comparison) -> str:
    """What the metric lines say of a hyperparameter, where the snapshots that recorded its change
    are gone; empty: nothing.
    """
    parting = comparison.metrics.parting
    if parting is None or {"loss", "grad_norm"} & set(parting.names):
        return ""
    named = [f"{n} is {parting.a[n]} in A and {parting.b[n]} in B" for n in parting.names]
    return f"{', '.join(named)}, while the loss is still the same"


def _unknown(comparison: Comparison) -> str:
    text = "nothing that is recorded and may matter differs"
    again = {} if comparison.computed is None else comparison.computed.again
    checked = {name: each for name, each in again.items() if each.num_lines}
    bad = [name for name, each in checked.items() if each.unlike is not None]
    if len(bad) == 1 and len(checked) == 2:
        return (
            f"{text}; computed again here, the steps give what {'AB'.replace(bad[0], '')} logged "
            f"and not what {bad[0]} did: check the machine of {bad[0]} (memory, driver), and code "
            "that no record covers"
        )
    return f"{text}: look at code that no record covers, and at the machines (memory, driver)"


def _equal(comparison: Comparison) -> str:
    steps = comparison.steps
    if not comparison.same_length:
        shorter = comparison.a if steps[0] < steps[1] else comparison.b
        longer = comparison.b if shorter is comparison.a else comparison.a
        key = [each for each in comparison.recorded if each.path in ("epochs", "max_steps")]
        why = f" ({_values(comparison, key)})" if key else ""
        return (
            f"no bit differs up to step {comparison.last_equal}, but {shorter.name} "
            f"{shorter.state}, and {longer.name} {longer.state}{why}"
        )
    counts = []
    if comparison.metrics.num_equal:
        counts.append(f"{comparison.metrics.num_equal} metric lines")
    if comparison.snapshots.num_equal:
        counts.append(f"{comparison.snapshots.num_equal} snapshots")
    if comparison.final is not None:
        counts.append("the last parameters")
    said = "; what differs in their records changed no bit"
    differ = any(each.may_change_bits for each in comparison.recorded)
    return f"they are equal, bit for bit: {_listed(counts)}{said if differ else ''}"


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
