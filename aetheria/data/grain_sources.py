"""Sources of Grain by config: any random-access source by import path, or ArrayRecord files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aetheria.data.error_context import needs_package
from aetheria.data.forms import EVAL_FRACTION, as_source, hold_out
from aetheria.data.sources import DataSplits, Source
from aetheria.errors import AetheriaError, shown, summary_of
from aetheria.plugins import register_data
from aetheria.plugins.arguments import call_with
from aetheria.plugins.parts import import_part

_PACKAGES = ("grain", "aetheria")  # what a file imports that makes sources
_MAX_EXAMPLES = 2**40  # more is the length of a dataset that repeats without end


class _Decoded(Sequence[Any]):
    """The records of a source, each as `decode` returns it."""

    def __init__(self, records: Any, decode: Callable[[Any], Any]):
        self._records, self._decode = records, decode

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return self._decode(self._records[index])


@register_data("grain")
def grain(
    *,
    source: str | None = None,
    args: dict[str, Any] | None = None,
    eval_args: dict[str, Any] | None = None,
    test_args: dict[str, Any] | None = None,
    files: Any = None,
    eval_files: Any = None,
    test_files: Any = None,
    decode: str | None = None,
    eval_fraction: float = EVAL_FRACTION,
) -> DataSplits:
    """A random-access source of Grain, or any other with a length and an index.

    An example is a mapping of columns, or a pair (inputs, labels). What `source` and `decode` name
    is code: it lies in a file that imports grain or aetheria.

    Args:
        source: the import path of a function or class that makes the source.
        args: its arguments for the training split.
        eval_args: its arguments for the evaluation split, or several by name, such as `{val:
            {split: val}, ood: {split: ood}}`; None: `eval_fraction` of the examples is held out.
        test_args: its arguments for the test split; None: there is none.
        files: in place of `source`, an ArrayRecord file or a list of them.
        eval_files: as `files`, to evaluate on, or several by name.
        test_files: as `files`, to evaluate once, when the run completes.
        decode: the import path of a function that makes an example of a record: of the bytes in an
            ArrayRecord file.
        eval_fraction: see `eval_args`.

    Raises:
        AetheriaError: an import path leads to something else, a file cannot be read, or what was
            made is no random-access source.
    """
    if (source is None) == (files is None):
        got = "neither" if source is None else "both"
        raise AetheriaError(
            f"data_params: expected source (an import path) or files (ArrayRecord), got {got}; "
            "give one"
        )
    if files is not None and decode is None:
        raise AetheriaError(
            "data_params.decode: expected a function that makes an example of the bytes of a "
            "record, got none; give its import path, pkg.mod:name"
        )
    transform = None if decode is None else import_part("data_params.decode", decode, _PACKAGES)
    if source is not None:
        make = import_part("data_params.source", source, _PACKAGES)
        kind, open_records = "args", lambda given, where: call_with(make, where, given)
        given = {"train": args or {}, "eval": eval_args, "test": test_args}
        several = bool(eval_args) and all(isinstance(v, Mapping) for v in eval_args.values())
    else:
        kind, open_records = "files", _open_files
        given = {"train": files, "eval": eval_files, "test": test_files}
        several = isinstance(eval_files, Mapping)

    def read(chosen: Any, where: str) -> Source:
        return _as_source(open_records(chosen, where), where, transform)

    train = read(given["train"], f"data_params.{kind}")
    where = f"data_params.eval_{kind}"
    if given["eval"] is None:
        splits = hold_out(train, eval_fraction)
    elif several:
        held_out = {n: read(each, f"{where}.{n}") for n, each in given["eval"].items()}
        splits = DataSplits(train, held_out)
    else:
        splits = DataSplits(train, read(given["eval"], where))
    if given["test"] is None:
        return splits
    return replace(splits, test=read(given["test"], f"data_params.test_{kind}"))


def _as_source(records: Any, where: str, decode: Callable[[Any], Any] | None) -> Source:
    if not hasattr(records, "__getitem__") or not hasattr(records, "__len__"):
        raise AetheriaError(
            f"{where}: expected a source with a length and an index, got a "
            f"{type(records).__name__}; return a random-access source, such as grain.MapDataset"
        )
    if len(records) > _MAX_EXAMPLES:
        raise AetheriaError(
            f"{where}: expected a source of one epoch, got one that repeats without end; leave "
            "repeat() out, the key epochs does that"
        )
    if decode is not None:
        records = _Decoded(records, decode)
    first = records[0] if len(records) else {}
    if not isinstance(first, Mapping | tuple):
        raise AetheriaError(
            f"{where}: expected examples that are mappings of columns or pairs (inputs, labels), "
            f"got a {type(first).__name__}; make one of it in data_params.decode"
        )
    if isinstance(first, tuple) and isinstance(records, list):
        records = _Decoded(records, lambda pair: pair)  # a list may as well be two datasets
    return as_source(records, where, "grain")


def _open_files(given: Any, where: str) -> Any:
    """Opens ArrayRecord files as one source of bytes."""
    names = [given] if isinstance(given, str | Path) else given
    if not isinstance(names, list | tuple) or not names:
        raise AetheriaError(
            f"{where}: expected an ArrayRecord file or a list of them, got {shown(given)}; give "
            "their paths"
        )
    paths = [Path(str(name)).expanduser() for name in names]
    for path in paths:
        if not path.is_file():
            raise AetheriaError(
                f"{where}: expected an ArrayRecord file, got {str(path)!r}, which is none; check "
                "the path"
            )
    with needs_package(where, "grain", "to read ArrayRecord files"):
        from grain.sources import ArrayRecordDataSource
    try:
        records: Any = ArrayRecordDataSource([str(path) for path in paths])
        len(records)  # reads how the files end
        return records
    except Exception as error:  # the reader raises errors of several types for a damaged file
        raise AetheriaError(
            f"{where}: expected ArrayRecord files, got {summary_of(error)}; write them again"
        ) from error
