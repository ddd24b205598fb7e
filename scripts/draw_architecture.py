"""Draws docs/architecture.svg from the imports in aetheria/; reads the source, imports none of it.

    python scripts/draw_architecture.py             # writes the picture
    python scripts/draw_architecture.py --check     # exits with 1 if the picture is not current
    python scripts/draw_architecture.py --list      # prints every import between two rooms

The rooms stand in rows. An arrow goes from a room to one that it imports, and only downwards: an
import that goes up or sideways is an error. An arrow that a chain of others implies is left out.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURE = REPOSITORY / "docs" / "architecture.svg"

INTERFACES = "engine.interfaces"
# What the engine needs of the other rooms is declared in these modules, and implemented there.
_INTERFACE_MODULES = (
    "aetheria.engine.interfaces",
    "aetheria.engine.stop",
    "aetheria.engine.heartbeat",
    "aetheria.engine.record",
    "aetheria.engine.record_0_1_0",
    "aetheria.engine.typed_json",
)
_FRONT_DOORS = ("aetheria", "api", "loops", "main", "__main__", "predict", "pytorch")
_VOCABULARY = ("events", "errors")
_PEERS = {"cli", "tools"}  # the command line lists the tools' commands; they share its options

Edges = dict[str, set[str]]


@dataclass(frozen=True)
class Room:
    """A box of the picture: its name, what it is for, and where it stands."""

    name: str
    text: str
    row: int
    left: int
    width: int


ROOMS = (
    Room("front doors", "main, api, loops, predict, pytorch", 0, 330, 300),
    Room("cli", "arguments become a command", 1, 200, 220),
    Room("tools", "prove, parity, plan, nan, …", 1, 540, 220),
    Room("training", "one run, from request to summary", 2, 250, 240),
    Room("inference", "weights that predict", 2, 540, 220),
    Room("build", "composition root: concrete classes", 3, 350, 260),
    Room("hardware/jax", "compiled program", 4, 30, 150),
    Room("hardware/torch", "PyTorch program", 4, 190, 150),
    Room("snapshots", "verified checkpoints", 4, 372, 150),
    Room("observe", "events to listeners", 4, 532, 140),
    Room("data", "order, global batches", 4, 682, 140),
    Room("engine", "the training loop", 4, 832, 140),
    Room("hardware/layout", "leaves of a state", 5, 30, 150),
    Room("hardware/processes", "launch, stop, signals", 5, 190, 150),
    Room(INTERFACES, "what the engine needs: interfaces, record, stop, heartbeat", 6, 572, 400),
    Room("model", "for researchers", 6, 335, 135),
    Room("plugins", "names become objects", 7, 200, 340),
    Room("config", "one schema, two spellings", 8, 200, 340),
    Room("vocabulary", "events, errors", 9, 200, 772),
)
_BY_NAME = {room.name: room for room in ROOMS}


def room_of(module: str) -> str:
    """The room that a module belongs to.

    >>> room_of("aetheria.hardware.jax.cpu.memory"), room_of("aetheria.errors")
    ('hardware/jax', 'vocabulary')
    """
    if module in _INTERFACE_MODULES:
        return INTERFACES
    first, *rest = module.removeprefix("aetheria.").split(".")
    if first in _FRONT_DOORS:
        return "front doors"
    if first in _VOCABULARY:
        return "vocabulary"
    if first == "hardware":
        # A module of no folder, such as `virtual_devices`, belongs to the backend that needs it.
        folder = rest[0] if rest and f"hardware/{rest[0]}" in _BY_NAME else "jax"
        return f"hardware/{folder}"
    return first


def read_edges(package: Path) -> Edges:
    """Room -> the rooms it imports, of every module under `package`, the folder `aetheria/`.

    Raises:
        ValueError: a module belongs to no room of the picture.
    """
    files = {_module_of(file, package): file for file in sorted(package.rglob("*.py"))}
    edges: Edges = {room.name: set() for room in ROOMS}
    for module, file in files.items():
        source = room_of(module)
        if source not in edges:
            raise ValueError(f"{module}: no room of the picture; add it to ROOMS")
        for imported in _imports(file, module, files):
            target = room_of(imported)
            if target != source and not {source, target} <= _PEERS:
                edges[source].add(target)
    return edges


def _module_of(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, module: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, inside functions too; not those that only a
    type checker sees.
    """
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: imports are absolute"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [part if part in known else node.module for part in parts]
        # `import aetheria` and `from aetheria import Model` are for users and for the version.
        yield from (name for name in names if name in known and name != "aetheria")


def check_downwards(edges: Edges) -> None:
    """Raises ValueError, naming the rooms, if an import does not go down a row."""
    for source, targets in edges.items():
        for target in sorted(targets):
            if _BY_NAME[target].row <= _BY_NAME[source].row:
                raise ValueError(f"{source} imports {target}, which does not stand below it")


