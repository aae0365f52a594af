"""Puts `configs/` into the package as it is built; all else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the YAML files to `cascade/configs`, where an installed package finds them."""

    def run(self) -> None:
        """As setuptools does, and the copies after it; not for an editable install, whose checkout has the files."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "cascade", "configs")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(__file__).parent / "configs", target)


setup(cmdclass={"build_py": BuildWithConfigs})
