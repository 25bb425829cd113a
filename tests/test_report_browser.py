"""The page in a real browser: no error in its console, tables sort, atoms are drawn and turned, it prints.

Needs Chromium (Debian: ``apt-get install chromium-headless-shell``). Where there is none the tests are skipped and say
so, unless AETLAB_BROWSER_TESTS=required (as in continuous integration), when they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_report import made  # noqa: F401  (a fixture)

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
#: Actions of a reader; their results are written into the page for the test to read.
_ACTIONS = """
<script>
const answers = {ready: document.documentElement.dataset.ready};
addEventListener("error", (event) => { answers.error = event.message; });
function sorting() {
  const table = document.querySelector("#runs table.sortable");
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const column = heads.findIndex((cell) => cell.textContent.startsWith("position error"));
  const read = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
  const click = () => heads[column].querySelector("button").click();
  answers.before = read();
  click();
  answers.ascending = read();
  answers.sort = heads[column].getAttribute("aria-sort");
  click();
  answers.descending = read();
}
function turning() {
  const canvas = document.getElementById("view");
  const blue = () => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const pen = copy.getContext("2d", {willReadFrequently: true});
    pen.drawImage(canvas, 0, 0);
    const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
    let n = 0;
    for (let i = 0; i < pixels.length; i += 4) n += pixels[i] < 60 && pixels[i + 2] > 120;
    return n;
  };
  const redraw = () => dispatchEvent(new Event("beforeprint"));
  answers.drawn = Number(canvas.dataset.drawn);
  answers.blue = blue();
  answers.legend = document.getElementById("view-legend").textContent;
  const before = canvas.toDataURL();
  redraw();
  answers.steady = canvas.toDataURL() === before;
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  redraw();
  answers.turned = canvas.toDataURL() !== before;
  document.getElementById("show-0").click();
  answers.withoutFound = Number(canvas.dataset.drawn);
  answers.blueWithoutFound = blue();
  document.getElementById("show-0").click();
  const colour = document.getElementById("view-colour");
  const paint = (mode) => { colour.value = mode; colour.dispatchEvent(new Event("change")); };
  const legend = () => document.getElementById("view-legend").textContent;
  paint("species");
  answers.species = legend();
  paint("error");
  answers.errors = legend();
  paint("sigma");
  answers.sigmas = legend();
  paint("kind");
}
function slicing() {
  const slider = document.getElementById("slice-depth"), slice = document.getElementById("slice");
  const place = () => document.getElementById("slice-place").textContent;
  const press = (key) => slice.dispatchEvent(new KeyboardEvent("keydown", {key}));
  answers.depths = Number(slider.max) + 1;
  answers.middle = place();
  press("ArrowUp");
  dispatchEvent(new Event("beforeprint"));
  answers.deeper = place();
  const places = new Set();
  let atoms = 0;
  for (let i = 0; i < answers.depths; i++) {
    slider.value = String(i);
    dispatchEvent(new Event("beforeprint"));
    places.add(place());
    atoms += Number(slice.dataset.drawn);
  }
  answers.places = places.size;
  answers.sliced = atoms;
}
function finding() {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((element) => !element.hidden).length;
  const filter = document.getElementById("filter");
  const dose = filter.querySelector("[data-field=dose_e_A2]"), words = filter.querySelector("[data-field=words]");
  answers.rows = shown("#runs tbody tr");
  answers.figures = shown("figure");
  dose.value = "inf";
  filter.dispatchEvent(new Event("input"));
  answers.rowsOfDose = shown("#runs tbody tr");
  answers.figuresOfDose = shown("figure");
  answers.count = document.getElementById("filter-count").textContent;
  answers.viewed = document.getElementById("view-run").selectedOptions[0].hidden;
  dose.value = "";
  words.value = "lasso n_tilts=60";
  filter.dispatchEvent(new Event("input"));
  answers.rowsOfWords = shown("#runs tbody tr");
  words.value = "";
  filter.dispatchEvent(new Event("input"));
  answers.rowsOfAll = shown("#runs tbody tr");
}
function following() {
  const row = document.querySelector("#runs tbody tr");
  const links = [...row.querySelectorAll("a")];
  answers.links = links.map((link) => link.hash === links[0].hash);
  answers.reached = links.filter((link) => link.tabIndex >= 0).length;
  links[links.length - 1].click();
  const target = document.getElementById(links[0].hash.slice(1));
  dispatchEvent(new Event("hashchange"));
  answers.opened = target.tagName === "DETAILS" && target.open;
  target.querySelector("[data-view]").click();
  answers.viewedRun = document.getElementById("view-run").value === target.querySelector("[data-view]").dataset.view;
}
function comparing() {
  const count = (id) => document.querySelectorAll(`#${id} tr`).length;
  answers.compared = count("compare-settings");
  const choose = document.getElementById("compare-b");
  choose.selectedIndex = 0;
  choose.dispatchEvent(new Event("change"));
  answers.same = count("compare-settings");
  answers.results = count("compare-results");
}
addEventListener("load", () => {
  for (const action of [sorting, turning, slicing, finding, following, comparing]) {
    try { action(); } catch (error) { answers.error = `${action.name}: ${error}`; }
  }
  answers.images = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
  answers.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const left = document.createElement("pre");
  left.id = "answers";
  left.textContent = JSON.stringify(answers);
  document.body.append(left);
});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no browser found (looked for {', '.join(_NAMES)})"
        if os.environ.get("AETLAB_BROWSER_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def open_page(browser: str, page: Path, *words: str) -> subprocess.CompletedProcess[str]:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--window-size=1250,1700",
        f"--user-data-dir={page.parent / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    return subprocess.run(
        [browser, *flags, *words, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that the page wrote to its console, including its errors."""
    return re.findall(r"CONSOLE.*", done.stderr)


def test_page_works_in_a_browser(browser, made, tmp_path):  # noqa: F811
    page = tmp_path / "report.html"
    text = (made[0] / "report" / "report.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", _ACTIONS + "</body>"), encoding="utf-8")
    done = open_page(browser, page, "--virtual-time-budget=20000", "--dump-dom")
    assert console(done) == []
    left = re.search(r'<pre id="answers">(.*?)</pre>', done.stdout, re.DOTALL)
    assert left, done.stderr[-2000:]
    answers = json.loads(left[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "error" not in answers
    assert answers["ready"] == "yes"
    assert answers["ascending"] == sorted(answers["before"]) and answers["descending"] == sorted(
        answers["before"], reverse=True
    )
    assert answers["ascending"] != answers["before"] and answers["sort"] == "ascending"
    assert answers["drawn"] > 10 and answers["blue"] > 100 and answers["blueWithoutFound"] == 0
    assert "found: " in answers["legend"] and "missing: " in answers["legend"]
    assert answers["steady"] is True and answers["turned"] is True
    assert answers["withoutFound"] < answers["drawn"]
    assert answers["species"].startswith("OSi") and "traced positions" in answers["species"]
    low, high = map(float, re.search(r"position error (\S+) +(\S+) pm", answers["errors"]).groups())
    assert 0 <= low < high < 100
    assert re.search(r"error bar \S+ +\S+ pm", answers["sigmas"])
    assert answers["places"] == answers["depths"] > 5 and answers["middle"] != answers["deeper"]
    assert answers["sliced"] == answers["drawn"]  # each atom lies in one slice
    assert answers["rows"] == answers["rowsOfAll"] == 5 and answers["rowsOfDose"] == 1 == answers["rowsOfWords"]
    assert answers["count"] == "1 of 5 records" and answers["viewed"] is False
    assert 0 < answers["figuresOfDose"] < answers["figures"]
    assert len(answers["links"]) > 4 and all(answers["links"]) and answers["reached"] == 1
    assert answers["opened"] is True and answers["viewedRun"] is True
    assert answers["compared"] > 0 and answers["same"] == 0 and answers["results"] > 5
    assert answers["images"] is True
    assert answers["wide"] <= 0


def test_page_fits_a_narrow_window(browser, made, tmp_path):  # noqa: F811
    page = tmp_path / "report.html"
    text = (made[0] / "report" / "report.html").read_text(encoding="utf-8")
    long_option = "a very long label of a record, " * 5
    wide = """<script>document.title = document.documentElement.scrollWidth - innerWidth;</script>"""
    text = text.replace("</select>", f"<option selected>{long_option}</option></select>", 1)
    page.write_text(text.replace("</body>", wide + "</body>"), encoding="utf-8")
    done = open_page(browser, page, "--window-size=400,900", "--virtual-time-budget=5000", "--dump-dom")
    assert int(re.search(r"<title>(-?\d+)</title>", done.stdout)[1]) <= 0


def test_an_error_in_the_page_is_detected(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!DOCTYPE html><title>t</title><script>nothing.here</script>", encoding="utf-8")
    assert "nothing is not defined" in "".join(
        console(open_page(browser, page, "--virtual-time-budget=2000", "--dump-dom"))
    )


def test_page_prints(browser, made, tmp_path):  # noqa: F811
    page = tmp_path / "report.html"
    shutil.copy(made[0] / "report" / "report.html", page)
    paper = tmp_path / "page.pdf"
    open_page(browser, page, "--virtual-time-budget=5000", f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page[^s]", content)) <= 40
