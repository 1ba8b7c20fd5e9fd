"""What ``benchmarks/serving.py`` compares with: the server that one writes in an afternoon.

FastAPI, a diffusers pipeline behind a lock, Pillow for the files. The same weights, steps and precision, the same form;
no batches, no limits.

    python benchmarks/plain_server.py --port 8001
"""

from __future__ import annotations

import argparse
import io
import threading
from typing import Annotated

import torch
import uvicorn
from fastapi import FastAPI, Form, Response, UploadFile
from PIL import Image

from photofound import InpaintPipeline
from photofound.device import fast_dtype
from photofound.serve.connections import listen


def application(model: str | None) -> FastAPI:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = [] if model is None else [model]
    pipe = InpaintPipeline.from_pretrained(*source, torch_dtype=fast_dtype(device)).to(device)
    pipe.set_progress_bar_config(disable=True)
    app, turn = FastAPI(), threading.Lock()

    @app.post("/v1/inpaint")
    def inpaint(
        image: UploadFile,
        mask: UploadFile,
        prompt: Annotated[str, Form()] = "",
        seed: Annotated[int, Form()] = 0,
        steps: Annotated[int | None, Form()] = None,
    ) -> Response:
        photo, hole = Image.open(image.file).convert("RGB"), Image.open(mask.file)
        with turn:  # a pipeline computes one picture at a time
            generator = torch.Generator().manual_seed(seed)
            result = pipe(photo, hole, prompt, generator=generator, num_inference_steps=steps).images[0]
        stream = io.BytesIO()
        result.save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--model", help="default: the embedded one")
    args = parser.parse_args()
    with listen("127.0.0.1", args.port) as listener:
        app = application(args.model)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
