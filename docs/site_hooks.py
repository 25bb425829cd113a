"""Hooks of the documentation site: pages made from the code, and files of the repository that pages link to."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import link_pages, notebook_page

import aetlab
from aetlab.cli.reproduce import format_value
from aetlab.core.setting import About, about
from aetlab.spec.choices import PLAIN
from aetlab.spec.folders import group_choices

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: A link to a file of the repository by a relative path that climbs.
_CLIMBING = re.compile(r"\]\((\.\./[^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages, those of notebooks, the changelog, and the files of the repository that pages link to."""
    made = {"settings.md": settings_page(), "api.md": api_page(),
            "changes.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"], pictures = notebook_page(notebook)
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    linked = {_target(file.src_uri, match[1]) for file in files.documentation_pages() if file.src_uri not in made
              for match in _CLIMBING.finditer(file.content_string)}
    for path in sorted(path for path in linked if not path.is_relative_to(DOCS)):
        # Markdown becomes text: the site shows it as it is, without pages of its own.
        files.append(File.generated(config, _place(path), content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files outside docs/ at their copies in the site."""
    def copied(match: re.Match[str]) -> str:
        path = _target(page.file.src_uri, match[1])
        return match[0] if path.is_relative_to(DOCS) else f"]({'../' * page.file.src_uri.count('/')}{_place(path)})"

    return link_pages(_CLIMBING.sub(copied, markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the names that docstrings mark for Sphinx as plain code."""
    return re.sub(r":(?:class|data|func|meth|mod):(<code>)~?", r"\1", html)


def settings_page() -> str:
    """Return the page of all groups, choices and settings, from the descriptions next to the settings."""
    lines = ["# Settings", "", "A run is one choice from each group (`group=choice`). `group.setting=value` replaces a",
             "setting of the choice. `python -m aetlab.run --help` prints the same descriptions.", "",
             "The values shown are those of `python -m aetlab.run` without other words."]
    default, choices = aetlab.settings(), group_choices()
    for group in (field.name for field in dataclasses.fields(default)):
        settings = getattr(default, group)
        if not dataclasses.is_dataclass(settings):
            continue
        plain = f"; or {PLAIN[group].written}" if group in PLAIN else ""
        lines += ["", f"## {group}", "", (type(settings).__doc__ or "").splitlines()[0], "",
                  f"Choices: {', '.join(f'`{name}`' for name in choices[group])}{plain}.", ""]
        lines += [_setting(f"{group}.{field.name}", getattr(settings, field.name), about(type(settings), field.name))
                  for field in dataclasses.fields(settings)]
    return "\n".join(lines) + "\n"


def _setting(key: str, value: object, described: About) -> str:
    needs = " and ".join(f"`{condition}`" for condition in described.reads)
    facts = "; ".join(filter(None, (described.unit, described.range, f"only with {needs}" if needs else "")))
    return f"- `{key}` = `{format_value(value)}`{f' ({facts})' if facts else ''}: {described.meaning}."


def api_page() -> str:
    """Return the page of the public names of the package, in the order of its table of contents."""
    lines = ["# Python", "", (aetlab.__doc__ or "").strip().replace("::\n", ":\n"), ""]
    for target in aetlab._PUBLIC.values():
        lines += [f"::: {target.replace(':', '.')}", ""]
    return "\n".join(lines)


def _target(page: str, link: str) -> Path:
    """Return the file that ``link`` of ``page`` (a path below docs/) leads to."""
    return (DOCS / page).parent.joinpath(link).resolve()


def _place(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return f"files/{name}.txt" if path.suffix == ".md" else f"files/{name}"
