"""Uploads to pictures and results to bytes, without blocking the event loop and within a bound of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import UploadFile

from photofound.image import Picture
from photofound.picture.credentials import Signer
from photofound.picture.layers import Layer
from photofound.serve.config import ServeConfig
from photofound.serve.workers import Files

PROCESSES = 4
"""Processes that read and write pictures; each starts when it is needed."""

PICTURES = 3
"""Pictures of the largest size that are decoded at once: a photograph, its mask, a reference. Others wait as files."""


class PictureCodec:
    """Reads and writes pictures in the processes of ``Files``. The pixels that are decoded at once are bounded by the
    largest picture, not by the number of requests. One codec belongs to one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._files = Files(PROCESSES, config.max_pixels, config.formats)
        self._threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="photofound-files")
        self._signer = Signer(config.c2pa_cert, config.c2pa_key) if config.c2pa_cert and config.c2pa_key else None
        self.capacity = self._free = PICTURES * config.max_pixels + config.max_bytes // 3
        self._heads = asyncio.Semaphore(PROCESSES)
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()

    def close(self) -> None:
        """End all processes, at once."""
        self._files.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Room for ``pixels`` decoded pixels. Waits until others have left enough, first come, first served."""
        async with self._turn:
            while self._free < pixels:
                self._changed.clear()
                await self._changed.wait()
            self._free -= pixels
        try:
            yield
        finally:
            self._free += pixels
            self._changed.set()

    async def weigh(self, upload: UploadFile, name: str) -> int:
        """How much ``room`` a picture needs: its pixels, and a pixel for three bytes of its file. Raises HTTPException
        413 for too many pixels, ValueError for a file that is no picture."""
        async with self._heads:
            data = await upload.read()
            await upload.seek(0)
            if not data:
                raise ValueError(f"{name}: is empty (0 bytes); send a picture")
            width, height = await self._run(self._files.size, data, name, self.config.read_seconds)
        if width * height > self.config.max_pixels:
            size, limit = f"{width}x{height}, {width * height / 1e6:.1f} megapixels", self.config.max_pixels / 1e6
            raise HTTPException(413, f"{name}: is {size}; this server takes up to {limit:.1f}, send it smaller")
        return width * height + len(data) // 3

    async def read(self, upload: UploadFile, name: str, strip: bool, warn: Callable[[str], None]) -> Picture:
        """The picture in an upload; ``strip``: without the place where it was taken; ``warn`` gets what is lost in
        reading. Raises ValueError for a file that is no whole picture."""
        limits = (self.config.max_pixels, self.config.read_seconds)
        return await self._run(self._files.read, await upload.read(), name, *limits, strip, warn)

    async def write(
        self,
        result: Picture,
        format: str,
        mark: bool,
        whole: bool,
        generated: bool,
        warn: Callable[[str], None],
        photograph: UploadFile | None = None,
    ) -> bytes:
        """The result's file, with the photograph's profile and metadata; ``mark``: they say what ``provenance.mark``
        says with ``whole`` and ``generated``, and it is signed if the server has a certificate; ``warn`` gets what the
        format cannot hold. The key stays in this process: those that read strangers' files never see it."""
        told = mark, whole, generated
        data = await self._run(self._files.write, result, format, self.config.edit_seconds, *told, warn)
        if self._signer is None or not (mark and generated and result.generated):
            return data
        if photograph is not None:
            await photograph.seek(0)
        parent = None if photograph is None else await photograph.read()
        try:
            return await self._run(self._signer.sign, data, format, parent, whole)
        except ValueError as error:  # BMP holds no manifest
            warn(str(error))
            return data

    async def write_layers(
        self,
        found: Sequence[Layer],
        flat: Picture,
        kind: str,
        mark: bool,
        whole: bool,
        generated: bool,
        warn: Callable[[str], None],
    ) -> bytes:
        """A file of layers and their flat picture, which has the metadata; ``kind`` as in ``layered.encode``, the rest
        as in ``write``. No credentials: the formats hold none."""
        told = mark, whole, generated
        return await self._run(self._files.write_layers, found, flat, kind, self.config.edit_seconds, *told, warn)

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
