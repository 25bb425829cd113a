"""The check of a measured series as one HTML page that needs no network."""

from __future__ import annotations

import io
import math
from importlib import resources

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from aetlab.reporting import html
from aetlab.reporting.figures.series_check import (
    plot_acquisition,
    plot_defocus,
    plot_levels,
    plot_sharpness,
    plot_shifts,
    plot_spectrum,
    plot_step,
)
from aetlab.reporting.figures.style import style
from aetlab.series.check.nouns import Item, SeriesCheck

_DPI = 220
#: Most defoci whose spectra are drawn.
_MOST_SPECTRA = 12
#: Titles of the two pictures of a step, and what they show.
_STEPS = {
    "bad pixels": ("before", "after", "The image nearest to no tilt, bad pixels as recorded and filled for display."),
    "gain residue": ("ratio to the mean", "gain applied", "Counts in vacuum over those expected, all images together, "
                     "and the correction."),
    "vacuum": ("over the level", "illumination and gain divided", "The same image before and after."),
    "shifts": ("as recorded", "aligned", "Darkness summed across the vertical, one row for each tilt. In an aligned "
               "series all features run straight down."),
    "region": ("as recorded", "in its place", "One image before and after it was rotated, moved and resampled."),
}


def make_check_page(check: SeriesCheck, name: str) -> str:
    """Return the page of the ``check`` of the series file ``name``."""
    sections = [
        ("verdicts", "Verdicts", _verdicts(check)),
        ("reach", "What the series can reach", _reach(check)),
        ("images", "Contact sheet", _contact_sheet(check)),
        ("excluded", "Images left out", _excluded(check)),
        ("acquisition", "As it was recorded", _figures([
            (plot_acquisition(check), "Tilt and defocus in the order of acquisition."),
            (plot_levels(check), "Level of the vacuum and mean of each image; dose of each image by its electrons, and "
                                 "by table or headers."),
            (plot_sharpness(check), "Root mean square frequency of the signal, noise subtracted; motion while the "
                                    "image was recorded, beyond that of most images at its defocus.")])),
        ("spectra", "Power spectra", _spectra(check)),
        ("steps", "Steps of the preparation", _steps(check)),
        ("notes", "Notes of the import", _notes(check)),
    ]
    sections = [section for section in sections if section[2]]
    series = check.imported.series
    summary = (f"{int((series.weight > 0).sum())} of {series.weight.size} images, {series.n_tilts} tilts, "
               f"{series.n_defoci} defoci, {series.images.shape[2]} × {series.images.shape[3]} pixels of "
               f"{series.pixel_A:.4g} Å. Verdict: {check.verdict}.")
    parts = {
        "title": html.escape(f"Check of {name}"), "summary": html.escape(summary),
        "navigation": "".join(f'<a href="#{key}">{heading}</a>' for key, heading, _ in sections),
        "body": "\n".join(f'<section id="{key}"><h2>{heading}</h2>\n{content}\n</section>'
                          for key, heading, content in sections),
        "style": _template("report.css") + "\n" + _template("check.css"),
    }
    head, *rest = _template("check.html").split("{{")
    return head + "".join(parts[piece.split("}}", 1)[0]] + piece.split("}}", 1)[1] for piece in rest)


def _template(name: str) -> str:
    return resources.files("aetlab.reporting").joinpath("templates", name).read_text(encoding="utf-8").rstrip("\n")


def _verdicts(check: SeriesCheck) -> str:
    order = {"cannot be used": 0, "look": 1, "ok": 2}
    return "\n".join(_verdict(item) for item in sorted(check.items, key=lambda item: order[item.verdict]))


def _verdict(item: Item) -> str:
    kind = item.verdict.split()[0]
    advice = f'<p class="advice">{html.escape(item.advice)}</p>' if item.advice else ""
    return (f'<div class="item {kind}"><span class="verdict">{html.escape(item.verdict)}</span>'
            f"<div><b>{html.escape(item.name)}</b><p>{html.escape(item.reason)}</p>{advice}</div></div>")


def _reach(check: SeriesCheck) -> str:
    if check.reach is None:
        return f"<p>Not computed: {html.escape(check.no_reach)}.</p>"
    reach = check.reach
    rows = {f"position error of {symbol}": f"{value:.2f} pm" for symbol, value in reach.position_pm.items()}
    if not math.isnan(reach.confused_percent):
        rows["elements mistaken"] = f"{reach.confused_percent:.2g} %"
    return (f"{html.pairs(rows)}<p>Cramér–Rao bound, the least error of any unbiased method, for a stand-in: "
            f"{reach.n_atoms} atoms in a sphere of {2 * reach.radius_A:.0f} Å, with the dose, tilts, defoci and "
            "microscope of this series. Errors of poses, defoci and the model come on top.</p>")


