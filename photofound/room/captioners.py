"""Captions by vision-language models: of transformers, or behind an OpenAI-compatible endpoint.

Both answer a prompt for each of some pictures:

    captioner = open_captioner("Qwen/Qwen2.5-VL-3B-Instruct")           # a folder or a Hub id
    captioner = open_captioner("http://gpu-box:8000/v1", "my-model")    # vLLM, llama.cpp, a provider, ...
    captioner.captions(pictures, "Describe this photograph.", most=128)

The endpoint's key is that of the environment variable ``PHOTOFOUND_CAPTIONER_KEY``.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from photofound.device import fast_dtype, resolve_device
from photofound.endpoints import error_text, is_address
from photofound.errors import first_line

KEY = "PHOTOFOUND_CAPTIONER_KEY"
_TRIES = 6
_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds before the second try; doubled from try to try
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses of what may go well later
_OF_ONE = {400, 413, 415, 422}  # statuses that are about one picture
_LARGEST_ANSWER = 2**20  # bytes
_LONGEST = 4000  # characters of a caption
_LONGEST_REASON = 200  # characters of what a server says is wrong


class Captioner(Protocol):
    """Answers a prompt for pictures.

    Attributes:
        name: what a caption is recorded to be by.
        batch: how many pictures it takes at once.
        instructed: whether it follows a prompt in plain words; others know a few prompts of their own, or none.
    """

    name: str
    batch: int
    instructed: bool

    def captions(self, pictures: Sequence[np.ndarray], prompt: str, most: int) -> list[str | None]:
        """A caption for each of the pictures, (H, W, 3) uint8, of ``most`` tokens at most; None where there is none."""
        ...


def is_endpoint(place: str) -> bool:
    """Whether a captioner is asked behind a URL."""
    return "://" in place


def open_captioner(
    place: str, model: str | None = None, device: str = "auto", workers: int = 8, key: str | None = None
) -> Captioner:
    """A captioner by a folder, a Hub id, or the URL of an endpoint, which needs the name of its model.

    Args:
        workers: questions to an endpoint at once.
        key: of an endpoint; None: that of the environment.

    Raises FileNotFoundError, ImportError, or ValueError of one line.
    """
    if is_endpoint(place):
        return Endpoint(place, model, workers=workers, key=key)
    if model is not None:
        raise ValueError(f"captioner: --model is for a URL; {place} is a model itself, leave it out")
    return Pretrained(place, device)


class Recipe:
    """A captioner that is opened elsewhere: ``open_captioner`` with this machine's folders, and its key."""

    def __init__(self, place: str, model: str | None = None, workers: int = 8) -> None:
        self.away, self.name = is_endpoint(place), place.rstrip("/")
        self.place = os.path.abspath(place) if os.path.isdir(place) else place
        self.model, self.workers, self._key = model, workers, os.environ.get(KEY, "").strip()

    def __call__(self) -> Captioner:
        made = open_captioner(self.place, self.model, workers=self.workers, key=self._key)
        made.name = made.name if self.away else self.name  # as it was typed
        return made


def tidy(text: str | None) -> str | None:
    """A caption in one line without quotation marks around it; None for an empty one."""
    words = " ".join((text or "").split())
    if len(words) > 1 and words[0] == words[-1] and words[0] in "\"'`":
        words = words[1:-1].strip()
    return words[:_LONGEST] or None


# --------------------------------------------------------------------------------------------------------- transformers


