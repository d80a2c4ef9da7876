"""The layers of the package: each imports only its own and the ones below, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rnas_zoo

ROOT = Path(rnas_zoo.__file__).parent
LAYERS = (
    ("errors", "files", "arrays", "resources", "genotype", "random", "data", "preprocessing",
     "intervals", "hub.client"),
    ("models", "drawing"),
    ("attacks", "engine"),
    (
        "deploy.runtime", "deploy.surgery", "deploy.weight_only", "deploy.form", "deploy.int8_graph", "deploy.graph",
        "deploy.straight_through", "deploy.twin", "deploy.session_errors", "hub.download",
    ),
    ("subject", "subject_onnx", "reference"),
    ("training",),
    ("searching",),
    ("verification",),
    (
        "deploy.onnx_export", "deploy.metadata", "deploy.shipped", "deploy.quantize", "deploy.contestants",
        "deploy.bench", "deploy.bundle", "hub.release", "hub.figures", "hub.card", "hub.results", "hub.results_page",
        "hub.sections", "hub.twin", "hub.card_data", "hub.citation", "hub.measured", "hub.usage", "hub.zoo",
        "hub.reverify", "hub.int8", "hub.export_index", "hub.publish", "hub.registry", "hub.session", "hub.upload",
        "hub.validation", "hub.site", "doctor", "demo", "testing",
    ),
    ("cli", "__main__"),
)  # fmt: skip
LEVEL = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}
SHELLS = ("deploy", "hub")  # packages whose modules lie in several layers: their __init__ imports nothing
FORBIDDEN = {"attacks": ("models",), "engine": ("models",)}
RUNTIME = "deploy.runtime"
RUNTIME_MAY_NOT = {"torch", "torchvision", "timm", "onnx", "safetensors", "rnas_zoo"}


def package_sources() -> dict[str, str]:
    """Source of every module, by dotted name without the package's own; the package itself is ''."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "_data":
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def is_package(name: str, modules: set[str]) -> bool:
    return any(module.startswith(f"{name}.") for module in modules) or not name


def imports(name: str, source: str, modules: set[str], lazy: dict[str, str]) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything a module imports, wherever in the file.

    Names of this package start with `rnas_zoo`; names its lazy table offers count as the modules they come from.
    """
    package = name.split(".") if is_package(name, modules) else name.split(".")[:-1]
    package = [part for part in package if part]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ["rnas_zoo", *package[: len(package) - node.level + 1]]
            else:
                base = []
            base += node.module.split(".") if node.module else []
            origin = ".".join(base)
            for alias in node.names:
                inner = f"{origin}.{alias.name}".removeprefix("rnas_zoo.")
                if origin == "rnas_zoo" and alias.name in lazy:
                    found.append((node.lineno, f"rnas_zoo.{lazy[alias.name]}"))
                elif origin == "rnas_zoo" and alias.name.startswith("__"):
                    continue
                elif origin.startswith("rnas_zoo") and (inner in modules or is_package(inner, modules)):
                    found.append((node.lineno, f"rnas_zoo.{inner}"))
                else:
                    found.append((node.lineno, origin))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(target, str):
                found.append((node.lineno, f"rnas_zoo{target}" if target.startswith(".") else target))
    return found


def place(name: str) -> str | None:
    """The entry of the table a module belongs to: its longest prefix."""
    parts = name.split(".")
    return next((entry for i in range(len(parts), 0, -1) if (entry := ".".join(parts[:i])) in LEVEL), None)


def violations(sources: dict[str, str], lazy: dict[str, str]) -> list[str]:
    """Every broken rule, in words."""
    modules, found = set(sources), []
    whole = max((LEVEL[entry] for target in lazy.values() if (entry := place(target))), default=0)
    for name, source in sources.items():
        if not name:
            continue
        taken = imports(name, source, modules, lazy)
        if name in SHELLS:
            found += [f"{name}/__init__.py:{line} must import nothing, but imports {target}" for line, target in taken]
            continue
        entry = place(name)
        if entry is None:
            found.append(f"{name} has no layer yet: place it in LAYERS of this test, left of what may import it")
            continue
        for line, target in taken:
            here = f"{name}:{line} (layer {LEVEL[entry]})"
            if entry == RUNTIME and target.split(".")[0] in RUNTIME_MAY_NOT:
                found.append(f"{here} is deployed alone and must not import {target}")
            elif target == "rnas_zoo" and LEVEL[entry] < whole:
                found.append(f"{here} imports the whole package, which offers modules of layer {whole}")
            elif target.startswith("rnas_zoo."):
                inner = target.removeprefix("rnas_zoo.")
                other = place(inner)
                if other is None:
                    found.append(f"{here} imports {inner}, which has no layer")
                elif LEVEL[other] > LEVEL[entry]:
                    found.append(f"{here} imports {inner} from the higher layer {LEVEL[other]}")
                elif any(inner == low or inner.startswith(f"{low}.") for low in FORBIDDEN.get(entry, ())):
                    found.append(f"{here} must not import {inner}")
    return found


def lazy_table() -> dict[str, str]:
    """The names `rnas_zoo` offers lazily and the modules they come from, read from its source."""
    for statement in ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "_API":
            return ast.literal_eval(statement.value)
    raise AssertionError("rnas_zoo/__init__.py has no table _API")


def test_every_module_imports_only_its_own_layer_and_lower_ones():
    broken = violations(package_sources(), lazy_table())
    assert broken == [], "\n" + "\n".join(broken)


def test_the_lazy_table_names_modules_of_the_table():
    assert [target for target in lazy_table().values() if place(target) is None] == []
    assert set(lazy_table()) | {"__version__"} == set(rnas_zoo.__all__)


SOUND = {
    "": "",
    "errors": "import json",
    "models": "from . import cell",
    "models.cell": "import torch\nfrom ..errors import UsageError",
    "engine": "",
    "engine.loop": "from .. import __version__, errors",
    "deploy": '"""Shell."""',
    "deploy.runtime": "import numpy",
    "training.run": "from ..models.cell import Cell\nfrom ..engine import loop\nimport rnas_zoo.errors",
    "cli": "",
    "cli.train": "import rnas_zoo\nfrom rnas_zoo import train\nfrom ..training import run",
}


def test_sound_packages_break_no_rule():
    assert violations(SOUND, {"train": "training.run"}) == []


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("errors", "from . import models", "higher layer 1"),
        ("errors", "from .models.cell import Cell", "higher layer 1"),
        ("errors", "def late():\n    from .training.run import train", "higher layer 5"),
        ("errors", "def late():\n    import rnas_zoo.training.run", "higher layer 5"),
        ("errors", "import importlib\nimportlib.import_module('.training.run', 'rnas_zoo')", "higher layer 5"),
        ("errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import cli", "higher layer 9"),
        ("errors", "from rnas_zoo import train", "higher layer 5"),
        ("errors", "import rnas_zoo", "the whole package"),
        ("models.cell", "from ..engine.loop import run", "higher layer 2"),
        ("models.cell", "from ..engine import loop", "higher layer 2"),
        ("models.cell", "from .. import engine", "higher layer 2"),
        ("engine.loop", "from ..models.cell import Cell", "must not import models.cell"),
        ("engine.loop", "from .. import models", "must not import models"),
        ("deploy", "from . import runtime", "must import nothing"),
        ("deploy.runtime", "from ..errors import UsageError", "must not import rnas_zoo.errors"),
        ("deploy.runtime", "def late():\n    import torch.nn", "must not import torch.nn"),
        ("deploy.runtime", "from timm import create_model", "must not import timm"),
        ("gadgets", "import json", "gadgets has no layer yet: place it"),
        ("deploy.gadgets", "import json", "deploy.gadgets has no layer yet: place it"),
        ("training.run", "from ..gadgets import x", "has no layer"),
    ],
)
def test_a_broken_rule_is_found(module, source, words):
    gadgets = {"gadgets": ""} if "gadgets" in source else {}
    broken = violations({**SOUND, **gadgets, module: source}, {"train": "training.run"})
    assert any(line.startswith(module) and words in line for line in broken), broken


# What importing costs


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_package_loads_no_heavy_library():
    heavy = ["torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "matplotlib", "onnx", "onnxruntime", "PIL",
             "huggingface_hub", "safetensors", "jinja2", "rich"]  # fmt: skip
    program = f"import sys, rnas_zoo\nprint(rnas_zoo.__version__, *(m for m in {heavy} if m in sys.modules))"
    assert run(program) == [rnas_zoo.__version__]


def test_models_are_registered_when_timm_is_imported_later():
    program = "import rnas_zoo, timm\nprint(timm.is_model('rnas_vuln_h'), timm.is_model('rnas_cl_s3'))"
    assert run(program) == ["True", "True"]


def test_models_are_registered_at_once_when_timm_is_there_already():
    program = """
import timm
print(len(timm.list_models("rnas*")))
import rnas_zoo
print(timm.is_model("rnas_vuln_h"), timm.is_model("rnas_cl_s3"))
"""
    assert run(program) == ["0", "True", "True"]


def test_reading_genotypes_loads_no_heavy_library():
    program = """
import sys
from rnas_zoo import genotype
genotype.named("vuln_h").hash
print(*(m for m in ("torch", "timm", "numpy") if m in sys.modules))
"""
    assert run(program) == []


def test_unknown_attributes_of_the_package_are_errors():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        rnas_zoo.serach
    assert set(rnas_zoo.__all__) <= set(dir(rnas_zoo))
