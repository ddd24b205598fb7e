"""Draws the pictures of docs/tutorial.md, from the runs that the page describes.

    python scripts/draw_tutorial.py     # runs the page in a temporary folder; takes a minute

A picture says in its metadata which blocks it was drawn from, so that a test finds one that is out
of date. Needs the extra `plot`.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from page_blocks import BLOCK, REPOSITORY, run_blocks

PAGE = REPOSITORY / "docs" / "tutorial.md"
CURVES = REPOSITORY / "docs" / "images" / "digits.svg"
RINGS = REPOSITORY / "docs" / "images" / "rings.png"


def main() -> int:
    """Runs the page and draws; returns the exit code."""
    text = PAGE.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        run_blocks(text, Path(folder))
        os.chdir(folder)  # where the run folders and models/ are
        _draw_curves(Path("runs/digits/1"), blocks_digest(text))
        _draw_rings("rings@best", blocks_digest(text))
        os.chdir(REPOSITORY)
    return 0


def blocks_digest(text: str) -> str:
    """A digest of the files that a page's blocks write: configs, models and data."""
    files = [[file, code] for language, file, code in BLOCK.findall(text) if language != "text"]
    named = json.dumps([[file, code] for file, code in files if file])
    return hashlib.sha256(named.encode()).hexdigest()


def _draw_curves(run_dir: Path, digest: str) -> None:
    from matplotlib import rc_context

    from aetheria.observe.curves import draw_curves

    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    with rc_context({"svg.hashsalt": "aetheria", "svg.fonttype": "none"}):
        figure = draw_curves([json.loads(line) for line in lines], ["loss", "accuracy"])
        figure.savefig(CURVES, metadata={"Date": None, "Source": digest})


def _draw_rings(snapshot: str, digest: str) -> None:
    from aetheria import Predictor
    from aetheria.plugins import DATA

    predictor = Predictor(checkpoint_path=snapshot)
    columns = DATA.get("rings", Path.cwd())()
    edge = np.linspace(-3, 3, 201)
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    classes = predictor.predict_proba(grid).argmax(-1).reshape(len(edge), -1)
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.contourf(edge, edge, classes, levels=[-0.5, 0.5, 1.5, 2.5], cmap="Pastel1")
    points, labels = columns["inputs"][:600], columns["labels"][:600]
    axes.scatter(*points.T, c=labels, s=4, cmap="Set1", vmax=8)
    axes.set(xlim=(-3, 3), ylim=(-3, 3))
    figure.savefig(RINGS, dpi=80, metadata={"Source": digest})


if __name__ == "__main__":
    sys.exit(main())
