"""Reads from the HLO text of a compiled program what its devices send each other."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_WHILE = re.compile(r" while\(.*\bbody=%?([\w.\-]+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind along the same axes.

    Attributes:
        kind: one of `KINDS`.
        axes: the mesh axes that it communicates along.
        group_size: how many devices take part in one collective.
        count: how many collectives each device takes part in during one step.
        result_bytes: the total size of their results on one device.
        sent_bytes: the total that one device sends, with ring algorithms.
    """

    kind: str
    axes: tuple[str, ...]
    group_size: int
    count: int
    result_bytes: int
    sent_bytes: int


def find_collectives(text: str, mesh: Mapping[str, int]) -> tuple[list[Collective], int]:
    """Finds every collective and counts how often it runs.

    The body of a loop counts as often as XLA knows that it runs; every branch of a conditional
    counts once.

    Args:
        text: a compiled module, as `compiled.as_text()` returns it.
        mesh: axis name -> size, in the order of the device ids.

    Returns:
        The collectives, largest traffic first, and the number of loops of unknown length that
        contain collectives; their bodies are counted once.
    """
    computations, entry = _split(text)
    sums: dict[tuple[str, tuple[str, ...], int], np.ndarray] = {}
    unknown = 0

    def visit(name: str, times: int) -> bool:
        """Whether a collective was found there."""
        nonlocal unknown
        found = False
        for line in computations.get(name, ()):
            if match := _COLLECTIVE.search(line):
                shapes, kind, started = match.groups()
                groups = _groups(line, math.prod(mesh.values()))
                size, result = groups.shape[-1], _result_bytes(shapes, kind, bool(started))
                key = (kind, _axes_of(groups, mesh), size)
                values = np.array([1, result, _sent_bytes(kind, result, size)])
                sums[key] = sums.get(key, 0) + times * values
                found = True
            for inner, repeats in _calls(line):
                inside = visit(inner, times * (repeats or 1))
                unknown += inside and repeats is None
                found |= inside
        return found

    visit(entry, 1)
    collectives = [Collective(*key, *map(int, values)) for key, values in sums.items()]
    return sorted(collectives, key=lambda each: -each.sent_bytes), unknown


def _split(text: str) -> tuple[dict[str, list[str]], str]:
    """Computation name -> its lines, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _calls(line: str) -> Iterator[tuple[str, int | None]]:
    """The computations that an instruction runs, and how often; None: unknown."""
    if match := _WHILE.search(line):
        trips = _TRIP_COUNT.search(line)
        yield match[1], int(trips[1]) if trips else None
        return
    if _COLLECTIVE.search(line):
        return  # the computation that it applies is a sum
    for name in _CALLED.findall(line):
        yield name, 1
    for names in _BRANCHES.findall(line):
        for name in names.split(","):
            yield name.strip().lstrip("%"), 1


def _result_bytes(shapes: str, kind: str, started: bool) -> int:
    sizes = [
        math.prod(map(int, filter(None, dims.split(",")))) * _bits(dtype) // 8
        for dtype, dims in _SHAPE.findall(shapes)
    ]
    # An asynchronous form also lists its operands, and a permutation two contexts.
    if started and kind == "collective-permute":
        return sizes[1]
    if started and kind != "all-reduce":
        return sum(sizes[len(sizes) // 2 :])
    return sum(sizes)


def _bits(dtype: str) -> int:
    """The width of an element: its type's first number, `f8e4m3fn` -> 8."""
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8


def _sent_bytes(kind: str, result_bytes: int, group_size: int) -> int:
    """What one device sends; with a ring algorithm if there are several.

    Source: Chan et al., "Collective communication: theory, practice, and experience" (2007).
    """
    others = group_size - 1
    match kind:
        case "all-reduce":
            return 2 * result_bytes * others // group_size
        case "reduce-scatter":
            return result_bytes * others  # the result is one part of the scattered array
        case "collective-permute":
            return result_bytes
    return result_bytes * others // group_size


def _axes_of(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    places = np.unravel_index(groups, tuple(mesh.values()))
    return tuple(
        axis for axis, place in zip(mesh, places, strict=True) if (place != place[..., :1]).any()
    )


def _groups(line: str, num_devices: int) -> np.ndarray:
    """The devices that take part together: device ids, i64 [groups, group size].

    XLA has three notations: lists, an iota that is reshaped and transposed, and axes of a mesh;
    a permutation lists pairs.
    """
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", line):
        return np.array([_numbers(group) for group in re.findall(r"\{([\d, ]*)\}", match[1])])
    if match := re.search(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)", line):
        return _iota(match[2]).reshape(_numbers(match[1]))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        ids = re.search(r"device_ids=\((.*?\](?:T\([\d,]+\))?)\)", match[2])
        devices = _iota(ids[1]) if ids else np.arange(num_devices)
        return _groups_along(devices.reshape(tuple(sizes.values())), list(sizes), match[3])
    return np.arange(num_devices)[None]  # no groups: all devices together


def _groups_along(devices: np.ndarray, names: list[str], along: str) -> np.ndarray:
    """Groups along some axes of a mesh; `'x':(2)4` is the part of size 4 behind one of size 2."""
    chosen = []
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along):
        if size:
            dim = names.index(name)
            shape = devices.shape
            devices = devices.reshape(*shape[:dim], int(before), int(size), -1, *shape[dim + 1 :])
            names[dim : dim + 1] = [f"{name} before", f"{name} part", name]
            name = f"{name} part"
        chosen.append(name)
    dims = [names.index(name) for name in chosen]
    size = math.prod(devices.shape[dim] for dim in dims)
    return np.moveaxis(devices, dims, range(-len(dims), 0)).reshape(-1, size)


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: 0, 1, 2 … of a shape, transposed."""
    shape, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> Sequence[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
