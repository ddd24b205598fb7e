"""README and docs are true: their code blocks run, in order, in an empty folder.

By default each block is only parsed: Python and configs by their parsers, shell by bash, and each
`aetheria` command by the command line's own parser, which knows every option.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from support.long import only_long
from support.runs import REPOSITORY

from aetheria.cli.parser import parse
from aetheria.errors import AetheriaError

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    ["README.md"],
    ["docs/config.md", "docs/cli.md", "docs/architecture.md"],
    ["docs/benchmarks.md", "docs/glossary.md"],
    ["docs/plan.md"],
    ["docs/pytorch.md"],
    ["docs/how-to/own_loop.md"],
]


# A proof leaves nothing behind, and runs on the first page that shows it.
PROOF = re.compile(r"^aetheria (prove|parity) ")


def text_of(pages: list[str]) -> str:
    return "".join((REPOSITORY / page).read_text() for page in pages)


def proofs_before(pages: list[str]) -> set[str]:
    """The blocks that earlier groups of pages have proven already."""
    earlier = "".join(text_of(group) for group in PAGES[: PAGES.index(pages)])
    return {code for _, _, code in BLOCK.findall(earlier) if PROOF.match(code)}


def check_syntax(language: str, file: str, code: str) -> None:
    """Parses a block; raises what its parser raises."""
    if language == "python":
        compile(code, file or "block", "exec")
    elif language == "yaml":
        yaml.safe_load(code)
    elif language == "json":
        json.loads(code)
    elif language == "bash":
        subprocess.run(["bash", "-n", "-c", code], check=True)
        for line in code.replace("\\\n", "").splitlines():
            command = re.split(r"\|\||&&|\s>|\s#", line)[0].strip()
            if command.startswith("aetheria "):
                parse(shlex.split(command)[1:])


def run_blocks(text: str, folder: Path, proven: Collection[str] = ()) -> int:
    """Writes the blocks that name a file and runs the others; returns how many there were."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    (folder / "configs").symlink_to(REPOSITORY / "configs")  # as in a clone
    count = 0
    for language, file, code in BLOCK.findall(text):
        if file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(code)
        elif language in ("bash", "python") and code not in proven:
            command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        count += 1
    return count


@only_long
@pytest.mark.slow
@pytest.mark.parametrize("pages", PAGES, ids="+".join)
def test_code_blocks_of_the_docs_run(pages, tmp_path):
    if pages == ["docs/pytorch.md"]:
        pytest.importorskip("torch")
    assert run_blocks(text_of(pages), tmp_path, proofs_before(pages)) >= 3


@pytest.mark.parametrize("page", [page for group in PAGES for page in group])
def test_code_blocks_of_the_docs_parse(page):
    for language, file, code in BLOCK.findall(text_of([page])):
        check_syntax(language, file, code)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import = 3"),
        ("yaml", "a: [1"),
        ("bash", "if true; then"),
        ("bash", "aetheria train config.yaml --no-such-option=3"),
        ("bash", "aetheria tarin config.yaml"),
    ],
)
def test_a_code_block_that_does_not_parse_is_found(language, code):
    with pytest.raises(
        (SyntaxError, yaml.YAMLError, subprocess.CalledProcessError, AetheriaError, SystemExit)
    ):
        check_syntax(language, "", code)


def test_a_code_block_that_is_wrong_is_found(tmp_path):
    with pytest.raises(AssertionError, match="no_such_name"):
        run_blocks("```python\nno_such_name\n```\n", tmp_path)


def test_every_page_is_tested_and_every_link_leads_somewhere():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    pages += (REPOSITORY / "docs" / "how-to").glob("*.md")
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
