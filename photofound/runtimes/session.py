"""One graph in ONNX Runtime or OpenVINO, called with torch's tensors."""

from __future__ import annotations

import functools
import importlib.metadata
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from photofound.errors import first_line
from photofound.runtimes import check

RUNTIMES = ("onnx", "openvino")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def require(runtime: str) -> None:
    """Raises ImportError, which says what to install, if a runtime is not here."""
    try:
        importlib.import_module(_PACKAGES[runtime])
        importlib.import_module("onnx" if runtime == "onnx" else "openvino")
    except ImportError as error:
        reason = f"runtime {runtime} needs packages that are missing ({first_line(error)})"
        raise ImportError(f"{reason}; pip install 'photofound[{runtime}]'") from None


def version(runtime: str) -> str:
    """Its name and version, for recipes, like ``onnx 1.32.0``."""
    return f"{runtime} {importlib.metadata.version(_PACKAGES[runtime])}"


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's ``Core``, one for the process and never given back.

    In OpenVINO 2026.4 each ``Core`` gives the calling thread a stack for signals, and frees it with itself. Of two, the
    one that goes last puts the other's freed stack back, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()


class Session:
    """A graph's file, opened when it is first called; several threads may call it at once.

    Args:
        path: the file.
        runtime: ``onnx`` or ``openvino``.
        names: of the inputs, in the order in which they are passed.
        precision: what OpenVINO computes in; ONNX Runtime computes in float32.
    """

    def __init__(self, path: Path, runtime: str, names: Sequence[str], precision: torch.dtype = torch.float32) -> None:
        self.path, self.runtime, self.names, self.precision = path, runtime, tuple(names), precision
        self._run: Callable[[dict[str, np.ndarray]], list[np.ndarray]] | None = None
        self._lock = threading.Lock()

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The outputs, on the CPU."""
        if self._run is None:
            with self._lock:
                self._run = self._run or self._opened()
        given = zip(self.names, tensors, strict=True)
        return [torch.from_numpy(each) for each in self._run({name: _array(tensor) for name, tensor in given})]

    def _opened(self) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
        try:
            return self._onnx() if self.runtime == "onnx" else self._openvino()
        except ValueError:
            raise
        except Exception as error:  # both libraries raise nearly anything for a damaged file
            raise ValueError(f"model: {self.path} cannot be loaded ({first_line(error)}); export it again") from None

    def _onnx(self) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
        check.check_onnx(self.path, self.names)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that wait by spinning would take the processor from the other graphs, and from PatchMatch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

        def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs: list[np.ndarray] = session.run(None, given)
            return outputs

        return run

    def _openvino(self) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
        check.check_openvino(self.path)
        core = openvino_core()
        model = core.read_model(self.path, self.path.with_suffix(".bin"))
        check.check_names(self.path, [each.any_name for each in model.inputs], self.names)
        settings = {"INFERENCE_PRECISION_HINT": _HINTS[self.precision], **_openvino_threads(self.precision)}
        compiled, free = core.compile_model(model, "CPU", settings), list[Any]()

        def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
            try:
                request = free.pop()
            except IndexError:  # each thread at work has its own
                request = compiled.create_infer_request()
            found = request.infer(given, share_inputs=True)
            outputs = [np.array(found[output]) for output in compiled.outputs]  # a copy: the request is used again
            free.append(request)
            return outputs

        return run


def computed_in(runtime: str, wanted: torch.dtype) -> torch.dtype:
    """The precision that a runtime computes in here, where this one is wanted.

    ONNX Runtime has float32 alone. So has OpenVINO where it gets one thread, as in a process that may use one
    processor: with AMX, versions up to 2026.4 share a fused gated MLP (``LLMMLP``) among pairs of threads, in bfloat16,
    divide by half their number, and take the process with them.
    """
    if runtime != "openvino" or wanted != torch.bfloat16:
        return torch.float32
    import openvino

    given = openvino.opset13.parameter([1], np.float32)
    nothing = openvino.Model([openvino.opset13.abs(given)], [given])
    compiled = openvino_core().compile_model(nothing, "CPU", _openvino_threads(wanted))
    return wanted if compiled.get_property("INFERENCE_NUM_THREADS") > 1 else torch.float32


def _openvino_threads(precision: torch.dtype) -> dict[str, Any]:
    """OpenVINO's settings of threads: torch's number, but two for bfloat16 (see ``computed_in``). In one stream, since
    streams divide the threads among them."""
    least = 1 if precision == torch.float32 else 2
    threads = max(least, torch.get_num_threads())
    return {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()
    return array
