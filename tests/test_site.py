"""The docs site builds without a warning, its reference is complete, its pictures are current."""

import os
import re
import subprocess
import sys

import pytest
from support.runs import REPOSITORY

import aetheria
from aetheria import loops

sys.path.append(str(REPOSITORY / "scripts"))

from draw_tutorial import CURVES, PAGE, RINGS, blocks_digest

DOCS = REPOSITORY / "docs"
# What a browser would load when it shows a page; a link is loaded only when somebody follows it.
LOADS = re.compile(r"""(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)=["']?https?:|@import""")


def build(*arguments):
    """Builds the site with warnings as errors and without a network."""
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    done = build("--site-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {page.parent.relative_to(tmp_path): page for page in tmp_path.rglob("index.html")}
    sources = [path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")]
    assert {path for path in sources if path.name != "index"} <= set(pages)
    assert not [page for page in pages.values() if LOADS.search(page.read_text())]
    ids = "".join(page.read_text() for page in (tmp_path / "reference").rglob("index.html"))
    public = [*aetheria.__all__, *(f"loops.{name}" for name in loops.__all__)]
    assert [name for name in public if f'id="aetheria.{name}"' not in ids] == []
    guide = (tmp_path / "how-to" / "model" / "index.html").read_text()
    assert '<span class="filename">models/small.py</span>' in guide


@pytest.mark.slow
def test_a_broken_link_and_a_page_without_an_entry_fail_the_build(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[a](lost.md) [b](#lost)\n")
    (tmp_path / "docs" / "extra.md").write_text("# Nobody leads here\n")
    config = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:")[0]
    config = config.replace("scripts/site/hooks.py", str(REPOSITORY / "scripts/site/hooks.py"))
    (tmp_path / "mkdocs.yml").write_text(f"{config}\nnav: [index.md]\n")
    done = build("--config-file", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site")
    assert done.returncode != 0
    for warning in ("'lost.md'", "'#lost'", "extra.md"):
        assert warning in done.stderr


def test_the_reference_has_every_public_name_once():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    names = re.findall(r"^::: aetheria\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted([*aetheria.__all__, "loops", "predict"])


@pytest.mark.parametrize("picture", [CURVES, RINGS], ids=lambda file: file.name)
def test_the_pictures_are_drawn_from_the_page_as_it_is(picture):
    """If this fails, run `python scripts/draw_tutorial.py`."""
    text = PAGE.read_text()
    drawn = picture.read_bytes()
    assert len(drawn) < 60_000
    assert blocks_digest(text).encode() in drawn
    other = text.replace("learning_rate: 0.003", "learning_rate: 0.3")
    assert other != text
    assert blocks_digest(other).encode() not in drawn
