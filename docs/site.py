"""Brings what lies outside of `docs/` and is linked from its pages into the site: pictures, and the paper's tables.

On disk a page links `../experiments/…`, which works wherever the file is read; the site holds these under
`experiments/`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINKED = ("experiments/RESULTS.md", "experiments/figures/*.png")


def on_files(files: Files, config: Any) -> Files:
    """Adds the linked files to those of the site."""
    for pattern in LINKED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to these files as they lie in the site."""
    if page.file.src_uri.startswith("experiments/"):
        return markdown
    return re.sub(r"\]\(((?:\.\./)*)\.\./experiments/", r"](\1experiments/", markdown)
