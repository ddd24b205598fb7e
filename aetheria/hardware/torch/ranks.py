"""The processes that share a global batch, each with its device: sums over them, and their random
generators. Knows no model and no step.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Large enough to use a network well, small enough that the first is under way while the backward
# pass continues; the size that DistributedDataParallel uses.
_BUCKET_BYTES = 25 * 2**20


class Ranks:
    """One of several ranks, or the only one.

    Args:
        device: this rank's.
        index: this rank's number.
        count: how many ranks there are; with several, `torch.distributed` is initialized already.
    """

    def __init__(self, device: torch.device, index: int = 0, count: int = 1):
        self.device, self.index, self.count = device, index, count
        generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            generators.append(torch.cuda.default_generators[device.index or 0])
        self._generators = generators

    def sum(self, values: Tensor) -> Tensor:
        """Sums over all ranks, in place; the same bits on each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def seed(self, number: int) -> None:
        """Seeds the generators that dropout uses, on the host and on this rank's device."""
        for generator in self._generators:
            generator.manual_seed(number)


class GradientSum:
    """Sums gradients over all ranks, bucket by bucket, while the backward pass continues.

    DistributedDataParallel does the same, but divides by the number of ranks, where the step
    divides by the weight of all of them; and it rearranges its buckets after the first step. The
    order of a sum depends on the place in a bucket, so a resumed run of four ranks had other bits
    than an uninterrupted one (torch 2.13, gloo). Here every parameter keeps its place.

    Args:
        params: all parameters, in the order of the module.
        ranks: the ranks; a single one adds nothing.
    """

    def __init__(self, params: Sequence[nn.Parameter], ranks: Ranks):
        self.ranks = ranks
        self._active = False
        self._buckets = _buckets(params) if ranks.count > 1 else []
        self._missing: list[int] = []
        self._works: list[tuple[Tensor, dist.Work]] = []
        for number, bucket in enumerate(self._buckets):
            for param in bucket:
                param.register_post_accumulate_grad_hook(lambda _, n=number: self._arrived(n))

    @contextlib.contextmanager
    def during(self, *, last: bool) -> Iterator[None]:
        """Surrounds a backward pass; of several that add up, only the `last` one sums and waits."""
        self._active = last
        self._missing = [len(bucket) for bucket in self._buckets]
        yield
        if last:
            self._finish()

    def _arrived(self, number: int) -> None:
        """Counts a gradient that is whole. Buckets go in their order, the same on all ranks."""
        if not self._active:
            return
        self._missing[number] -= 1
        while len(self._works) < len(self._buckets) and not self._missing[len(self._works)]:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[len(self._works)]
        grads = [gradient_of(param).reshape(-1) for param in bucket]
        flat = torch.cat(grads)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._works.append((flat, work))

    @torch.no_grad()
    def _finish(self) -> None:
        while len(self._works) < len(self._buckets):  # with parameters that the loss does not use
            self._send()
        for bucket, (flat, work) in zip(self._buckets, self._works, strict=True):
            work.wait()
            sizes = [param.numel() for param in bucket]
            for param, total in zip(bucket, flat.split(sizes), strict=True):
                gradient_of(param).copy_(total.view_as(param))
        self._works, self._active = [], False


def _buckets(params: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Groups parameters of one dtype, some megabytes each; the last first, as gradients arrive."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for param in reversed(params):
        if buckets and size < _BUCKET_BYTES and buckets[-1][0].dtype == param.dtype:
            buckets[-1].append(param)
        else:
            buckets.append([param])
            size = 0
        size += param.numel() * param.element_size()
    return buckets


def gradient_of(param: nn.Parameter) -> Tensor:
    """Returns a parameter's gradient; zeros if the loss does not use it: it decays all the same."""
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad
