"""The notebook for Kaggle trains, is stopped, goes on in a second session and predicts, without GPUs too."""

import json
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, write_images
from tests.driver import HANGS

nbformat = pytest.importorskip("nbformat", reason="NOT TESTED: notebooks, which need nbclient and ipykernel")
nbclient = pytest.importorskip("nbclient", reason="NOT TESTED: notebooks, which need nbclient and ipykernel")
pytest.importorskip("ipykernel", reason="NOT TESTED: notebooks, which need nbclient and ipykernel")

PATH = REPOSITORY / "notebooks" / "kaggle_two_gpus.ipynb"
TINY = "--model mlp --track none --limit-train 320 --epochs 2 --log-every 10"


def executed(**parameters: object) -> list[dict]:
    """Run the whole notebook with these values of its first cell; returns what each cell has shown."""
    notebook = nbformat.read(PATH, as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    assert all(name in notebook.cells[first].source for name in parameters)
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(lines))
    notebook.cells.append(nbformat.v4.new_code_cell("print('torch' in sys.modules)"))
    nbclient.NotebookClient(notebook, timeout=HANGS, kernel_name="python3").execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(outputs: list[dict]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(outputs: list[dict]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_is_committed_without_outputs() -> None:
    cells = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow  # four processes; what its cells ask for has tests of its own
def test_it_trains_stops_in_time_goes_on_in_the_next_session_and_predicts(tmp_path: Path) -> None:
    sessions = tmp_path / "first", tmp_path / "second"
    common = {"PROJECT": str(REPOSITORY), "DATA": "digits", "RUN": "run", "SECONDS": 0.5}
    first = executed(**common, RUNS=str(sessions[0]), OPTIONS=f"{TINY} --max-time 0.01s")
    assert "stopped at step 1 of " in printed(first) and "not at its end yet" in printed(first)
    assert not (sessions[0] / "run" / "test.json").exists()
    write_images(tmp_path / "photos", 2)
    more = {"RUNS": str(sessions[1]), "LAST_SESSION": str(sessions[0]), "PHOTOS": str(tmp_path / "photos")}
    second = executed(**common, **more, OPTIONS=TINY)
    said = printed(second)
    assert "installed: nothing, all is there" in said
    assert "goes on with the last session's run" in said and "at step 1 of " in (sessions[1] / "run.out").read_text()
    accuracy = json.loads((sessions[1] / "run" / "test.json").read_text())["accuracy"]
    assert f"test accuracy {100 * accuracy:.2f} %" in said
    assert pictures(second) == 2  # the last curves, and examples.png
    assert "0.png: " in said and "1.png: " in said
    assert said.endswith("False\n")  # nothing has touched a device from the notebook
