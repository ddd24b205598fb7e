"""README and docs are true: their code blocks run, in order, in an empty folder, and print what
the pages say (`scripts/page_blocks.py`).

By default each block is only parsed: Python and configs by their parsers, shell by bash, and each
`aetheria` command by the command line's own parser, which knows every option.
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import metadata

import pytest
import yaml
from support.long import only_long
from support.runs import REPOSITORY

from aetheria.cli.parser import parse
from aetheria.errors import AetheriaError

sys.path.append(str(REPOSITORY / "scripts"))

from page_blocks import BLOCK, run_blocks

PAGES = [
    ["README.md"],
    ["docs/tutorial.md"],
    ["docs/how-to/python.md", "docs/how-to/data.md"],
    ["docs/how-to/model.md", "docs/how-to/metric.md", "docs/how-to/listeners.md"],
    ["docs/how-to/loggers.md", "docs/how-to/fine_tuning.md", "docs/how-to/stop_and_resume.md"],
    ["docs/how-to/devices.md", "docs/how-to/nonfinite.md"],
    ["docs/config.md", "docs/cli.md", "docs/architecture.md"],
    ["docs/benchmarks.md", "docs/glossary.md", "docs/reports.md"],
    ["docs/plan.md"],
    ["docs/pytorch.md"],
    ["docs/how-to/own_loop.md"],
    ["docs/how-to/serve.md"],
    ["docs/how-to/generate.md"],
    ["docs/how-to/export.md"],
    ["docs/how-to/predict.md"],
    ["docs/how-to/terminal.md"],
    ["docs/how-to/report.md"],
    ["docs/how-to/compare.md"],
    ["docs/how-to/check.md"],
    ["docs/how-to/replay.md"],
    ["docs/how-to/sweep.md"],
    ["docs/how-to/callbacks.md"],
    ["docs/how-to/trust.md"],
]


# Pages without a block that runs.
PROSE = ["docs/index.md", "docs/install.md", "docs/run_folder.md"]
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


def test_an_output_that_is_not_printed_is_found(tmp_path):
    page = "```bash\necho loss 0.25\n```\n\n```text output\n{}\n```\n"
    assert run_blocks(page.format("loss 0.5"), tmp_path) == 2
    (tmp_path / "configs").unlink()
    with pytest.raises(AssertionError, match=r"the page says 'accuracy 0\.25'"):
        run_blocks(page.format("accuracy 0.25"), tmp_path)


def test_a_code_block_that_is_wrong_is_found(tmp_path):
    with pytest.raises(AssertionError, match="no_such_name"):
        run_blocks("```python\nno_such_name\n```\n", tmp_path)


def test_every_page_is_tested_and_every_link_leads_somewhere():
    docs = REPOSITORY / "docs"
    guides = {*docs.glob("*.md"), *docs.glob("how-to/*.md"), REPOSITORY / "README.md"}
    tested = {REPOSITORY / page for group in [*PAGES, PROSE] for page in group}
    assert guides == tested
    for page in {*guides, *docs.glob("*/*.md")}:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_a_page_of_prose_has_no_block_that_runs():
    languages = {language for language, _, _ in BLOCK.findall(text_of(PROSE))}
    assert languages <= {"console", "text"}


def test_the_extras_to_install_exist():
    text = (REPOSITORY / "docs" / "install.md").read_text()
    of_jax = set(re.findall(r"jax\[([\w-]+)\]", text))
    provided = set(metadata("jax").get_all("Provides-Extra") or ())
    assert {"cuda12", "cuda13", "tpu"} <= of_jax <= provided
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])


def test_every_config_key_is_documented():
    from aetheria.config.schema import keys

    text = (REPOSITORY / "docs" / "config.md").read_text()
    assert [key for key in keys() if f"| `{key}` |" not in text] == []
