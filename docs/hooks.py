"""mkdocs: pages that do not lie in docs/. The embedded model's card lies beside its weights; docs/pages.py makes those
of the command line, the server and the settings of training from the code."""

from pathlib import Path
from typing import Any

import pages
from mkdocs.structure.files import File, Files

CARD = "model-card.md"


def on_files(files: Files, config: Any) -> Files:
    folder = Path(config.config_file_path).parent / "photofound" / "weights" / "nano"
    files.append(File.generated(config, CARD, abs_src_path=str(folder / "README.md")))
    for picture in sorted(folder.glob("*.jpg")):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    for name, make in pages.PAGES.items():
        files.append(File.generated(config, name, content=make()))
    return files
