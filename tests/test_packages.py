"""What `import cascade` and `import probes` offer and cost, and what they are installed with."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cascade
import probes

ROOT = Path(__file__).parents[1]
PACKAGES = pytest.mark.parametrize("package", [cascade, probes], ids=lambda package: package.__name__)


@PACKAGES
def test_every_name_loads_and_hides_no_module(package):
    assert dir(package) == package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert importlib.util.find_spec(f"{package.__name__}.{name}") is None
    assert not hasattr(package, "nothing")


@PACKAGES
def test_type_checkers_see_the_names_where_they_are_loaded_from(package):
    (branch,) = [node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in branch.body for alias in node.names}
    assert sorted(seen) == package.__all__
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(package, name)
    assert Path(package.__file__).with_name("py.typed").is_file()


@PACKAGES
def test_importing_it_loads_nothing_heavy(package):
    code = f"import sys, {package.__name__}; print({{'torch', 'numpy', 'pyarrow', 'lightning'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package to its version and the hashes of its files, of a lock file."""
    text = (ROOT / name).read_text()
    found = re.findall(r"^([\w.-]+)==(\S+)[^\n]*((?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)*)", text, re.MULTILINE)
    return {plain(package): (version, re.findall("--hash=", hashes)) for package, version, hashes in found}


def plain(package: str) -> str:
    return re.split(r"[\[<>=!~; ]", package)[0].lower().replace("_", "-")


def test_everything_that_make_installs_is_of_the_tested_version_and_has_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {plain(name): version for name, version in pins.items()}
    run, dev, torch = (locked(f"requirements{end}.lock") for end in ("", "-dev", "-torch"))
    extras = project["optional-dependencies"]
    runs = (name for extra in ("train", "serve", "endpoints", "eval", "wandb") for name in extras[extra])
    wanted = {plain(name) for name in (*project["dependencies"], *runs)}
    assert wanted <= run.keys() | torch.keys()
    assert (
        wanted | {plain(name) for extra in ("dev", "docs") for name in extras[extra]} - {"confidence-cascade"}
        <= dev.keys() | torch.keys()
    )
    for name, (version, hashes) in {**run, **dev, **torch}.items():
        assert hashes, f"{name} has no hash"
        assert version == pins.get(name, version), name