def reduce_edges(edges: Edges) -> Edges:
    """Leaves out every edge that a longer chain implies."""
    return {
        source: {
            target
            for target in targets
            if not any(_reaches(edges, other, target) for other in targets - {target})
        }
        for source, targets in edges.items()
    }


def _reaches(edges: Edges, source: str, target: str) -> bool:
    return source == target or any(_reaches(edges, other, target) for other in edges[source])


_WIDTH, _HEIGHT, _TOP, _BOX = 1000, 880, 50, 48
_ROW_TOPS = (0, 84, 168, 252, 356, 440, 524, 608, 692, 762)
_CAPTION = (
    "An arrow means “imports”. All arrows point down; an arrow that a chain of others implies is "
    "left out. Dashed: only what the engine declares."
)
_STYLE = """\
text { font-family: Helvetica, Arial, sans-serif; text-anchor: middle; fill: #1f2937 }
.name { font-size: 15px; font-weight: bold } .text { font-size: 11.5px; fill: #4b5563 }
.note { font-size: 12px; fill: #6b7280; text-anchor: start }
.box { fill: #eef2ff; stroke: #4f46e5; stroke-width: 1.3 }
.inner { fill: #ecfdf5; stroke: #059669 } .asked { fill: #ffffff; stroke-dasharray: 5 3 }
.group { fill: #f9fafb; stroke: #9ca3af; stroke-dasharray: 2 3 }
.arrow { stroke: #374151; stroke-width: 1.2; fill: none; marker-end: url(#tip) }
.dashed { stroke: #9ca3af; stroke-dasharray: 5 4 }
"""


def draw(edges: Edges) -> str:
    """The picture as the text of an SVG file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f"<style>\n{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#374151"/></marker>',
        "</defs>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text class="note" x="20" y="24">{escape(_CAPTION)}</text>',
        *_group("command line", ("cli", "tools")),
        *_group("hardware", ("hardware/jax", "hardware/torch", "hardware/layout")),
    ]
    for source, targets in reduce_edges(edges).items():
        parts += [_arrow(_BY_NAME[source], _BY_NAME[name]) for name in sorted(targets)]
    parts += [line for room in ROOMS for line in _box(room)]
    return "\n".join([*parts, "</svg>", ""])


def _top(room: Room) -> int:
    return _TOP + _ROW_TOPS[room.row]


def _box(room: Room) -> Sequence[str]:
    kind = "box asked" if room.name == INTERFACES else "box"
    kind = "box inner" if room.name.startswith("hardware/") else kind
    middle, top = room.left + room.width / 2, _top(room)
    return (
        f'<rect class="{kind}" x="{room.left}" y="{top}" width="{room.width}" height="{_BOX}" '
        'rx="6"/>',
        f'<text class="name" x="{middle:g}" y="{top + 20}">{escape(_label(room))}</text>',
        f'<text class="text" x="{middle:g}" y="{top + 37}">{escape(room.text)}</text>',
    )


def _label(room: Room) -> str:
    return room.name.removeprefix("hardware/")


def _group(label: str, names: Sequence[str]) -> Sequence[str]:
    rooms = [_BY_NAME[name] for name in names]
    left, top = min(room.left for room in rooms) - 12, min(map(_top, rooms)) - 26
    right = max(room.left + room.width for room in rooms) + 12
    bottom = max(map(_top, rooms)) + _BOX + 12
    return (
        f'<rect class="group" x="{left}" y="{top}" width="{right - left}" '
        f'height="{bottom - top}" rx="8"/>',
        f'<text class="note" x="{left + 8}" y="{top + 17}">{escape(label)}</text>',
    )


def _arrow(source: Room, target: Room) -> str:
    """A straight line from the bottom of one box to the top of another, ends apart from others."""
    shift = (target.left + target.width / 2) - (source.left + source.width / 2)
    start = source.left + source.width / 2 + max(-0.3, min(0.3, shift / 900)) * source.width
    end = target.left + target.width / 2 - max(-0.35, min(0.35, shift / 900)) * target.width
    kind = "arrow dashed" if target.name == INTERFACES else "arrow"
    return (
        f'<path class="{kind}" d="M{start:.0f} {_top(source) + _BOX} L{end:.0f} {_top(target)}"/>'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the imports, then writes, checks or lists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    parser.add_argument("--list", action="store_true", help="print the imports between rooms")
    options = parser.parse_args(argv)
    edges = read_edges(REPOSITORY / "aetheria")
    if options.list:
        for source, targets in edges.items():
            print(f"{source}: {', '.join(sorted(targets))}")
        return 0
    check_downwards(edges)
    picture = draw(edges)
    if options.check:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == picture
        print(f"{PICTURE.relative_to(REPOSITORY)}: {'current' if current else 'not current'}")
        return int(not current)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
