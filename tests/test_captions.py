"""Captions by vision-language models, of transformers or behind an endpoint that fails at times, and in a room."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers import encoded, noise
from PIL import Image

from photofound import Room, cli
from photofound.data.sources import Source, open_source, raw
from photofound.data.table import Table
from photofound.room import captioners
from photofound.room.captioners import KEY, Endpoint, open_captioner, tidy


class Server:
    """An OpenAI-compatible endpoint. ``answers``: the next statuses, then always 200; ``asked``: bodies, headers."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.asked: list[tuple[dict, dict[str, str]]] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.asked.append((body, dict(self.headers) | {"path": self.path}))
                    status, headers = outer.answers.pop(0) if outer.answers else (200, {})
                image, text = body["messages"][0]["content"]
                picture = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2])))
                said = f'"{text["text"].split()[0]}  {picture.width}x{picture.height}"'
                answer = (
                    {"choices": [{"message": {"content": said}}]} if status == 200 else {"error": {"message": "no"}}
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(captioners, "_WAIT", 0.001)
    monkeypatch.delenv(KEY, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def room(tmp_path):
    """Three pictures; the first has a caption of its source, the second a short one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ({"text": "a cup of coffee on a table"}, {"caption_short": "its source says"}, {})
    lines = [json.dumps({"file_name": f"{i}.png"} | row) for i, row in enumerate(rows)]
    for i in range(3):
        (folder / f"{i}.png").write_bytes(encoded(noise(24, 32 + i, seed=i)))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    made = Room(tmp_path / "room")
    made.add(folder, embed=[])
    return made


def column(room: Room, name: str) -> list[str | None]:
    """A column in the order of the files' names."""
    rows = [row for batch in Table(room.folder).scan(["name", name]) for row in batch.to_pylist()]
    return [row[name] for row in sorted(rows, key=lambda row: row["name"])]


def test_captions_come_once_each_in_its_column_with_who_made_it(room, server):
    prompts = {"short": "Briefly, please", "dense": "All of it"}
    found = room.caption(
        server.url, model="seer", prompts=prompts, where="caption_short IS NOT NULL OR caption IS NULL"
    )
    assert found.made == {"short": 1, "dense": 2} and not found.none
    assert column(room, "caption_short") == [None, "its source says", "Briefly, 34x24"]
    assert column(room, "caption_dense") == [None, "All 33x24", "All 34x24"]
    assert column(room, "caption_short_by") == [None, None, "seer at 127.0.0.1"]
    assert column(room, "caption_dense_prompt") == [None, "All of it", "All of it"]
    assert room.caption(server.url, model="seer", prompts=prompts).made == {"short": 1, "dense": 1}
    assert column(room, "caption")[0] == "a cup of coffee on a table", "the source's own stays"
    count = len(server.asked)
    assert room.caption(server.url, model="seer", prompts=prompts).made == {"short": 0, "dense": 0}
    assert len(server.asked) == count
    again = room.caption(server.url, model="seer", kinds=["short"], prompts={"short": "Once more"}, replace=True)
    assert again.made == {"short": 3} and column(room, "caption_short")[1] == "Once 33x24"
    again = room.caption(server.url, model="seer", kinds=["short"], prompts={"short": "Once more"}, replace=True)
    assert again.made == {"short": 0}
    source = Source(room=str(room.folder), captions={"caption_dense": 1.0}, where="width = 34")
    assert [raw(row, source).captions for row in open_source(source)] == [[("All 34x24", 1.0)]]


def test_what_fails_is_asked_again_and_a_refused_picture_is_left_out(server):
    server.answers = [(429, {"Retry-After": "0"}), (503, {}), (500, {})]
    asked = Endpoint(server.url, "seer", workers=1)
    picture = noise(9, 9)
    assert asked.captions([picture], "Say", 20) == ["Say 9x9"] and len(server.asked) == 4
    body, headers = server.asked[0]
    assert body["model"] == "seer" and body["max_tokens"] == 20 and headers["path"] == "/v1/chat/completions"
    assert "Authorization" not in headers
    server.answers = [(400, {})]
    assert asked.captions([picture, picture], "Say", 20) == [None, "Say 9x9"]


def test_a_server_that_stays_down_or_refuses_is_one_line_and_what_was_made_stays(room, server, monkeypatch, capsys):
    monkeypatch.setenv(KEY, "secret-key")
    server.answers = [(200, {})] * 2 + [(503, {})] * 6
    words = ["room", "caption", str(room.folder), "--captioner", server.url, "--model", "seer", "--kind", "dense"]
    monkeypatch.setattr(Endpoint, "batch", 1, raising=False)
    assert cli.main([*words, "--workers", "1"]) != 0
    said = capsys.readouterr().err
    assert "does not answer (status 503: no)" in said and "secret-key" not in said
    assert server.asked[0][1]["Authorization"] == "Bearer secret-key"
    server.answers = [(401, {})]
    assert cli.main(words) != 0
    assert f"set its key as {KEY}" in capsys.readouterr().err
    assert cli.main(words) == 0 and "dense captions made" in capsys.readouterr().out
    assert None not in column(room, "caption_dense")


def test_scores_of_captions_that_change_are_given_anew(room, server):
    room.filter("caption", "resolution=8")
    assert column(room, "score_caption")[2] is None
    room.caption(server.url, model="seer", kinds=["short"])
    assert column(room, "kept")[0] is True and column(room, "score_caption")[0] is not None, (
        "judged by its source's own"
    )
    first = room.filter()
    assert first.computed == 1 and None not in column(room, "kept")
    room.caption(server.url, model="seer", kinds=["dense"])
    assert column(room, "score_caption")[0] is not None and column(room, "score_caption")[1:] == [None, None]
    assert column(room, "kept")[1:] == [None, None]


@pytest.mark.parametrize(
    ("place", "model", "match"),
    [("ftp://host/v1", "m", "no URL of an API"), ("http://user:word@host/v1", "m", "no URL of an API"),
     ("http://host/v1", None, "--model"), ("folder", "m", "leave it out"), ("/no/such", None, "cannot be loaded")],
)  # fmt: skip
def test_what_is_no_captioner_is_one_line(place, model, match):
    with pytest.raises((ValueError, OSError), match=match):
        open_captioner(place, model)


def test_captions_are_one_line():
    assert tidy(' "A cup\n on a  table." ') == "A cup on a table." and tidy("  ") is None and tidy(None) is None
    assert tidy('"') == '"' and len(tidy("a " * 9000)) == 4000


# -------------------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Untrained models: one that chats, and one that is asked nothing."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("captioners")
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER", "SAY", "a", "cup", "red", "table", "on", "the"]
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    vision = small | {"image_size": 16, "patch_size": 8}
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<image>"], **special)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    template = (
        "USER {% for m in messages %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}SAY"
    )
    LlavaProcessor(
        CLIPImageProcessorPil(**size), tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=template, image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(folder / "chat")  # fmt: skip
    text = LlamaConfig(**small, vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    seen = CLIPVisionConfig(**vision)
    config = LlavaConfig(vision_config=seen, text_config=text, image_token_index=4, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder / "chat")

    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cup", "table"]))
    bert = BertTokenizer(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessorPil(size={"height": 16, "width": 16}), bert).save_pretrained(folder / "plain")
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "vocab_size": 8}
    text = small | ends | {"encoder_hidden_size": 16}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder / "plain")
    return folder


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_a_model_of_transformers_says_the_same_of_a_picture_in_any_company(folder, kind):
    made = open_captioner(str(folder / kind))
    assert made.instructed is (kind == "chat")
    pictures = [noise(20, 30, seed=1), noise(33, 18, seed=2), np.zeros((16, 16, 3), np.uint8)]
    prompt = "red cup on the table" if made.instructed else ""
    together = made.captions(pictures, prompt, 6)
    assert len(together) == 3 and together == [made.captions([p], prompt, 6)[0] for p in pictures]
    assert not any(said and ("USER" in said or "<image>" in said) for said in together), "no prompt comes back"


def test_a_model_without_instructions_makes_short_captions_only(folder, room):
    found = room.caption(str(folder / "plain"))
    assert set(found.made) == {"short"} and found.made["short"] + found.none == 2
    with pytest.raises(ValueError, match="follows no instructions"):
        room.caption(str(folder / "plain"), kinds=["dense"])
    with pytest.raises(ValueError, match="'long' is no kind"):
        room.caption(str(folder / "chat"), kinds=["long"])
