"""The processes that share a window, each with its device: sums over them, and their randomness."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Large enough to use a network, small enough that the first is under way while the backward pass
# goes on; the size that DistributedDataParallel has.
_BUCKET_BYTES = 25 * 2**20


class Ranks:
    """One of them, or the only one.

    Args:
        device: this rank's.
        index: this rank's number.
        count: how many there are; with several, `torch.distributed` has been initialized.
    """

    def __init__(self, device: torch.device, index: int = 0, count: int = 1):
        self.device, self.index, self.count = device, index, count
        generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            generators.append(torch.cuda.default_generators[device.index or 0])
        self._generators = generators

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def seed(self, number: int) -> None:
        """Seeds what dropout draws from, on the host and on this rank's device."""
        for generator in self._generators:
            generator.manual_seed(number)


class GradientSum:
    """Sums gradients over all ranks, bucket by bucket, while the backward pass goes on.

    As DistributedDataParallel does, but that one divides by the number of ranks, where the step
    divides by the weight of all of them; and it lays its buckets out anew after the first step. The
    order of a sum depends on the place in a bucket, so a resumed run of four ranks had other bits
    than one that went on (torch 2.13, gloo). Here the places are the parameters' own, for ever.

    Args:
        params: all parameters, in the order of the module.
        ranks: who takes part; a single one adds nothing.
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
        """Around a backward pass; of several that add up, the `last` one's end is waited for."""
        self._active = last
        self._missing = [len(bucket) for bucket in self._buckets]
        yield
        if last:
            self._finish()

    def _arrived(self, number: int) -> None:
        """One more gradient of a bucket is whole. Buckets go in their order, the same on all."""
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
        while len(self._works) < len(self._buckets):  # of parameters that had no part in the loss
            self._send()
        for bucket, (flat, work) in zip(self._buckets, self._works, strict=True):
            work.wait()
            sizes = [param.numel() for param in bucket]
            for param, total in zip(bucket, flat.split(sizes), strict=True):
                gradient_of(param).copy_(total.view_as(param))
        self._works, self._active = [], False


def _buckets(params: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters of one dtype and some megabytes together; the last first, as gradients come."""
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
    """A parameter that had no part in the loss has a gradient of zeros, and decays all the same."""
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad
