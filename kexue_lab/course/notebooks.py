"""Execute notebooks and store them in one normal form."""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

# One thread per kernel: quicker than oversubscribed cores, and float32 results repeat.
# No progress bars: they would stay behind in the stored outputs.
KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}
_CELL_SECONDS = 600
_HIDDEN = "hide-input"
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def execute(
    path: Path,
    environment: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Any:
    """Run a notebook top to bottom in a fresh kernel and return it; the file stays as it is.

    Args:
        path: the notebook.
        environment: variables for the kernel, beside those of this process.
        parameters: values for names of its parameters' cell, set in a cell after that.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
        nbclient.exceptions.DeadKernelError: if the kernel dies.
    """
    notebook, error = attempt(path, environment, parameters)
    if error is not None:
        raise error
    return notebook


def attempt(
    path: Path,
    environment: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Any, CellExecutionError | DeadKernelError | None]:
    """Run a notebook as `execute` does, and return it as far as it came, and what ended it."""
    if parameters:
        notebook = parameterize_notebook(load_notebook_node(str(path)), dict(parameters))
    else:
        notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        client = NotebookClient(
            notebook,
            timeout=_CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=False,
            config=Config({"KernelManager": kernel_address(folder)}),
        )
        try:
            _execute(client, os.environ | KERNEL_ENVIRONMENT | dict(environment or {}))
        except (CellExecutionError, DeadKernelError) as error:
            return notebook, error
    return notebook, None


def _execute(client: NotebookClient, environment: Mapping[str, str]) -> None:
    """Execute in a thread: in the main one nbclient would take Ctrl-C for a kernel that died."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.execute, env=environment)
        try:
            running.result()
        except KeyboardInterrupt:
            process = getattr(getattr(client.km, "provisioner", None), "process", None)
            if process is not None:
                process.kill()
            raise


def kernel_address(folder: str | Path) -> dict[str, str]:
    """Options of a `KernelManager` for sockets that are files in `folder`.

    Kernels that several processes start at once may be given the same free TCP port, and then one
    dies (seen 1 time in 400). On Windows, which has no such sockets, the options are none.
    """
    return {"transport": "ipc", "ip": f"{folder}/socket"} if os.name == "posix" else {}


def normalise(notebook: Any) -> Any:
    """Bring a notebook to its normal form, in place: only real changes show in a diff.

    Cell ids come from the cells' sources, counts are 1..n; widget views, timings and other
    metadata are dropped, so that two executions give the same file.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    count = 0
    for cell in notebook.cells:
        cell.id = _cell_id(cell, seen)
        cell.metadata = nbformat.from_dict(_normal_metadata(cell.metadata.get("tags")))
        if cell.cell_type == "code":
            executed = cell.execution_count is not None
            count += executed
            cell.execution_count = count if executed else None
            cell.outputs = [_normal_output(o, cell.execution_count) for o in _merged(cell.outputs)]
    return notebook


def _normal_metadata(tags: list[str] | None) -> dict[str, Any]:
    """The tags; and for code that a reader may skip, JupyterLab's way to fold it."""
    if not tags:
        return {}
    if _HIDDEN in tags:
        return {"tags": tags, "jupyter": {"source_hidden": True}}
    return {"tags": tags}


def _cell_id(cell: Any, seen: dict[str, int]) -> str:
    mark = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
    seen[mark] = seen.get(mark, 0) + 1
    return mark if seen[mark] == 1 else f"{mark}-{seen[mark]}"


def _merged(outputs: list[Any]) -> list[Any]:
    """Join neighbouring pieces of one stream: where they break depends on timing."""
    merged: list[Any] = []
    for output in outputs:
        if (
            merged
            and output.output_type == "stream"
            and merged[-1].output_type == "stream"
            and merged[-1].name == output.name
        ):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _normal_output(output: Any, count: int | None) -> Any:
    if "metadata" in output:
        output.metadata = nbformat.from_dict({})
    if "execution_count" in output:
        output.execution_count = count
    if "data" in output:
        output.data.pop(_WIDGET_VIEW, None)
    return output


def refresh(path: Path) -> float:
    """Execute a notebook, store it in normal form, and return the seconds it took."""
    start = time.perf_counter()
    notebook = normalise(execute(path))
    seconds = time.perf_counter() - start
    nbformat.write(notebook, path)
    return seconds
