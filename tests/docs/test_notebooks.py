"""The example notebooks run from top to bottom, and what they say of the result is so."""

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_of_an_own_network(tmp_path):
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    import nbformat

    shutil.copy(EXAMPLES / "own_gru.py", tmp_path)  # a kernel starts where its notebook lies
    notebook = nbformat.read(EXAMPLES / "own_gru.ipynb", as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    result = "".join(output.text for output in done.cells[-1].outputs)
    one, five = result.splitlines()
    assert one.startswith("1 d: GRU 0.0")
    assert "the default network is ahead beyond chance" in one
    assert "within chance" in five
