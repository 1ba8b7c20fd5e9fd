"""mkdocs: the embedded model's card, which lies beside its weights, is a page of the documentation, too."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "model-card.md"


def on_files(files: Files, config: Any) -> Files:
    folder = Path(config.config_file_path).parent / "photofound" / "weights" / "nano"
    files.append(File.generated(config, PAGE, abs_src_path=str(folder / "README.md")))
    for picture in sorted(folder.glob("*.jpg")):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files
