"""Counts how many annotated parameters of the functions in a folder are annotated with `Any`.

    python scripts/count_any.py aetheria/model

A parameter counts whose annotation contains `Any` anywhere, as in `Mapping[str, Any]`.
"""

import ast
import sys
from pathlib import Path


def count_any(folder: Path) -> tuple[int, int]:
    """Returns the number of parameters with `Any`, and of all annotated parameters."""
    found = total = 0
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg) and node.annotation is not None:
                total += 1
                found += any(_is_any(part) for part in ast.walk(node.annotation))
    return found, total


def _is_any(node: ast.AST) -> bool:
    named = isinstance(node, ast.Name) and node.id == "Any"
    quoted = isinstance(node, ast.Constant) and node.value == "Any"
    return named or quoted or (isinstance(node, ast.Attribute) and node.attr == "Any")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found, total = count_any(Path(name))
        print(f"{name}: {found} of {total} annotated parameters ({found / max(total, 1):.0%})")
