"""HTML from Python values. A text becomes markup only through `tag`, which escapes it: a name, a
config or an event that holds markup is shown as it is written.
"""

import html
from collections.abc import Iterable, Mapping, Sequence

NUM_COLORS = 8  # that report.css defines for each of the two color schemes


class Safe(str):
    """Markup, with everything in it escaped."""

    __slots__ = ()


def tag(element: str, *children: str, **attributes: str | int | None) -> Safe:
    """An element; texts among its children are escaped, and `Safe` ones are not.

    Args:
        element: its name.
        *children: what it holds.
        **attributes: a trailing underscore is dropped, another stands for a hyphen; None: absent.

    >>> tag("p", "a < b", tag("b", "!"), class_="note", aria_label='"x"')
    '<p class="note" aria-label="&quot;x&quot;">a &lt; b<b>!</b></p>'
    """
    return Safe(f"<{element}{_named(attributes)}>{join(children)}</{element}>")


def void(element: str, **attributes: str | int | None) -> Safe:
    """An element that holds nothing and has no end, such as `img`; attributes as of `tag`.

    >>> void("img", alt='a "b"')
    '<img alt="a &quot;b&quot;">'
    """
    return Safe(f"<{element}{_named(attributes)}>")


def join(parts: Iterable[str]) -> Safe:
    """Markup of several parts; texts among them are escaped."""
    return Safe("".join(part if isinstance(part, Safe) else html.escape(part) for part in parts))


def table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Safe:
    """A table in a box of its own that scrolls sideways, by the keyboard too.

    Args:
        caption: what it shows; no two tables of a page have the same.
        headers: of the columns.
        rows: the first cell of each names the row.
    """
    head = tag("tr", *(tag("th", header, scope="col") for header in headers))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    content = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", content, class_="scroll", role="region", aria_label=caption, tabindex=0)


def details(summary: str, *children: str) -> Safe:
    """Something that is shown when its summary is opened."""
    return tag("details", tag("summary", summary), *children)


def swatch(index: int, dash: str = "") -> Safe:
    """A sample of a curve's line: its color and its dashes. Text beside it says the same."""
    line = tag("line", x1=0, y1=5, x2=28, y2=5, stroke_dasharray=dash or None)
    return tag("svg", line, class_=f"swatch c{index % NUM_COLORS}", aria_hidden="true")


def _named(attributes: Mapping[str, str | int | None]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
