"""Execute notebooks of docs/notebooks and store their output: ``python scripts/run_notebooks.py [NAME ...]``.

Without a name, all notebooks are executed, each in a new kernel and an empty folder. The extra ``notebook`` is needed.
What is stored depends on the code alone: no execution counts, no state of widgets (their pictures stay), pictures of
few colours. The metadata hold the SHA-256 of the code, by which tests/test_notebooks.py finds output of other code.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import tempfile
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
#: Greatest width of a stored picture in pixels, and its number of colours.
WIDTH_PX, N_COLOURS = 720, 256


def main() -> None:
    """Run the command line."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description="Execute notebooks of docs/notebooks and store their output.")
    parser.add_argument("names", nargs="*", default=names, choices=names, metavar="NAME", help=", ".join(names))
    os.environ["PYTHONPATH"] = str(ROOT)
    for name in parser.parse_args().names:
        execute(NOTEBOOKS / f"{name}.ipynb")


def execute(path: Path) -> None:
    """Execute one notebook and replace its file; the exception of a cell that fails leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", store_widget_state=False,
                                coalesce_streams=True,
                                resources={"metadata": {"path": folder}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.execution_count, cell.metadata = None, {}
        cell.outputs = [kept(output) for output in cell.outputs]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "aetlab": {"code_sha256": hashlib.sha256("\n".join(cell.source for cell in code).encode()).hexdigest()}}
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def kept(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an output without what changes from run to run; RuntimeError for text on stderr, such as a warning."""
    if output.output_type == "stream" and output.name == "stderr":
        raise RuntimeError(f"a cell wrote to stderr: {output.text}")
    if output.output_type == "execute_result":
        output.execution_count = None
    if "data" in output and "image/png" in output.data:
        output.data = {"image/png": reduced(output.data["image/png"]), "text/plain": "<picture>"}
        output.metadata = {}
    return output


def reduced(png: str) -> str:
    """Return a PNG in base64 with at most :data:`WIDTH_PX` and :data:`N_COLOURS`."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        picture = image.convert("RGB")
    if picture.width > WIDTH_PX:
        picture = picture.resize((WIDTH_PX, round(picture.height * WIDTH_PX / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.quantize(N_COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main()
