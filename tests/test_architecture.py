"""Who may import whom, what imports without torch, and how long a file may be: the rules of docs/architecture.md."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "offramp"

LEAVES = {"errors", "faults", "progress", "metrics", "energy", "torchvision_import"}

MAY_IMPORT = {
    "errors": set(),
    "progress": set(),
    "metrics": set(),
    "energy": set(),
    "torchvision_import": set(),
    "faults": set(),
    "files": {"errors", "faults"},
    "doors": {"errors"},
    "targets": {"errors", "faults"},
    "specs": {"errors"},
    "policy": {"specs"},
    "tasks": {"errors", "faults"},
    "cluster": {"errors", "tasks"},
    "artifacts": {"specs", "policy", "metrics", "files", "errors", "doors", "targets"},
    "data": {"errors", "files", "metrics", "progress", "torchvision_import", "doors", "targets"},
    "models": {"specs", "policy", "errors", "files", "torchvision_import", "doors"},
    "training": {"models", "data", "specs", "metrics", "errors", "files", "progress", "doors", "targets"},
    "pruning": {"training", "models", "data", "specs", "errors", "files", "progress", "doors", "targets"},
    "export": {"models", "artifacts", "specs", "policy", "files", "errors", "progress", "doors", "targets"},
    "runtime": {"artifacts", "data", "specs", "policy", "files", "errors", "progress", "doors"},
    "evaluation": {"runtime", "data", "artifacts", "specs", "metrics", "errors", "progress", "doors"},
    "sharding": {"evaluation", "runtime", "data", "artifacts", "specs", "errors", "progress", "tasks", "doors"},
    "profiling": {"runtime", "artifacts", "specs", "energy", "errors", "progress", "doors"},
    "lowering": {
        "export",
        "evaluation",
        "runtime",
        "artifacts",
        "data",
        "specs",
        "metrics",
        "errors",
        "files",
        "progress",
        "doors",
        "targets",
    },
    "search": {"specs", "artifacts", "policy", "metrics", "errors", "files", "progress", "doors", "targets"},
    "trimming": {"artifacts", "files", "errors", "doors", "targets"},
    "report": {
        "search",
        "evaluation",
        "runtime",
        "data",
        "specs",
        "artifacts",
        "policy",
        "metrics",
        "errors",
        "files",
        "progress",
        "doors",
        "targets",
    },
    "viewing": {"runtime", "data", "specs", "policy", "errors"},
    "box": set(),
    "console": {"progress"},
    "demo": None,
    "sweeping": None,
    "cli": None,
    "__main__": {"cli"},
    "__init__": {"runtime"},
}
"""Part -> parts that it may import; None: all but the command line."""

WITHOUT_TORCH = [
    "offramp",
    "offramp.cli",
    "offramp.evaluation",
    "offramp.sharding",
    "offramp.profiling",
    "offramp.trimming",
    "offramp.search",
    "offramp.sweeping",
    "offramp.report",
    "offramp.runtime.predictor",
    "offramp.runtime.stream",
    "offramp.viewing.server",
    "offramp.data.folder",
    "offramp.data.check",
    "offramp.data.synthetic",
]


def part_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports(path):
    """Names of offramp's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("offramp"))
        elif isinstance(node, ast.ImportFrom) and node.module == "offramp":
            yield from (f"offramp.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("offramp."):
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"


def files():
    return sorted(ROOT.rglob("*.py"))


def part_of_file(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_what_its_layer_allows(path):
    part = part_of_file(path)
    allowed = MAY_IMPORT[part]
    for module in imports(path):
        other = part_of(module)
        if other in {part, "__version__"}:
            continue
        assert other != "cli" or part == "__main__", f"{path} imports the command line"
        assert allowed is None or other in allowed, f"{path} imports {module}"


def test_parts_have_no_cycle():
    graph = {part: set() for part in MAY_IMPORT}
    for path in files():
        part = part_of_file(path)
        # The package's root loads Predictor only when it is asked for.
        if part != "__init__":
            graph[part] |= {part_of(module) for module in imports(path)} - {part, "__init__", "__version__"}
    done = set()
    while graph:
        free = {part for part, needed in graph.items() if needed <= done}
        assert free, f"a cycle among {sorted(graph)}"
        done |= free
        graph = {part: needed for part, needed in graph.items() if part not in free}


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_imports_where_there_is_no_torch(module):
    blocked = "import sys\nfor name in ('torch', 'timm', 'torchvision', 'onnx', 'safetensors'): sys.modules[name] = None\n"
    subprocess.run([sys.executable, "-c", f"{blocked}import {module}"], check=True)


def test_nothing_hangs_on_a_clock_that_can_be_set():
    """Dates are written into artifacts and logs; durations, deadlines and names of files are made by monotonic clocks."""
    dated = {"artifacts/base.py", "sweeping/trials.py"}
    dated.add("files.py")  # the age of what another machine's process left, which the file system's clock tells
    asks = {
        str(path.relative_to(ROOT)) for path in files() if re.search(r"time\.time\(|datetime\.now|localtime", path.read_text())
    }
    assert asks == dated


def test_importing_offramp_is_light():
    code = "import sys, offramp; print([name for name in ('numpy', 'onnxruntime', 'torch', 'PIL') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_every_source_file_has_its_place_in_the_rules():
    assert {part_of_file(path) for path in files()} <= set(MAY_IMPORT)


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): n for path in files() if (n := len(path.read_text().splitlines())) > 400}
    assert not long
