"""The docs site builds without a warning, its reference is complete, its pictures are current."""

import html
import os
import re
import subprocess
import sys

import pytest
from support.runs import REPOSITORY

import aetheria
from aetheria import loops
from aetheria.cli.main import main

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
    assert all('role="dialog" aria-label="Search"' in page.read_text() for page in pages.values())
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


PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
MAX_PICTURE_BYTES = 150_000


def pictures_of(page):
    """The pictures of a page: the text that stands for it, and its file."""
    return [(alt, page.parent / link) for alt, link in PICTURE.findall(page.read_text())]


def faults_of(page):
    """What keeps a reader of a page from its pictures."""
    for alt, file in pictures_of(page):
        if len(alt.split()) < 4:
            yield f"{file.name}: the text {alt!r} does not say what is seen"
        if not file.is_file():
            yield f"{file.name}: not there"
        elif file.stat().st_size >= MAX_PICTURE_BYTES:
            yield f"{file.name}: too large"


def test_every_picture_is_there_is_small_and_has_a_text_in_its_place(tmp_path):
    pages = [REPOSITORY / "README.md", *DOCS.rglob("*.md")]
    assert [fault for page in pages for fault in faults_of(page)] == []
    used = {file.resolve() for page in pages for _, file in pictures_of(page)}
    assert {*(DOCS / "images").iterdir()} <= used
    (tmp_path / "large.svg").write_bytes(bytes(MAX_PICTURE_BYTES))  # the control
    (tmp_path / "page.md").write_text("![](large.svg) ![What a run shows at once](lost.svg)")
    assert [fault.partition(":")[0] for fault in faults_of(tmp_path / "page.md")] == [
        *("large.svg", "large.svg", "lost.svg")
    ]


def lines_of(picture):
    """The lines of a screenshot of a terminal."""
    text = (DOCS / "images" / f"{picture}.svg").read_text()
    heights = re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>([^<]*)</text>', text)
    lines = {}
    for height, part in heights:
        lines[height] = lines.get(height, "") + html.unescape(part).replace("\xa0", " ")
    return [line.rstrip() for line in lines.values()]


def rows_of(lines):
    """The names of a card's rows."""
    return [line[:17].strip() for line in lines if re.match(r"\w[\w ]{15} \S", line)]


def test_the_screenshots_of_a_terminal_are_current(tmp_path, monkeypatch, capsys):
    """If this fails, run `python scripts/take_screenshots.py`."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(REPOSITORY / "configs" / "mlp.py"), "--dry-run"]) == 0
    rows = rows_of(capsys.readouterr().out.splitlines())
    card = lines_of("card")
    assert "model" in rows and rows_of(card) == rows
    assert rows_of([line for line in card if "precision" not in line]) != rows  # the control
    shown, said = lines_of("first_run"), PAGE.read_text()
    evaluations = re.findall(r"^epoch \d+  step .*examples\)$", said, re.MULTILINE)
    assert len(evaluations) == 2 and {*evaluations} <= {*shown}


@pytest.mark.parametrize("picture", ["card", "bar", "first_run"])
def test_a_screenshot_of_a_terminal_loads_nothing_and_names_no_folder_of_its_machine(picture):
    text = (DOCS / "images" / f"{picture}.svg").read_text()
    assert lines_of(picture) and not re.search(r"@font-face|@import|url\((?!#)|<image", text)
    assert not re.search(r"(?<![\w.])/\w+/", " ".join(lines_of(picture)))
