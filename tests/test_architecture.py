"""The floors of the house, and dvc.yaml's deps against what each stage really imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

ROOT = Path(__file__).parents[1]

# Imported by stages, yet not among their deps: a change of these moves no number.
BYSTANDERS = {
    "flows": "sets the environment of servers",
    "flows.fingerprint": "names a training; what it names stands in deps",
    "flows.services": "finds the Prefect server",
    "flows.stage": "the shell: arguments, lock, records",
    "flows.tracked": "tells MLflow what the files say",
    "isdh": "holds the version",
    "isdh.artifacts": "moves bytes; what is in them is the stages' own",
    "isdh.datasets": "looks a reader up",
    "isdh.errors": "words for people",
    "isdh.methods": "looks a method up",
    "isdh.params": "puts sections together; the values that a stage reads are its params",
    "isdh.registry": "looks files up",
    "isdh.tracking": "tells MLflow what the files say",
}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("isdh", "flows", cache_dir=None)


def closure(imports: grimp.ImportGraph, start: str) -> set[str]:
    """Modules imported, lazily or not, directly or not; what bystanders import is not followed."""
    seen, queue = set(), [start]
    while queue:
        module = queue.pop()
        if module in seen or module in BYSTANDERS or module.startswith("isdh.tracking."):
            continue
        seen.add(module)
        queue += imports.find_modules_directly_imported_by(module)
        queue += [module.rpartition(".")[0]] if module.count(".") > 1 else []
    return seen


def stages() -> dict[str, dict]:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in graph.items()}


def code_of(deps: list[str]) -> set[str]:
    """The modules that deps name; a folder stands for all its modules, a template for each file."""
    modules = set()
    for dep in deps:
        if not dep.startswith(("isdh/", "flows/")):
            continue
        pattern = re.sub(r"\$\{[^}]*\}", "*", dep)
        for path in ROOT.glob(pattern):
            files = path.rglob("*.py") if path.is_dir() else [path]
            modules |= {
                ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                for file in files
                if file.suffix == ".py"
            }
    return modules


@pytest.mark.parametrize("name", list(stages()))
def test_deps_of_a_stage_are_what_it_imports(name, imports):
    deps = code_of(stages()[name]["deps"])
    starts = {f"flows.{name}"} | {
        m for m in deps if m.startswith(("isdh.methods.", "isdh.datasets."))
    }
    needed = set().union(*(closure(imports, start) for start in starts))
    assert sorted(deps - set(BYSTANDERS)) == sorted(needed)


def test_bystanders_exist(imports):
    assert set(BYSTANDERS) <= imports.modules


def test_import_contracts_hold():
    check = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout


def test_methods_never_import_a_sibling(imports):
    methods = {m for m in imports.modules if m.startswith("isdh.methods.")}
    for method in methods:
        assert not imports.find_modules_directly_imported_by(method) & methods, method


@pytest.mark.parametrize(
    ("start", "absent"),
    [
        ("flows.evaluate", {"torch", "mlflow", "pandas"}),
        ("flows.encode", {"mlflow", "pandas", "numba"}),
        ("isdh.encoder", {"mlflow", "pandas", "numba", "prefect", "pyarrow"}),
        ("isdh.params", {"torch", "mlflow", "pandas", "numba", "prefect", "sklearn"}),
        ("isdh.cli", {"torch", "mlflow", "pandas", "numba", "prefect"}),
    ],
)
def test_heavy_packages_are_not_imported_where_they_are_not_used(start, absent):
    code = f"import sys, {start}; sys.stdout.write(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not absent & set(loaded.stdout.split())
