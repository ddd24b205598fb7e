"""Faults of devices, planted: one bit of one array flips."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


def flip_bit(tree: Any, rng: np.random.Generator) -> Any:
    """Flips one bit of one leaf of arrays that lie on one device: any leaf, element and bit."""
    leaves, treedef = jax.tree.flatten(tree)
    chosen = int(rng.choice([i for i, leaf in enumerate(leaves) if leaf.size]))
    (device,) = leaves[chosen].devices()
    array = np.array(leaves[chosen])
    bits = array.reshape(-1).view(np.uint8)
    bits[rng.integers(bits.size)] ^= np.uint8(1 << rng.integers(8))
    leaves[chosen] = jax.device_put(array, device)
    return treedef.unflatten(leaves)


@dataclass
class Lanes:
    """In the place of what computes lanes: a gradient for which `is_wrong` has a flipped bit."""

    function: Any
    rng: np.random.Generator
    is_wrong: Callable[[int], bool] = lambda place: False

    def __call__(self, place: int, *arguments: Any, **options: Any) -> Any:
        sums = self.function(place, *arguments, **options)
        if self.is_wrong(place):
            return sums._replace(grads=flip_bit(sums.grads, self.rng))
        return sums

    @property
    def traced(self) -> Any:
        return self.function.traced


class FaultyLanes(Lanes):
    """The device number `place` is wrong at its call number `call` from when it is armed; at each
    call, if that is None.
    """

    def arm(self, place: int, call: int | None = 0) -> None:
        calls = itertools.count()
        self.is_wrong = lambda at: at == place and call in (None, next(calls))


def plant(
    set_attribute: Callable[[Any, str, Any], None], device: int = 2
) -> Callable[[int, int], None]:
    """Prepares faults in this process: `plant(setattr)(step, times)` lets a device, by its number
    in the process, compute its lanes wrong at the spot check after that step.
    """
    from aetheria.hardware.jax.elastic import ElasticProgram
    from aetheria.hardware.jax.spot_check import CheckedStep

    faults: dict[int, int] = {}
    now: list[int] = []
    rng = np.random.default_rng(3)
    init, watch = ElasticProgram.__init__, CheckedStep.watch

    def make(program: Any, *arguments: Any) -> None:
        init(program, *arguments)
        is_wrong = lambda place: place == device and bool(now) and faults.get(now[0], 0) > 0
        program._lane_gradient = Lanes(program._lane_gradient, rng, is_wrong)

    def watched(check: Any, place: int, gradients: Iterator[Any]) -> Iterator[Any]:
        step = check._step
        now[:] = [step]
        yield from watch(check, place, gradients)
        if len(check._own) == len(check._check._mine):
            faults[step] = faults.get(step, 0) - 1
            now.clear()

    set_attribute(ElasticProgram, "__init__", make)
    set_attribute(CheckedStep, "watch", watched)
    return faults.__setitem__
