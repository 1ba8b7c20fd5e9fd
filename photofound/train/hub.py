"""A run's model on the Hub: the repository is looked at before the first step, and filled after the last one.

The token is huggingface_hub's own business (``hf auth login``, or HF_TOKEN): no option holds one, no file and no line
of a run names one.
"""

from __future__ import annotations

import re
from pathlib import Path

from photofound.errors import one_line
from photofound.train.settings import HubConfig

_TOKEN = re.compile(r"hf_\w+|Bearer\s+\S+")


def check(config: HubConfig) -> None:
    """Make the repository, if it is not there, so that a mistake shows before the run and not after it.

    Raises ValueError without a token, for a name that cannot be, for a repository that nobody here may write to, and
    for one that is public where ``config.private`` wants it private.
    """
    import huggingface_hub

    if config.repo_id is None:
        return
    if huggingface_hub.get_token() is None:
        raise ValueError("hub.repo_id: nobody is logged in; call 'hf auth login' once, or set HF_TOKEN")
    try:
        huggingface_hub.create_repo(config.repo_id, private=config.private, exist_ok=True)
        private = huggingface_hub.repo_info(config.repo_id).private
    except Exception as error:  # of the network, the Hub, the name
        raise ValueError(f"hub.repo_id: {config.repo_id} cannot be written to ({_told(error)})") from None
    if config.private and not private:
        raise ValueError(f"hub.private: {config.repo_id} is there and public; set hub.private=false, or name another")


def push(config: HubConfig, model: Path) -> str | None:
    """Upload the folder of a finished run. Returns what went wrong in a line, or None: the model stays where it is."""
    import huggingface_hub

    assert config.repo_id is not None
    try:
        huggingface_hub.upload_folder(
            repo_id=config.repo_id, folder_path=model, commit_message="Upload a model trained with photofound"
        )
    except Exception as error:
        return (
            f"hub: {config.repo_id} did not get the model ({_told(error)}); it is whole in {model}: try again with "
            f"--resume latest, or 'hf upload {config.repo_id} {model}'"
        )
    return None


def _told(error: Exception) -> str:
    """An error in a line, without anything that looks like a token."""
    return _TOKEN.sub("***", one_line(error))[:300]
