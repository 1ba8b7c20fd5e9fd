"""Another server as the painter: a gateway that keeps exactly what had to be kept.

    photofound serve --upstream https://api.example/v1

The other server speaks OpenAI's images API. It is sent a crop around the hole, or for an instruction the whole
photograph, in one of the sizes that it makes. Such servers return the whole picture anew: moved by a few pixels,
zoomed, tinted, compressed. What comes back is put where it belongs (``photofound.edits.registration``), its colours are
matched beside the hole, the seam is closed, and the photograph's own pixels are put back. The note of a result says how
many of them the other server had altered.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from photofound.edits import regions, registration
from photofound.edits.geometry import Box, parse_size
from photofound.edits.regions import Part
from photofound.edits.task import Condition, Job, Task
from photofound.endpoints import error_text, is_address
from photofound.errors import one_line
from photofound.guests import GuestPipeline
from photofound.image import Picture, from_tensor, to_tensor
from photofound.painter import Abilities, Painter
from photofound.sampling import Callback
from photofound.serve.queue import UpstreamFailed
from photofound.serve.workers import Files

SIZES = ("1024x1024", "1536x1024", "1024x1536")
"""What most models of this API make."""

MOST_BYTES = 64 * 2**20
"""Of an answer: a picture of 24 megapixels in base64."""

_VISIBLE = 8  # of 255: a difference that is seen, where the least one is rounding
_SHAPE = 0.02  # how much the answer's shape may differ from the one that was asked for
_READ_SECONDS = 15.0
_LONGEST_REASON = 300  # characters of what an upstream says
# What is asked for where the user says nothing: the API wants words.
_PROMPTS = {
    "erase": "Remove what is in the transparent area, and continue the background there.",
    "expand": "Continue the photograph into the transparent area.",
    "outpaint": "A plain, softly lit studio background.",
    "inpaint": "Fill the transparent area so that it fits the photograph around it.",
}


class Upstream:
    """A server that speaks OpenAI's images API. All methods may be called from any thread.

    Args:
        url: where its API begins, such as ``https://api.example/v1``; ``/v1`` is added to a bare host.
        key: its API key, or None.
        model: the model to ask for; None leaves that to it.
        sizes: WxH that it makes; one is chosen by the shape of the picture.
        seconds: how long an answer may take.
        max_pixels: largest picture that is taken from it.

    Raises ValueError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        model: str | None = None,
        sizes: Sequence[str] = SIZES,
        seconds: float = 120.0,
        max_pixels: int = 24_000_000,
    ) -> None:
        self.url, self.model, self.seconds, self.max_pixels = _checked(url), model, seconds, max_pixels
        self.sizes = [parse_size(size, 8192) for size in sizes]
        self.name_or_path = model or "upstream"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(seconds, connect=10.0))  # redirects: none
        self._files = Files(2, max_pixels, ("PNG", "JPEG", "WEBP"))
        self._wants_format = False  # some servers answer with a URL unless they are asked for the picture itself

    def close(self) -> None:
        """End its processes and connections."""
        self._http.close()
        self._files.close()

    def frame(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) that a picture fits best."""
        return max(self.sizes, key=lambda size: _filled(size, width, height))

    def edit(self, picture: np.ndarray, hole: np.ndarray | None, prompt: str) -> np.ndarray:
        """Ask for an edit of ``picture``, (H, W, 3) uint8 in one of the sizes; ``hole`` (H, W) bool, True = repaint,
        None = anywhere. Returns (h, w, 3) float32 in [0, 1]. Raises UpstreamFailed."""
        sent = {"image": ("image.png", _png(picture), "image/png")}
        if hole is not None:
            alpha = np.where(hole, 0, 255).astype(np.uint8)
            sent["mask"] = ("mask.png", _png(np.dstack([picture, alpha])), "image/png")
        return self._ask("images/edits", self._fields(prompt, picture.shape[1::-1]), sent)

    def generate(self, prompt: str, size: tuple[int, int]) -> np.ndarray:
        """Ask for a picture of words, (h, w, 3) float32 in [0, 1]. Raises UpstreamFailed."""
        return self._ask("images/generations", self._fields(prompt, size), None)

    def _fields(self, prompt: str, size: Sequence[int]) -> dict[str, Any]:
        fields = {"prompt": prompt, "n": 1, "size": f"{size[0]}x{size[1]}"}
        return fields | ({"model": self.model} if self.model else {})

    def _ask(self, path: str, fields: dict[str, Any], sent: dict[str, Any] | None) -> np.ndarray:
        wants_format = self._wants_format  # one value for this question: others are asked beside it
        for _ in range(2):
            asked = fields | ({"response_format": "b64_json"} if wants_format else {})
            body = {"json": asked} if sent is None else {"data": asked, "files": sent}
            answer = self._posted(f"{self.url}/{path}", body)
            data = answer.get("data") if isinstance(answer, dict) else None
            first = data[0] if isinstance(data, list) and data else None
            if isinstance(first, dict) and isinstance(text := first.get("b64_json"), str):
                return self._decoded(text)
            if wants_format or not (isinstance(first, dict) and "url" in first):
                break
            wants_format = self._wants_format = True  # a URL of its choice is not fetched
        raise UpstreamFailed("answered without a picture (data[0].b64_json)")

    def _posted(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON of an answer, within bounds of size and time."""
        until, received = time.monotonic() + self.seconds, bytearray()
        try:
            with self._http.stream("POST", url, **body) as answer:
                for chunk in answer.iter_bytes():
                    received += chunk
                    if len(received) > MOST_BYTES:
                        raise UpstreamFailed(f"answered with more than {MOST_BYTES // 2**20} MiB")
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("late")
        except httpx.TimeoutException:
            raise UpstreamFailed(f"did not answer within {self.seconds:g} s; try again later", 504) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UpstreamFailed(f"cannot be reached ({type(error).__name__}); try again later") from None
        if answer.status_code != 200:
            raise _refusal(answer, bytes(received))
        try:
            return json.loads(received)
        except (ValueError, RecursionError):
            raise UpstreamFailed("answered with something that is no JSON") from None

    def _decoded(self, text: str) -> np.ndarray:
        try:
            data = base64.b64decode(text, validate=True)
            made = self._files.read(data, "its picture", self.max_pixels, _READ_SECONDS)
        except (ValueError, MemoryError, RuntimeError) as error:
            reason = "base64" if isinstance(error, binascii.Error) else one_line(error)
            raise UpstreamFailed(f"answered with a picture that cannot be read: {reason}") from None
        return made.rgb()


