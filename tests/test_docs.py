"""The documentation site: it builds without a warning, opens from a folder, and shows every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import aetlab
from tests.conftest import Once

ROOT = Path(__file__).resolve().parents[1]
#: The mark at the foot, and a script that the search of pages opened from a folder loads where there is a network.
OF_THE_THEME = ("https://squidfunk.github.io/", "https://unpkg.com/iframe-worker/shim")


@pytest.fixture(scope="session")
def site(once: Once) -> Path:
    """Return the folder of the built site; ``strict`` in mkdocs.yml makes every warning an error."""

    def fill(folder: Path) -> str:
        done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder], cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return ""

    return once("site", fill)[0]


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_file_of_the_site(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        if page.name == "404.html":
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#]+)', text):
            if link.startswith(("data:", *OF_THE_THEME)):
                continue
            assert not re.match(r"[a-z]+:|/", link), f"{page.name}: {link} is not in the site"
            assert (page.parent / unquote(link.partition("?")[0])).exists(), f"{page.name}: {link} leads nowhere"


@pytest.mark.slow
def test_the_pages_show_every_public_name_and_every_setting(site: Path) -> None:
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in aetlab.__all__:
        assert re.search(rf'<h3 id="aetlab\.[\w.]*\.{name}"', api), name
    assert not re.search(r":(?:func|class|mod|meth):<code>", api)
    settings = (site / "settings.html").read_text(encoding="utf-8")
    for key in ("dose.total_e_A2", "reg.weight", "refine.poses", "microscope.mtf_half", "data.path"):
        assert f"<code>{key}</code>" in settings
