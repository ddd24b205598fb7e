"""Ranks what can have made two runs differ, and says the most likely cause in one sentence.

In this order: what the computation here tells apart before what it does not, what began where the
runs part before what was there already, and then a fixed order of kinds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from aetheria.tools.compare.comparison import APPLIED, Comparison
from aetheria.tools.compare.recorded import DATA_KEYS, Difference, Group
from aetheria.tools.compare.sentences import ADVICE, TEXTS, counted, values

_ORDER = get_args(Group)  # the most likely first


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
    if not causes:
        return f"they part {_where(comparison)}: {_unknown(comparison)}"
    likely = causes[0]
    given = "" if likely.group in APPLIED else _given_again(comparison)
    return f"they part {_where(comparison)}: {likely.text}{'; ' if given else ''}{given}"


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
    text = TEXTS.get(group, values)(comparison, differences)
    if since and group in ("config", "seed", "data", "settings", "devices", "versions", "code"):
        text += f" from step {since} on ({_change(comparison, group, since)})"
    text += ADVICE.get(group, "")
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
        batch = computed.batch
        if group == "data":
            return 0 if batch is not None and (applied or batch.how == "values") else 2
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
    if parting is None or parting == comparison.last_equal + 1:
        return f"at step {parting}"
    if comparison.last_equal == 0:
        return f"by step {parting}"
    return f"between the steps {comparison.last_equal} and {parting}"


def _change(comparison: Comparison, group: Group, since: int) -> str:
    changed = [
        run.name
        for run in (comparison.a, comparison.b)
        if since in (stretch.first_step for stretch in run.stretches[1:])
    ]
    return f"{group} changed at a resume of {' and '.join(changed)}"


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
    later = comparison.snapshots.last_equal
    if later is not None and later >= (comparison.parting or 0):
        return (
            f"only metric lines differ, since the snapshots of step {later} are equal: look at "
            "what wrote or changed metrics.jsonl"
        )
    if given := _given_again(comparison):
        return f"{text}; {given}: look at the code and the machine (memory, driver) of the latter"
    return f"{text}: look at code that no record covers, and at the machines (memory, driver)"


def _given_again(comparison: Comparison) -> str:
    """Which run the computation here agrees with, if it is one of them alone; else empty."""
    again = {} if comparison.computed is None else comparison.computed.again
    agrees = [name for name, each in again.items() if each.agrees]
    differs = [name for name, each in again.items() if each.agrees is False]
    if len(agrees) != 1 or len(differs) != 1:
        return ""
    return (
        f"computed again here, the steps give what {agrees[0]} recorded, not what {differs[0]} did"
    )


def _equal(comparison: Comparison) -> str:
    steps = comparison.steps
    if not comparison.same_length:
        shorter = comparison.a if steps[0] < steps[1] else comparison.b
        longer = comparison.b if shorter is comparison.a else comparison.a
        key = [each for each in comparison.recorded if each.path in ("epochs", "max_steps")]
        why = f" ({values(comparison, key)})" if key else ""
        ends = f"{shorter.name} is at {shorter.state} and {longer.name} at {longer.state}"
        return f"no bit differs up to step {comparison.last_equal}, but {ends}{why}"
    counts = []
    if comparison.metrics.equal:
        counts.append(counted(len(comparison.metrics.equal), "metric line"))
    if comparison.snapshots.equal:
        counts.append(counted(len(comparison.snapshots.equal), "snapshot"))
    if comparison.final is not None:
        counts.append("the last parameters")
    differ = any(each.may_change_bits for each in comparison.recorded)
    said = "; what differs in their records changed no bit"
    damaged = "; a damaged snapshot was left out" if comparison.snapshots.damaged else ""
    return f"they are equal, bit for bit: {_listed(counts)}{said if differ else ''}{damaged}"


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
