"""The server under load: throughput and latency at rising concurrency, with and without batches, and beside a plain
server of FastAPI and diffusers on the same model (``plain_server.py``); how it answers more requests than its queue
holds; memory over a thousand requests. Prints Markdown.

    python benchmarks/serving.py --size 192 --requests 48
    python benchmarks/serving.py --only beside --size 256 --requests 64
    python benchmarks/serving.py --size 64 --steps 1 --only memory

Starts ``photofound serve`` on a free port of this machine for each part, with one thread of torch unless
OMP_NUM_THREADS says otherwise, and stops it again. Every request has another seed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

TASK_FILES = {"inpaint": "mask", "erase": "mask", "outpaint": "subject"}
PARTS = ("load", "beside", "overload", "memory")


PLAIN = (str(Path(__file__).with_name("plain_server.py")),)
OURS = ("-m", "photofound", "serve")


TURNS = 8  # of a row in which two servers are compared


class Address(str):
    """Where a server listens, and its process."""

    pid: int


@contextmanager
def serving(*options: str, server: tuple[str, ...] = OURS) -> Iterator[Address]:
    """Run a server in a separate process; gives its address."""
    command = [sys.executable, *server, "--port", "0", *options]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = Address(process.stdout.readline().strip().removesuffix("/docs"))
        address.pid = process.pid
        if not address:
            raise SystemExit("serving: the server did not start; its own line above says why")
        try:
            yield address
        finally:
            process.terminate()


def request_of(args: argparse.Namespace) -> dict:
    """What every request sends, except the seed."""
    y, x = np.mgrid[: args.size, : args.size] / args.size
    photo = np.stack([x, y, (x + y) / 2], axis=2) * 255
    mask = (np.hypot(x - 0.5, y - 0.5) < 0.25) * 255.0
    files = {"image": ("photo.png", png(photo))}
    if args.task in TASK_FILES:
        files[TASK_FILES[args.task]] = ("mask.png", png(mask))
    data = {"left": "25%"} if args.task == "expand" else {}
    return {"files": files, "data": data | ({"steps": args.steps} if args.steps else {})}


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class Answer:
    """The status of an answer, or the name of the error, and how many seconds it took."""

    status: str
    seconds: float
    retry_after: str | None = None


async def ask(url: str, request: dict, count: int, concurrency: int) -> list[Answer]:
    """``count`` requests, ``concurrency`` at a time."""
    answers: list[Answer] = []
    seeds = iter(range(count))

    async def client(session: httpx.AsyncClient) -> None:
        for seed in seeds:
            start = time.perf_counter()
            try:
                got = await session.post(url, files=request["files"], data=request["data"] | {"seed": seed})
                status, hint = str(got.status_code), got.headers.get("retry-after")
            except httpx.HTTPError as error:
                status, hint = type(error).__name__, None
            answers.append(Answer(status, time.perf_counter() - start, hint))

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    return answers


def row(*cells: object) -> None:
    """Print a line of a Markdown table at once."""
    texts = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(texts)} |", flush=True)


def header(*names: str) -> None:
    row(*names)
    row(*["---"] * len(names))


def metric(address: str, name: str) -> float:
    """The sum of a metric over its labels."""
    text = httpx.get(f"{address}/metrics", timeout=60).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def load(args: argparse.Namespace, request: dict) -> None:
    """Rising concurrency, with batching and without."""
    header("batching", "at a time", "pictures/s", "p50 s", "p95 s", "p99 s", "mean batch", "errors")
    for batch in (1, args.batch):
        with serving("--batch", str(batch), "--queue", "1000", *model(args)) as address:
            url = f"{address}/v1/{args.task}"
            asyncio.run(ask(url, request, 2, 1))  # warm up
            for concurrency in args.concurrency:
                before = [metric(address, f"photofound_batch_size_{part}") for part in ("sum", "count")]
                start = time.perf_counter()
                answers = asyncio.run(ask(url, request, args.requests, concurrency))
                rate = len(answers) / (time.perf_counter() - start)
                edits, batches = (
                    metric(address, f"photofound_batch_size_{part}") - was
                    for part, was in zip(("sum", "count"), before, strict=True)
                )
                spread = np.percentile([answer.seconds for answer in answers], [50, 95, 99]).tolist()
                errors = sum(answer.status != "200" for answer in answers)
                batching = f"up to {batch}" if batch > 1 else "off"
                row(batching, concurrency, rate, *spread, edits / max(1.0, batches), errors)


def beside(args: argparse.Namespace, request: dict) -> None:
    """Ours and the plain server in turns of a few requests, so that both meet the machine in the same moods. Seconds of
    the processor say what a picture costs even where others work on the machine."""
    header("server", "at a time", "pictures/s", "p50 s", "p95 s", "p99 s", "CPU s a picture", "errors")
    ours = serving("--batch", str(args.batch), "--queue", "1000", *model(args))
    with ours as here, serving(*model(args), server=PLAIN) as there:
        servers = {"photofound": here, "FastAPI + diffusers": there}
        for address in servers.values():
            asyncio.run(ask(f"{address}/v1/{args.task}", request, 4, 2))  # warm up
        for concurrency in args.concurrency:
            turn = max(concurrency, args.requests // TURNS)
            answers: dict[str, list[Answer]] = {name: [] for name in servers}
            seconds, cpu = Counter[str](), Counter[str]()
            for _ in range(max(1, args.requests // turn)):
                for name, address in servers.items():
                    start, spent = time.perf_counter(), cpu_seconds(address.pid)
                    answers[name] += asyncio.run(ask(f"{address}/v1/{args.task}", request, turn, concurrency))
                    seconds[name] += time.perf_counter() - start
                    cpu[name] += cpu_seconds(address.pid) - spent
            for name, found in answers.items():
                spread = np.percentile([answer.seconds for answer in found], [50, 95, 99]).tolist()
                errors = sum(answer.status != "200" for answer in found)
                row(name, concurrency, len(found) / seconds[name], *spread, cpu[name] / len(found), errors)


def cpu_seconds(pid: int) -> float:
    """Of a server and of the processes that it started."""
    server = psutil.Process(pid)
    times = [each.cpu_times() for each in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def overload(args: argparse.Namespace, request: dict) -> None:
    """Far more clients than the queue holds: each gets a picture, or 503 and the time to try again."""
    queue = 4
    with serving("--queue", str(queue), "--batch", "2", *model(args)) as address:
        url = f"{address}/v1/{args.task}"
        answers = asyncio.run(ask(url, request, args.requests, 8 * queue))
        (after,) = asyncio.run(ask(url, request, 1, 1))
    refused = [answer for answer in answers if answer.status == "503"]
    answered = ", ".join(f"{count} x {status}" for status, count in sorted(Counter(a.status for a in answers).items()))
    hints = f"{sum(answer.retry_after is not None for answer in refused)} of {len(refused)}"
    slowest = max((answer.seconds for answer in refused), default=0.0)
    header("clients", "queue", "answers", "503 with Retry-After", "slowest 503 s", "the next request")
    row(8 * queue, queue, answered, hints, slowest, after.status)


def memory(args: argparse.Namespace, request: dict) -> None:
    """Resident memory after every tenth of many requests."""
    header("requests", "resident MiB", "answered 200")
    step = args.many // 10
    with serving(*model(args)) as address:
        for done in range(step, args.many + 1, step):
            answers = asyncio.run(ask(f"{address}/v1/{args.task}", request, step, 4))
            mib = round(metric(address, "process_resident_memory_bytes") / 2**20)
            row(done, mib, f"{sum(answer.status == '200' for answer in answers)} of {step}")


def model(args: argparse.Namespace) -> list[str]:
    return ["--model", args.model] if args.model else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="inpaint", choices=("inpaint", "erase", "outpaint", "expand", "upscale"))
    parser.add_argument("--size", type=int, default=192, help="side of the photograph")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--model", help="default: the embedded one")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--requests", type=int, default=64, help="for each row")
    parser.add_argument("--many", type=int, default=1000, help="requests for the measurement of memory")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    args = parser.parse_args()
    if "beside" in args.only and args.task != "inpaint":
        parser.error("the plain server inpaints only; leave --task out, or name other parts with --only")
    request = request_of(args)
    for part in args.only:
        print(f"\n{args.task}, {args.size} x {args.size}: {part}\n", flush=True)
        {"load": load, "beside": beside, "overload": overload, "memory": memory}[part](args, request)


if __name__ == "__main__":
    main()