@dataclass(frozen=True)
class UpstreamPainter(Painter):
    """An upstream as a guest's painter. ``told`` collects what to tell of its answers."""

    told: list[str] = field(default_factory=list)

    def paint(
        self,
        condition: Condition,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator | None],
        step: Callable[[int], None] | None = None,
        negative: str = "",
    ) -> Tensor:
        if negative:
            raise ValueError("negative_prompt: this API takes none; say it in the prompt")
        made = [self._painted(each) for each in condition.split()]
        if step is not None:
            step(0)
        return torch.cat(made)

    def _painted(self, condition: Condition) -> Tensor:
        """(1, 3, H, W) in [-1, 1]: its answer, where it belongs and in the colours that were given."""
        given, hole = from_tensor(condition.canvas), condition.hole[0, 0].cpu().numpy() > 0.5
        (task,), (prompt,) = condition.task, condition.prompt
        prompt = prompt.strip() or _PROMPTS.get(task, "")
        frame = Frame.around(given.shape[:2], self.pipe.frame(*given.shape[1::-1]))
        if task == "generate":
            return to_tensor(frame.cropped(frame.fitted(self.pipe.generate(prompt, frame.size))))
        sent = frame.padded(np.rint(given * 255).astype(np.uint8))
        anywhere = bool(hole.all())
        marked = None if anywhere else frame.padded(hole, outside=True)
        made = frame.cropped(frame.fitted(self.pipe.edit(sent, marked, prompt)))
        if anywhere:  # what changes is not known yet; most of it will be as it was
            hole = np.zeros_like(hole)
        else:
            self.told.append(altered(made, given, hole))
        found = registration.register(made, given, hole)
        if found.failed:
            self.told.append(
                f"it did not return this picture (agreement {found.agreement:.2f}), so the rest may not fit"
            )
            return to_tensor(made)
        if (moved := found.shift(given.shape[1::-1])) >= 0.5:
            self.told.append(f"it had moved the picture by up to {moved:.1f} pixels, which is undone")
        made = registration.aligned(made, found)
        return to_tensor(registration.toned(made, given, hole) if hole.any() else made)


@dataclass(frozen=True)
class Frame:
    """Where a picture lies in one of the sizes that an upstream makes; ``size`` is (width, height)."""

    size: tuple[int, int]
    box: Box

    @classmethod
    def around(cls, shape: tuple[int, ...], size: tuple[int, int]) -> Frame:
        """In the middle."""
        left, top = (size[0] - shape[1]) // 2, (size[1] - shape[0]) // 2
        return cls(size, Box(left, top, left + shape[1], top + shape[0]))

    def padded(self, picture: np.ndarray, outside: bool | None = None) -> np.ndarray:
        """A picture or mask in the frame: its edge goes on around it, or the value ``outside``."""
        rows = (self.box.top, self.size[1] - self.box.bottom)
        columns = (self.box.left, self.size[0] - self.box.right)
        widths = [rows, columns] + [(0, 0)] * (picture.ndim - 2)
        if outside is None:
            return np.pad(picture, widths, mode="edge")
        return np.pad(picture, widths, constant_values=outside)

    def fitted(self, made: np.ndarray) -> np.ndarray:
        """An answer in the frame's size. Raises UpstreamFailed if its shape is another."""
        height, width = made.shape[:2]
        if abs(math.log(width / height) - math.log(self.size[0] / self.size[1])) > _SHAPE:
            asked = f"{self.size[0]}x{self.size[1]}"
            raise UpstreamFailed(f"made {width}x{height} where {asked} was asked for; see --upstream-sizes")
        if (width, height) == self.size:
            return made
        how = cv2.INTER_AREA if width > self.size[0] else cv2.INTER_CUBIC
        return cv2.resize(made, self.size, interpolation=how).clip(0, 1)

    def cropped(self, made: np.ndarray) -> np.ndarray:
        """The picture's part of an answer."""
        return np.ascontiguousarray(made[self.box.slices])


