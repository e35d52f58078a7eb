"""Hooks of MkDocs: pages made from code, files beside docs/ that pages link to, pictures in the
colours of the page.

A page links as GitHub wants it: `../helm/convserve/values.yaml` leaves docs/. In the site such a
file is a page below source/, so that no link leads out.
"""

import json
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# MkDocs loads this file by its path.
sys.path.insert(0, str(ROOT))

from scripts.reference import PAGES  # noqa: E402

# The folder of the site with files that lie beside docs/, and those that its navigation names.
_SOURCE = "source/"
_ALWAYS = ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]*)(#[^)\s]*)?\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.svg)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
# Files that a page may show, by the ends of their names.
_LANGUAGES = {
    ".yaml": "yaml", ".json": "json", ".py": "python", ".js": "javascript", ".mjs": "javascript",
    ".html": "html", ".sh": "bash", ".go": "go", ".java": "java", ".md": "",
}  # fmt: skip
_SVG = "http://www.w3.org/2000/svg"


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from code, and those of files beside docs/."""
    docs = Path(config.docs_dir)
    texts = {path: make() for path, make in PAGES.items()}
    texts |= {_page_of(path): _shown(path) for path in linked(docs, texts)}
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links that leave docs/ to their pages, and puts drawings into the page."""
    where, docs = page.file.src_uri, Path(config.docs_dir)
    turned = _outside_code(
        markdown, lambda part: _LINK.sub(lambda match: _turned(match, where), part)
    )
    return _PICTURE.sub(lambda match: drawing(match[1], docs / where / ".." / match[2]), turned)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Names the theme's dialog, which has no name, to those who hear the page."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, dialog + ' aria-label="Search"')


def linked(docs: Path, made: dict[str, str]) -> list[str]:
    """Paths below the checkout of the files and folders beside docs/ that pages link to, or that
    these link to.

    made: pages that lie in no file, by their path below docs/.
    """
    texts = {f"docs/{page.relative_to(docs)}": page.read_text() for page in docs.rglob("*.md")}
    texts |= {f"docs/{path}": text for path, text in made.items()}
    found: set[str] = set()
    new = set(_ALWAYS) | _targets(texts)
    while new := {path for path in new - found if (ROOT / path).exists()}:
        found |= new
        folders = {path for path in new if (ROOT / path).is_dir()}
        inside = {f"{folder}/{name}" for folder in folders for name in _names(ROOT / folder)}
        readmes = {f"{folder}/README.md" for folder in folders}
        pages = {path for path in new | readmes if path.endswith(".md") and (ROOT / path).exists()}
        new = inside | _targets({path: (ROOT / path).read_text() for path in pages})
    return sorted(found - {f"{path}/README.md" for path in found})


def _targets(texts: dict[str, str]) -> set[str]:
    """Paths beside docs/ that the links of texts lead to."""
    links = (
        _target(where, match[2])
        for where, text in texts.items()
        for match in _LINK.finditer(_FENCE.sub("", text))
    )
    return {path for path in links if path and path.partition("/")[0] not in ("docs", "..")}


def drawing(words: str, file: Path) -> str:
    """A picture as part of the page, where site.css gives it the colours that the reader chose, in
    place of its own style. `words` tell it to those who do not see it."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.parse(file.resolve()).getroot()
    for style in root.findall(f"{{{_SVG}}}style"):
        root.remove(style)
    root.attrib |= {"role": "img", "aria-label": words}
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<figure class="diagram">{" ".join(text.split())}</figure>'


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown, changed but for its blocks of code."""
    parts = _FENCE.split(markdown)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def _page_of(path: str) -> str:
    """The page of a file or folder beside docs/."""
    if not (ROOT / path).is_dir():
        return _SOURCE + path if path.endswith(".md") else f"{_SOURCE}{path}.md"
    return f"{_SOURCE}{path}/{'README' if (ROOT / path / 'README.md').exists() else 'index'}.md"


def _shown(path: str) -> str:
    """A file in Markdown, or a folder with its README.md and links to its files."""
    file = ROOT / path
    if file.is_dir():
        readme = file / "README.md"
        text = readme.read_text() if readme.exists() else f"# {path}/\n"
        return text + "\nFiles:\n\n" + "\n".join(f"- [{one}]({one})" for one in _names(file))
    if file.suffix == ".md":
        return file.read_text()
    if file.suffix == ".ipynb":
        cells = json.loads(file.read_text())["cells"]
        return "\n\n".join(_cell(cell["cell_type"], "".join(cell["source"])) for cell in cells)
    return f"# {path}\n\n````{_LANGUAGES.get(file.suffix, 'text')}\n{file.read_text()}\n````\n"


def _cell(kind: str, source: str) -> str:
    return source if kind == "markdown" else f"````python\n{source}\n````"


def _names(folder: Path) -> list[str]:
    """Files of a folder that have a page. Modules of a package, locks and README.md have none."""
    suffixes = set(_LANGUAGES) - ({".py"} if (folder / "__init__.py").exists() else set())
    names = sorted(one.name for one in folder.iterdir() if one.suffix in suffixes)
    return [name for name in names if name != "README.md" and "lock" not in name]


def _target(where: str, link: str) -> str:
    """The path below the checkout that a link of a file leads to; empty for a URL or an anchor."""
    if not link or link.startswith("/") or re.match(r"[a-z][a-z0-9+.-]*:", link):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(where), link))


def _turned(match: re.Match[str], where: str) -> str:
    """A link as the site has it; `where` is the page below docs/."""
    text, link, anchor = match[1], match[2], match[3] or ""
    home = where.removeprefix(_SOURCE) if where.startswith(_SOURCE) else f"docs/{where}"
    target = _target(home, link)
    if not target:
        return match[0]
    page = target[5:] if target.startswith("docs/") else _page_of(target)
    return f"{text}({posixpath.relpath(page, posixpath.dirname(where) or '.')}{anchor})"