def _contact_sheet(check: SeriesCheck) -> str:
    facts, series = check.imported.facts, check.imported.series
    assert facts is not None
    excluded = check.imported.provenance.get("excluded", {})
    present = facts.thumbnails[series.weight > 0]
    middle = float(np.median(present))
    half = max(float(np.quantile(np.abs(present - middle), 0.995)), 1e-3)
    parts = []
    for t in np.argsort(series.tilt_deg, kind="stable"):
        for f in range(series.n_defoci):
            name = facts.names[t][f]
            if not name:
                continue
            grey = np.clip((facts.thumbnails[t, f] - middle) / half * 127.5 + 127.5, 0, 255).astype(np.uint8)
            reason = excluded.get(name, "")
            caption = f"{facts.tilt_deg[t, f]:.1f}° {facts.defocus_nm[t, f]:.4g} nm"
            parts.append(f'<figure class="thumb{" out" if reason else ""}" title="{html.escape(name)}">'
                         f"{_picture(Image.fromarray(grey.T[::-1]), name)}<figcaption>{caption}"
                         f"{'<br>' + html.escape(reason) if reason else ''}</figcaption></figure>")
    return (f'<div class="sheet">{"".join(parts)}</div><p>As recorded, in tilt order, y upwards, one range of grey; '
            "images left out have a red frame.</p>")


def _excluded(check: SeriesCheck) -> str:
    excluded = check.imported.provenance.get("excluded", {})
    return html.pairs(excluded) if excluded else "<p>None.</p>"


def _spectra(check: SeriesCheck) -> str:
    drawn: list[tuple[Figure, str]] = []
    for j in range(min(check.imported.series.n_defoci, _MOST_SPECTRA)):
        found = np.isfinite(check.spectra.defocus_nm[:, j])
        rings = (f"Rings: zeros of the transfer at the defocus that {found.sum()} images show." if found.any() else
                 "Dashed rings: zeros of the transfer at the nominal defocus; the spectra support none (a crystal, or "
                 "too little signal).")
        drawn.append((plot_spectrum(check, j), f"Mean spectrum of the tilts. {rings} Blue: the information limit."))
    if np.isfinite(check.spectra.defocus_nm).any():
        drawn.append((plot_defocus(check), "Defocus that the rings of each image show, less the nominal one."))
    return _figures(drawn)


def _steps(check: SeriesCheck) -> str:
    facts = check.imported.facts
    assert facts is not None
    parts = []
    for step in check.imported.provenance.get("steps", []):
        name = str(step["name"])
        drawn: list[tuple[Figure, str]] = []
        pair = [facts.pictures[key] for key in (f"{name}/before", f"{name}/after") if key in facts.pictures]
        if len(pair) == 2 and name in _STEPS:
            drawn.append((plot_step(pair, _STEPS[name][:2], lines=name == "shifts"), _STEPS[name][2]))
        if name == "tilt axis":
            drawn.append((plot_shifts(check), "Positions of the sample; dashed: the direction of the axis."))
        parts.append(f"<h3>{html.escape(name)}</h3><p>Setting <code>{html.escape(str(step['setting']))}</code>: "
                     f"{html.escape(str(step['line']))}.</p>{_figures(drawn)}")
    return "\n".join(parts)


def _notes(check: SeriesCheck) -> str:
    notes = check.imported.provenance.get("notes", [])
    files = check.imported.provenance.get("files", {})
    listed = f"<ul>{''.join(f'<li>{html.escape(str(note))}</li>' for note in notes)}</ul>" if notes else "<p>None.</p>"
    return f"{listed}<h3>Files (SHA-256)</h3>{html.pairs(files)}"


def _figures(figures: list[tuple[Figure, str]]) -> str:
    parts = []
    for figure, caption in figures:
        buffer = io.BytesIO()
        with style():
            figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": "aetlab"})
        with Image.open(buffer) as picture:
            parts.append(f"<figure>{_picture(picture.convert('RGB'), caption)}<figcaption>{html.escape(caption)}"
                         "</figcaption></figure>")
    return f'<div class="grid">{"".join(parts)}</div>' if parts else ""


def _picture(picture: Image.Image, text: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85, method=2)
    return html.image(buffer.getvalue(), picture.size, text)
