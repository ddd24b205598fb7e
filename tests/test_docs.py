"""README and docs are true: their code blocks run, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    ["README.md"],
    ["docs/config.md", "docs/architecture.md", "docs/benchmarks.md", "docs/glossary.md"],
    ["docs/plan.md"],
    ["docs/pytorch.md"],
]


def run_blocks(text: str, folder: Path) -> int:
    """Writes the blocks that name a file and runs the others; returns how many there were."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "REPOSITORY": str(REPOSITORY),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    count = 0
    for language, file, code in BLOCK.findall(text):
        if file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(code)
        elif language in ("bash", "python"):
            command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        count += 1
    return count


@pytest.mark.slow
@pytest.mark.parametrize("pages", PAGES, ids="+".join)
def test_code_blocks_of_the_docs_run(pages, tmp_path):
    if pages == ["docs/pytorch.md"]:
        pytest.importorskip("torch")
    text = "".join((REPOSITORY / page).read_text() for page in pages)
    assert run_blocks(text, tmp_path) >= 3


def test_a_code_block_that_is_wrong_is_found(tmp_path):
    with pytest.raises(AssertionError, match="no_such_name"):
        run_blocks("```python\nno_such_name\n```\n", tmp_path)


def test_every_page_is_tested_and_every_link_leads_somewhere():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    tested = {REPOSITORY / page for group in PAGES for page in group}
    assert set(pages) == tested
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_config_key_is_documented():
    from dataclasses import fields

    from aetheria.config import Config, SnapshotConfig

    text = (REPOSITORY / "docs" / "config.md").read_text()
    keys = [item.name for item in fields(Config) if item.name != "snapshot"]
    keys += [f"snapshot.{item.name}" for item in fields(SnapshotConfig)]
    assert [key for key in keys if f"| `{key}` |" not in text] == []
