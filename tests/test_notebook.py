"""The quickstart notebook runs from top to bottom, without a network connection."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = str(tmp_path_factory.mktemp("notebook"))
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()


def test_it_has_six_cells_and_is_kept_without_output() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert len(cells) == 6
    assert all(not c.outputs and c.execution_count is None for c in cells)


def test_it_finds_particles_and_shows_them(executed: nbformat.NotebookNode) -> None:
    results = [c.outputs[-1]["data"] for c in executed.cells]
    assert "class" in results[1]["text/html"]
    assert int(results[3]["text/plain"]) > 4
    assert "data:image/jpeg;base64," in results[4]["text/html"]
    assert "peak_ratio" in results[5]["text/html"]
