"""The card that a run shows as it starts: what trains, on what, and where it writes."""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aetheria.build import Run, is_elastic
from aetheria.config import Config
from aetheria.config.precision_policy import parse_policy
from aetheria.engine.interfaces import ArraySpec
from aetheria.snapshots.sizes import size_text

_NAME_WIDTH = 17  # of the column of names, the space after them included
_NARROW = 60  # columns of a terminal; with fewer there is no column of names
_MOST_LAYERS = 8  # on the card; --verbose lists every parameter


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person wants to know of a run that starts.

    Attributes:
        run: the run, made and checked.
        devices: a line for each process, or for the only one.
    """

    run: Run
    devices: Sequence[str]

    @property
    def config(self) -> Config:
        """The config of the run."""
        return self.run.config

    def rows(self, *, verbose: bool = False) -> Iterator[tuple[str, str]]:
        """Yields names and texts. A row without a name belongs to the one above.

        Args:
            verbose: name every parameter, with its shape and dtype.
        """
        params, config, schedule = self.run.program.params, self.config, self.run.schedule
        yield (
            "model",
            f"{config.model_name}, {count_params(params):,} parameters: {_layers_text(params)}",
        )
        if verbose:
            for path, spec in params.items():
                yield "", f"{path}  {spec.dtype} {[*spec.shape]}  {math.prod(spec.shape):,}"
        for number, line in enumerate(self.devices):
            yield "" if number else "devices", line
        axes = {name: size for name, size in self.run.axes.items() if size > 1}
        yield "mesh", " x ".join(f"{name}={n}" for name, n in axes.items()) or "1 device"
        yield "precision", _precision_text(config.mixed_precision)
        yield "global batch", f"{schedule.batch_size:,} examples, {self._slices_text()}"
        every = config.spot_check_every
        checks = f", a spot check every {every:,} steps" if every else ""
        yield "reproducibility", f"{config.reproducibility}, seed {config.seed}{checks}"
        yield "data", f"{config.data_name}, {', '.join(self._sizes())}; {self._columns_text()}"
        yield (
            "length",
            f"{schedule.total_steps:,} steps, {schedule.steps_per_epoch:,} an epoch",
        )
        yield (
            "writes",
            f"{', '.join(_names(config.loggers)) or 'no log'}; a snapshot takes "
            f"{size_text(self.run.program.state_bytes)}",
        )

    @property
    def num_slices(self) -> int:
        """Micro-batches, or lanes, of a global batch."""
        return self.config.lanes if is_elastic(self.config) else self.config.grad_accumulation_steps

    def _slices_text(self) -> str:
        size = self.run.schedule.batch_size // self.num_slices
        kind, several = ("lane", "s") if is_elastic(self.config) else ("micro-batch", "es")
        ending = "" if self.num_slices == 1 else several
        return f"{self.num_slices} {kind}{ending} of {size:,}"

    def num_examples(self) -> dict[str, int]:
        """Split -> its number of examples."""
        provenance = self.run.record.provenance
        if provenance is None:
            return {"train": self.run.schedule.num_train_examples}
        return {name: split.num_examples for name, split in provenance.data.items()}

    def _sizes(self) -> Iterator[str]:
        for name, size in self.num_examples().items():
            yield f"{name} {size:,}"

    def _columns_text(self) -> str:
        return ", ".join(
            f"{name} {column['dtype']} {column['shape']}"
            for name, column in self.run.record.example_spec.items()
            if isinstance(column, dict) and name != "mask"
        )


def card_lines(rows: Iterator[tuple[str, str]], width: int | None = None) -> Iterator[str]:
    """Lays rows out in two columns.

    Args:
        rows: names and texts.
        width: the columns of the terminal, where lines are broken; None: they are not.

    >>> list(card_lines(iter([("mesh", "data=2"), ("", "more")])))
    ['mesh             data=2', '                 more']
    >>> list(card_lines(iter([("mesh", "data=2 x fsdp=2")]), width=16))
    ['mesh: data=2 x', '  fsdp=2']
    """
    for name, text in rows:
        if width is None or width >= _NARROW:
            first, indent = f"{name:<{_NAME_WIDTH}}", " " * _NAME_WIDTH
        else:
            first, indent = f"{name}: " if name else "  ", "  "
        if width is None:
            yield first + text
        else:
            yield from textwrap.wrap(
                text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
            )


def _names(items: Sequence[Any]) -> list[str]:
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def count_params(params: Mapping[str, ArraySpec]) -> int:
    """Counts the numbers in all parameters."""
    return sum(math.prod(spec.shape) for spec in params.values())


def count_by_layer(params: Mapping[str, ArraySpec]) -> dict[str, int]:
    """Counts the parameters of each layer at the top."""
    layers: dict[str, int] = {}
    for path, spec in params.items():
        name = path.partition("/")[0] or "params"  # a single array has no path
        layers[name] = layers.get(name, 0) + math.prod(spec.shape)
    return layers


def _layers_text(params: Mapping[str, ArraySpec]) -> str:
    """The layers and their parameters; those that differ by a number alone are one entry.

    >>> shape = lambda *sizes: ArraySpec(sizes, "float32")
    >>> _layers_text({"block_0/w": shape(9), "block_1/w": shape(9), "head/w": shape(2, 5)})
    'block_* 2 x 9, head 10'
    """
    alike: dict[tuple[str, int], list[str]] = {}
    for name, count in count_by_layer(params).items():
        alike.setdefault((re.sub(r"\d+", "*", name), count), []).append(name)
    texts = [
        f"{names[0]} {count:,}" if len(names) == 1 else f"{stem} {len(names)} x {count:,}"
        for (stem, count), names in alike.items()
    ]
    more = len(texts) - _MOST_LAYERS
    return ", ".join([*texts[:_MOST_LAYERS], *([f"{more} more"] if more > 0 else [])])


def _precision_text(mixed_precision: bool | str) -> str:
    """A dtype, or what has which.

    >>> _precision_text(True)
    'params float32, compute bfloat16, output float32'
    """
    policy = parse_policy(mixed_precision)
    if len(dtypes := set(policy.values())) == 1:
        return dtypes.pop()
    return ", ".join(f"{part} {dtype}" for part, dtype in policy.items())
