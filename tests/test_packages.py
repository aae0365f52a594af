"""What `import cascade` and `import probes` offer, and what they cost."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import cascade
import probes

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
