"""A finished run on the Hub: looked at before the first step, filled after the last; no token, and nothing lost."""

from dataclasses import dataclass
from types import SimpleNamespace

import huggingface_hub
import pytest
from test_trainer import TOY, Regression

from photofound.train import hub
from photofound.train.settings import HubConfig, TrainConfig
from photofound.training import launch

TOKEN = "hf_abcdefghijklmnop"


@dataclass(frozen=True)
class Config:
    """A toy's."""

    train: TrainConfig = TOY
    hub: HubConfig = HubConfig("me/cups")


def run(folder, *more):
    return launch(Config, lambda config, world: Regression(), [f"--run-dir={folder}", *more], None)


@pytest.fixture
def there(monkeypatch):
    """What the Hub was asked; ``fail`` names the function that answers with an error."""
    asked = SimpleNamespace(calls=[], fail=None, private=True)

    def answering(name, answer=None):
        def call(*args, **kwargs):
            asked.calls.append((name, args, kwargs))
            if asked.fail == name:
                raise OSError(f"401 of https://huggingface.co\nauthorization: Bearer {TOKEN}")
            return answer() if answer else None

        monkeypatch.setattr(huggingface_hub, name, call)

    answering("create_repo")
    answering("upload_folder")
    answering("repo_info", lambda: SimpleNamespace(private=asked.private))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    return asked


def test_the_model_goes_to_a_private_repository(there, tmp_path):
    config = HubConfig("me/cups")
    hub.check(config)
    assert there.calls[0] == ("create_repo", ("me/cups",), {"private": True, "exist_ok": True})
    assert hub.push(config, tmp_path) is None
    name, _, given = there.calls[-1]
    assert (name, given["repo_id"], given["folder_path"]) == ("upload_folder", "me/cups", tmp_path)
    hub.check(HubConfig("me/cups", private=False))
    assert there.calls[-2][2]["private"] is False


def test_a_mistake_shows_before_the_run(there, monkeypatch):
    hub.check(HubConfig())
    assert not there.calls  # nobody who does not ask for it
    there.private = False
    with pytest.raises(ValueError, match="hub.private: me/cups is there and public; set hub.private=false"):
        hub.check(HubConfig("me/cups"))
    there.fail = "create_repo"
    with pytest.raises(ValueError, match="hub.repo_id: me/cups cannot be written to .401") as caught:
        hub.check(HubConfig("me/cups"))
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="nobody is logged in; call 'hf auth login' once, or set HF_TOKEN"):
        hub.check(HubConfig("me/cups"))


def test_a_failed_upload_loses_nothing_and_is_tried_again(there, tmp_path, capsys):
    folder = tmp_path / "run"
    there.fail = "upload_folder"
    assert run(folder) == 1
    told = capsys.readouterr()
    assert "did not get the model" in told.err and "--resume latest" in told.err and TOKEN not in told.err + told.out
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in (folder / "model").rglob("*"))
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    there.fail, there.calls[:] = None, []
    assert run(folder, "--resume=latest") == 0
    assert [name for name, *_ in there.calls] == ["create_repo", "repo_info", "upload_folder"]


def test_a_run_that_may_not_write_there_does_not_begin(there, tmp_path, capsys):
    there.fail = "create_repo"
    assert run(tmp_path / "run") == 2
    assert "hub.repo_id: me/cups cannot be written to" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
