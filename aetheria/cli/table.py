"""A table of text on the terminal."""

from collections.abc import Iterable, Sequence


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> None:
    """Prints rows under their headers; the columns in `right` are flushed right."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True, justify="right" if header in right else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False, width=120).print(table)
