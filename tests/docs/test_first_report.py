"""The notebook of the first report runs from top to bottom in a kernel of its own."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
for package in ("ipykernel", "polars", "pandas", "plotly", "jinja2"):
    pytest.importorskip(package)

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_report.ipynb"


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    for text in ("300 codes", "difference_t", "2022-10", "report.html"):
        assert text in shown
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))