class Pretrained:
    """A model of transformers that makes text of a picture and text, safetensors only; no code of it is run."""

    batch = 8

    def __init__(self, source: str, device: str = "auto") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.name, self.device = source.rstrip("/"), resolve_device(device, "device")
        dtype = fast_dtype() if self.device.type == "cuda" else torch.float32
        try:
            self.processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            net: Any = AutoModelForImageTextToText.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, dtype=dtype
            )
        except OSError as error:
            raise FileNotFoundError(f"captioner: {source} cannot be loaded: {first_line(error)}") from None
        except ValueError as error:
            raise ValueError(f"captioner: {source} makes no text of pictures: {first_line(error)}") from None
        self.net = net.requires_grad_(False).eval().to(self.device)
        self.instructed = bool(getattr(self.processor, "chat_template", None))
        if (tokenizer := getattr(self.processor, "tokenizer", None)) is not None:
            tokenizer.padding_side = "left"  # what is generated follows at the right
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.inference_mode()
    def captions(self, pictures: Sequence[np.ndarray], prompt: str, most: int) -> list[str | None]:
        images = [Image.fromarray(picture) for picture in pictures]
        given = self._inputs(images, prompt).to(self.device)
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                given[name] = value.to(self.net.dtype)
        made = self.net.generate(**given, max_new_tokens=most, do_sample=False)
        asked = given.get("input_ids")
        length = 0 if asked is None else asked.shape[1]
        if length and made.shape[1] >= length and torch.equal(made[:, :length], asked):
            made = made[:, length:]  # decoders repeat what they were asked
        texts = self.processor.batch_decode(made, skip_special_tokens=True)
        return [tidy(text) for text in texts]

    def _inputs(self, images: Sequence[Image.Image], prompt: str) -> Any:
        if not self.instructed:  # BLIP and GIT are asked nothing; Florence-2 and PaliGemma know words of their own
            text = {"text": [prompt] * len(images)} if prompt else {}
            return self.processor(images=list(images), return_tensors="pt", padding=True, **text)
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image in images
        ]
        options: dict[str, Any] = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
        return self.processor.apply_chat_template(chats, add_generation_prompt=True, **options)


# ------------------------------------------------------------------------------------------------------------- endpoint


class Endpoint:
    """A server that speaks OpenAI's chat completions with pictures. What fails and may go well later is asked again,
    after waits that double and as the server says (``Retry-After``).

    Args:
        url: where its API begins, such as ``http://gpu-box:8000/v1``.
        model: the model to ask for.
        seconds: how long an answer may take.
        workers: questions at once.
        key: its key; None: that of the environment.

    Raises ValueError for a URL that is none, and without a model.
    """

    instructed = True

    def __init__(
        self, url: str, model: str | None, seconds: float = 120.0, workers: int = 8, key: str | None = None
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise ImportError("an endpoint is asked by httpx, which is not installed; pip install httpx") from None
        if not is_address(url):
            raise ValueError(f"captioner: {url!r} is no URL of an API; give one such as http://gpu-box:8000/v1")
        if not model:
            raise ValueError(f"captioner: name the model that {url} is to be asked for, with --model")
        self.model, self.name, self.batch = model, f"{model} at {httpx.URL(url).host}", 4 * workers
        self.url = f"{url.rstrip('/')}/chat/completions"
        key = os.environ.get(KEY, "").strip() if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(seconds, connect=10.0))  # redirects: none
        self._failures: tuple[type[Exception], ...] = (httpx.TransportError,)
        self._pool = ThreadPoolExecutor(workers)

    def captions(self, pictures: Sequence[np.ndarray], prompt: str, most: int) -> list[str | None]:
        """Raises RuntimeError where it does not answer after six tries, ValueError where it refuses to."""
        return list(self._pool.map(lambda picture: self._one(picture, prompt, most), pictures))

    def _one(self, picture: np.ndarray, prompt: str, most: int) -> str | None:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=90)
        image = {"url": f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"}
        content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": prompt}]
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": most}
        reason, wait = "", _WAIT
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(wait * random.uniform(0.75, 1.25))  # not all at the same moment
            wait = min(_LONGEST_WAIT, _WAIT * 2**attempt)
            try:
                status, headers, answer = self._posted(body)
            except self._failures as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                continue
            if status == 200:
                return tidy(_text(answer))
            reason = f"status {status}: {error_text(answer, _LONGEST_REASON)}"
            if status in _OF_ONE:
                return None
            if status not in _AGAIN:
                advice = f"; set its key as {KEY}" if status in (401, 403) else ""
                raise ValueError(f"captioner: {self.url} refuses ({reason}){advice}")
            said = headers.get("retry-after", "")
            wait = min(_LONGEST_WAIT, float(said)) if said.replace(".", "", 1).isdigit() else wait
        raise RuntimeError(f"captioner: {self.url} does not answer ({reason}); the same command goes on later")

    def _posted(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        with self._http.stream("POST", self.url, json=body) as answer:
            received = bytearray()
            for part in answer.iter_bytes():
                received += part
                if len(received) > _LARGEST_ANSWER:
                    raise ValueError(f"captioner: {self.url} answers with more than {_LARGEST_ANSWER:,} bytes")
            return answer.status_code, answer.headers, bytes(received)


def _text(answer: bytes) -> str | None:
    """The words of an answer; None where it has none."""
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(content, list):  # some servers answer in parts
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else None
