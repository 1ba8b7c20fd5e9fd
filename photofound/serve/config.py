"""The settings of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from photofound import image


@dataclass(frozen=True)
class ServeConfig:
    """How much work a server accepts, and from whom.

    Attributes:
        queue: requests that may wait; the next one is answered with 503.
        batch: largest number of requests that are computed together; 1 switches batching off.
        workers: threads that compute; more than 1 only where another server paints (``photofound.serve.upstream``).
        window: seconds that the first request of a batch waits for others like it.
        max_bytes: largest body of a request, checked while it arrives.
        max_pixels: largest picture, checked before it is decoded, and largest result.
        max_steps: largest number of sampling steps.
        max_uploads: bytes of all requests' bodies together, in memory and on disk; the next one is answered with 503.
        read_seconds: time to read one picture; after it, the process that reads it is killed.
        edit_seconds: time to compute an edit after it has begun, and again to write its result.
        jobs: file that jobs are kept in; ``:memory:`` = until the server ends, empty = there are no jobs.
        job_seconds: how long a job's result is kept.
        job_count: jobs that may wait.
        job_bytes: of all pictures of jobs together.
        callbacks: what the URLs of callbacks may begin with; empty = no callbacks.
        callback_key: what callbacks are signed with.
        formats: Pillow's names of the file formats that are read.
        segmenters: names that clients may ask for beside ``cutout`` and ``grabcut`` (``photofound.segmenters``).
        keys: API keys; empty = no key is needed.
        hosts: names in the header Host that are answered, beside addresses and localhost; empty = all.
        origins: pages elsewhere that may call the server from a browser, such as https://example.com; * = all.
        choices: folder in which POST /v1/choices keeps which results were chosen; "" = there is no such address.
        c2pa_cert, c2pa_key: PEM files by which results are signed (``photofound.picture.credentials``); "" = they are
            not.
    """

    queue: int = 32
    batch: int = 8
    workers: int = 1
    window: float = 0.005
    max_bytes: int = 32 * 2**20
    max_pixels: int = 24_000_000
    max_steps: int = 100
    max_uploads: int = 512 * 2**20
    read_seconds: float = 15.0
    edit_seconds: float = 300.0
    jobs: str = ":memory:"
    job_seconds: float = 86400.0
    job_count: int = 1000
    job_bytes: int = 2 * 2**30
    callbacks: tuple[str, ...] = ()
    callback_key: str = field(default="", repr=False)
    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF")
    segmenters: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    choices: str = ""
    c2pa_cert: str = ""
    c2pa_key: str = ""

    def __post_init__(self) -> None:
        for name in (
            "queue",
            "batch",
            "workers",
            "max_bytes",
            "max_pixels",
            "max_steps",
            "max_uploads",
            "job_count",
            "job_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"serve: {name} is {getattr(self, name)}; give 1 or more")
        if isinstance(self.keys, str) or not all(isinstance(key, str) and key.strip() for key in self.keys):
            raise ValueError("serve: keys must be a list of keys, none of them blank; give none to let everybody in")
        if bool(self.c2pa_cert) != bool(self.c2pa_key):
            raise ValueError("serve: c2pa_cert and c2pa_key belong together; give both, or none to sign nothing")
        if not 0 <= self.window <= 10:
            raise ValueError(f"serve: window is {self.window}; give seconds from 0 to 10")
        if not 0 < self.job_seconds <= 366 * 86400:
            raise ValueError(f"serve: job_seconds is {self.job_seconds}; give seconds, a year at most")
        for url in self.callbacks:
            if not re.fullmatch(r"https?://[^/?#@\s\\]+(/[^?#\s\\]*)?", url):
                raise ValueError(f"serve: callbacks has {url!r}; give addresses like https://shop.example/hooks")
        if self.callbacks and not self.callback_key:
            raise ValueError("serve: callbacks are signed; give a key for them (--callback-key-file)")
        for name in ("read_seconds", "edit_seconds"):
            if not 0 < getattr(self, name) <= 86400:
                raise ValueError(f"serve: {name} is {getattr(self, name)}; give seconds, more than 0")
        if unknown := [name for name in self.formats if name not in image.READABLE] or not self.formats:
            known = ", ".join(image.READABLE).lower()
            raise ValueError(f"serve: formats has {unknown if self.formats else 'nothing'}; give some of {known}")
