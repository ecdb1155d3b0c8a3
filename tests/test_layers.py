"""The import arrows of docs/architecture.md, read from the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = (
    "runner.cli",
    "runner.spec",
    "runner.planning",
    "runner.batch",
    "experiments.catalogue",
)
UNPICKLES = r"pickle\.loads?$|read_pickle$|Unpickler$|^(torch|np|numpy|joblib|skops\.io)\.load$"
HEAVY = ("torch", "pandas", "scipy", "pyarrow", "ray", "mlflow", "matplotlib", "sklearn")


def imports(path: Path) -> set[str]:
    """Every module that the file imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(package: str, of: str) -> set[str]:
    """The files of a package that import a module or anything inside it."""
    files = (ROOT / package).rglob("*.py")
    return {
        str(path.relative_to(ROOT))
        for path in files
        if any(name == of or name.startswith(f"{of}.") for name in imports(path))
    }


@pytest.mark.parametrize("forbidden", ["ray", "mlflow", "runner"])
def test_experiments_know_nothing_of_how_they_are_run(forbidden: str) -> None:
    assert importers("experiments", forbidden) == set()


def test_the_runner_meets_experiments_in_one_place() -> None:
    assert importers("runner", "experiments") == {"runner/api.py"}


def test_ray_lives_in_the_tune_executor() -> None:
    found = importers("runner", "ray")
    assert found
    assert all(name.startswith("runner/executors/") for name in found)


def test_mlflow_is_imported_by_two_modules() -> None:
    assert importers("runner", "mlflow") == {f"runner/tracking/mlflow_{name}.py" for name in ("store", "tables")}


@pytest.mark.parametrize("module", ["pickle", "cloudpickle", "shelve", "marshal", "joblib", "dill"])
def test_nothing_is_unpickled_from_disk(module: str) -> None:
    assert importers("experiments", module) | importers("runner", module) == set()


def test_nothing_is_loaded_that_may_be_a_pickle() -> None:
    """Ray alone unpickles, what its own processes sent."""
    found = {
        (str(path.relative_to(ROOT)), ast.unparse(call))
        for package in ("experiments", "runner")
        for path in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and re.search(UNPICKLES, ast.unparse(call.func))
    }
    unsafe = {(path, call) for path, call in found if not call.endswith("allow_pickle=False)")}
    assert len(found) > len(unsafe)
    assert unsafe == {("runner/executors/tune.py", "cloudpickle.loads(payload)")}


@pytest.mark.parametrize("module", LIGHT)
def test_planning_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