def altered(made: np.ndarray, given: np.ndarray, hole: np.ndarray) -> str:
    """How many pixels outside the hole are not as they were sent, in words; (H, W, 3) float32 in [0, 1]."""
    sent, back = np.rint(given * 255).astype(np.int16), np.rint(made * 255).astype(np.int16)
    difference = np.abs(sent - back).max(-1)[~hole]
    count, visible = int((difference > 0).sum()), int((difference > _VISIBLE).sum())
    share, seen = count / max(1, difference.size), visible / max(1, difference.size)
    return (
        f"the upstream had altered {count} of {difference.size} protected pixels ({share:.0%}; {seen:.0%} visibly), "
        "which are the photograph's again"
    )


class UpstreamPipeline(GuestPipeline):
    """Our tasks, painted by another server."""

    painter: UpstreamPainter

    def __init__(self, upstream: Upstream) -> None:
        DiffusionPipeline.__init__(self)
        self._calls = {}
        longest = max(max(size) for size in upstream.sizes)
        can = Abilities(True, True, True, "", 0, longest, 1, 1, 1.0, "guidance_scale")
        self._adopt(UpstreamPainter(upstream, can))

    @classmethod
    def _family(cls) -> Any:
        return UpstreamPipeline

    @property
    def _execution_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def precision(self) -> torch.dtype:
        return torch.float32

    def fingerprint(self) -> dict[str, Any]:
        """No digest: nobody knows what the other server computes with."""
        return {"name": self.painter.pipe.name_or_path}

    def to(self, *args: Any, **kwargs: Any) -> UpstreamPipeline:
        return self

    @property
    def _networks(self) -> dict[str, Any]:
        return {}

    @property
    def parameter_count(self) -> int:
        return 0

    def _parts(self, task: Task, job: Job) -> list[Part]:
        """One question for each edit, however many holes it has, at the largest size that fits a frame."""
        hole = np.ones_like(job.hole) if task.fit != "hole" else job.hole
        box = regions.whole(hole, self.config.tile).box
        frame = self.painter.pipe.frame(box.width, box.height)
        scale = min(frame[0] / box.width, frame[1] / box.height)
        size = min(frame[1], max(1, round(box.height * scale))), min(frame[0], max(1, round(box.width * scale)))
        return [Part(box, size)]

    @torch.no_grad()
    def paint(
        self,
        jobs: Sequence[Job],
        generators: Sequence[torch.Generator | None],
        steps: int,
        guidance: float,
        callback: Callback | None = None,
    ) -> list[Picture]:
        """Job by job, with what is to be told of each."""
        pictures = []
        for job, generator in zip(jobs, generators, strict=True):
            self.painter.told.clear()
            (made,) = super().paint([job], [generator], steps, guidance, callback)
            pictures.append(replace(made, note="; ".join(filter(None, [made.note, *self.painter.told]))))
        return pictures


def _checked(url: str) -> str:
    """A URL without a slash at its end. Raises ValueError for one that cannot be asked."""
    if not is_address(url):
        raise ValueError(f"upstream: {url!r} is no address; give one like https://api.example/v1, its key in a file")
    return f"{url.rstrip('/')}/v1" if httpx.URL(url).path in ("", "/") else url.rstrip("/")


def _filled(size: tuple[int, int], width: int, height: int) -> float:
    """The share of a frame that a picture fills."""
    scale = min(size[0] / width, size[1] / height)
    return scale * scale * width * height / (size[0] * size[1])


def _png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _refusal(answer: httpx.Response, body: bytes) -> UpstreamFailed:
    """What to tell our client of an answer that is none."""
    status = answer.status_code
    if status in (401, 403):
        return UpstreamFailed("does not accept this server's key; whoever runs this server must see to it")
    if status == 429 or status == 503:
        wait = answer.headers.get("retry-after", "")
        seconds = min(3600, int(wait)) if wait.isdecimal() and len(wait) < 6 else 30
        return UpstreamFailed(f"is busy; try again in {seconds} s", 503, seconds)
    if status in (400, 413, 422):
        return UpstreamFailed(f"refused the edit: {error_text(body, _LONGEST_REASON)}", 422)
    return UpstreamFailed(f"answered with status {status}")


def read_key(path: str | Path | None) -> str | None:
    """The key for an upstream: the first one in a file, or the environment variable PHOTOFOUND_UPSTREAM_KEY."""
    from photofound.serve.keys import read_keys

    found = read_keys(path, variable="PHOTOFOUND_UPSTREAM_KEY")
    return found[0] if found else None
