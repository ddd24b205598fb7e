"""What the docs site adds to MkDocs: a page serves GitHub, the tests and the site as it is.

- The pages in the root of the repository (CONTRIBUTING, …) are pages of the site.
- A link to a file of the repository that is no page leads to the repository.
- A code block that names its file has that name as its title.
- The search has a name for screen readers, which the theme leaves out.
- An entry `folder/*` of the navigation stands for the folder's pages that have no other entry.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)]*)?\)")
_FENCE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replaces the entries `folder/*` of the navigation."""
    docs, named = Path(config.docs_dir), {*_entries(config.nav)}
    config.nav = _expanded(config.nav, docs, named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages in the root of the repository."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Gives blocks their titles and links their targets."""
    source = page.file.src_uri
    folder = "" if source in ROOT_PAGES else posixpath.join("docs", posixpath.dirname(source))

    def relink(found: re.Match[str]) -> str:
        start, link, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(folder, link))
        if not (ROOT / target).exists():
            return found[0]  # the build reports it
        uri = posixpath.relpath(target, "docs") if target.startswith("docs/") else target
        if files.get_file_from_path(uri) is None:
            return f"{start}{config.extra['repository']}{target})"
        return f"{start}{posixpath.relpath(uri, posixpath.dirname(source) or '.')}{anchor})"

    return _LINK.sub(relink, _FENCE.sub(r'```\1 title="\2"', markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Names the search."""
    return _named_search(output)


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """Names the search of the page for wrong addresses."""
    return _named_search(output)


def _named_search(output: str) -> str:
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')


def _entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _entries(each)


def _expanded(nav: Any, docs: Path, named: set[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _expanded(each, docs, named) for title, each in nav.items()}
    if not isinstance(nav, list):
        return nav
    made = []
    for each in nav:
        if isinstance(each, str) and each.endswith("/*"):
            pages = sorted(docs.glob(f"{each}.md"))
            uris = [page.relative_to(docs).as_posix() for page in pages]
            made += [uri for uri in uris if uri not in named]
        else:
            made.append(_expanded(each, docs, named))
    return made
