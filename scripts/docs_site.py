"""Hooks of MkDocs: pages made from code, files beside docs/ that pages link to, pictures in the
colours of the page.

A page links as GitHub wants it: `../helm/convserve/values.yaml` leaves docs/. In the site such a file
is a page below source/, so that no link leads out.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# The hook is loaded by its path.
sys.path.insert(0, str(ROOT))

from scripts.reference import PAGES  # noqa: E402

SOURCE = "source"
"""The folder of the site with files that lie beside docs/."""

# A link or picture of Markdown: its text, target and anchor.
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]*)(#[^)\s]*)?\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.svg)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".yaml": "yaml", ".json": "json", ".py": "python", ".js": "javascript"}
_TUTORIALS = "tutorials/"


def on_config(config: Any) -> Any:
    """Leaves tutorials out of the navigation that are not written yet."""
    config.nav = _landed(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from code, and those of files beside docs/."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    for path in sorted(linked(Path(config.docs_dir))):
        files.append(File.generated(config, source_page(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links that leave docs/ to their pages, and puts pictures into the page, where they have
    its colours."""
    where = page.file.src_uri
    docs = Path(config.docs_dir)
    text = outside_code(markdown, lambda part: _LINK.sub(lambda m: _turned(m, where, docs), part))
    return _PICTURE.sub(lambda m: _drawn(m[1], (docs / where).parent / m[2]), text)


def outside_code(markdown: str, change: Any) -> str:
    """Markdown, changed but for its blocks of code."""
    parts = _FENCE.split(markdown)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def linked(docs: Path) -> set[str]:
    """Paths below the checkout of the files and folders beside docs/ that pages link to, and those
    that these link to."""
    found = {"SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    texts = {f"docs/{page.relative_to(docs)}": page.read_text() for page in docs.rglob("*.md")}
    texts |= {f"docs/{path}": "" for path in PAGES}
    texts |= {name: (ROOT / name).read_text() for name in found}
    texts["docs/reference/recipe.md"] = "[x](../../training/recipes)"
    for where, text in texts.items():
        for match in _LINK.finditer(_FENCE.sub("", text)):
            target = _target(where, match[2])
            if target and not target.startswith("docs/") and target != "docs":
                found.add(target)
    for folder in [path for path in found if (ROOT / path).is_dir()]:
        found |= {f"{folder}/{one}" for one in _names(ROOT / folder)}
    return {path for path in found if (ROOT / path).exists()}


def source_page(path: str) -> str:
    """The page of a file or folder beside docs/."""
    if path.endswith(".md"):
        return f"{SOURCE}/{path}"
    return f"{SOURCE}/{path}{'/index' if (ROOT / path).is_dir() else ''}.md"


def shown(path: str) -> str:
    """The page of a file or folder beside docs/ in Markdown."""
    file = ROOT / path
    if file.suffix == ".md":
        return file.read_text()
    if file.is_dir():
        lines = [f"- [{name}]({name}.md)" for name in _names(file)]
        return f"# {path}/\n\n" + "\n".join(lines) + "\n"
    language = _LANGUAGES.get(file.suffix, "text")
    return f"# {path}\n\n````{language}\n{file.read_text()}\n````\n"


def _names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.suffix in _LANGUAGES)


def _target(where: str, link: str) -> str:
    """The path below the checkout that a link of a file leads to; empty for a URL or an anchor."""
    if not link or re.match(r"[a-z][a-z0-9+.-]*:", link) or link.startswith("/"):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(where), link))


def _turned(match: re.Match[str], where: str, docs: Path) -> str:
    """A link as the site has it. `where` is the page below docs/."""
    text, link, anchor = match[1], match[2], match[3] or ""
    home = where.removeprefix(f"{SOURCE}/") if where.startswith(f"{SOURCE}/") else f"docs/{where}"
    target = _target(home, link)
    if not target:
        return match[0]
    if target.startswith(f"docs/{_TUTORIALS}") and not (docs / target[5:]).exists():
        return text[1:-1]
    page = target[5:] if target.startswith("docs/") else source_page(target)
    return f"{text}({posixpath.relpath(page, posixpath.dirname(where) or '.')}{anchor})"


def _landed(nav: list[Any], docs: Path) -> list[Any]:
    kept: list[Any] = []
    for entry in nav:
        for title, inner in entry.items() if isinstance(entry, dict) else [(None, entry)]:
            if isinstance(inner, list):
                kept.append({title: _landed(inner, docs)})
            elif not inner.startswith(_TUTORIALS) or (docs / inner).exists():
                kept.append(entry)
    return kept


def _drawn(alternative: str, file: Path) -> str:
    """A picture as part of the page. Its own style is left out: site.css has it, in the colours
    that the reader chose."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.parse(file).getroot()
    for style in root.findall("{http://www.w3.org/2000/svg}style"):
        root.remove(style)
    root.set("role", "img")
    root.set("aria-label", alternative)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<figure class="diagram" markdown="0">{" ".join(text.split())}</figure>'
