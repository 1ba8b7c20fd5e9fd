"""Segmentation models of transformers, and BiRefNet by nobg, as segmenters: a folder or a Hub id.

    segmenter = load("facebook/sam2.1-hiera-tiny", "cpu")

Four families, told apart by ``model_type``: models that are asked by points and boxes (SAM, SAM 2, SAM 3, EdgeTAM), by
words (CLIPSeg, SAM 3), models that give a class to each pixel (Segformer, ...), and models that give masks with
classes (Mask2Former, OneFormer, DETR, ...). Weights are safetensors, and no code of a checkpoint is run. Pictures are
made ready here, by the numbers of ``preprocessor_config.json``: the processors of some models need torchvision.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from photofound import files
from photofound.edits import masks
from photofound.edits.geometry import bounding_box
from photofound.edits.segmenter import Point, Segmenter
from photofound.errors import first_line

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation, where a model names none
_SIDE = 512  # of the square that a model sees, if it does not say
_MULTIPLE = 32  # what the sides of a picture are a multiple of, where its aspect ratio is kept
_LEAST = 0.3  # confidence below which an object is not believed in; that of SAM 3's own processor
_OUTLINE = 512  # long side at which the outlines of these models, which are coarse, are refined for an edit
_WORDS = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}


def load(source: str, device: torch.device | str = "cpu") -> Segmenter:
    """A model of transformers. Raises ValueError, with one line, for one that cannot be had or is no segmenter."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as known

    _check_folder(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        frame = Frame.read(source, config)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ValueError(_reason(source, error)) from None
    kind = config.model_type

    def network(cls: str) -> Any:
        return _network(source, cls, device)

    if kind == "clipseg":
        words = _ByWords(network("CLIPSegForImageSegmentation"), frame, _tokenizer(source))
        return Segmenter(source, words.clipseg, frozenset({"text"}), _OUTLINE)
    if kind in known.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES or kind in _WORDS:
        prompted = _Prompted(source, frame, device, kind)
        takes = {"points"} if kind in known.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES else set()
        return Segmenter(source, prompted, frozenset(takes | ({"text"} if kind in _WORDS else set())), _OUTLINE)
    both = frozenset({"text", "points"})
    if kind in known.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES:
        cls = known.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[kind]
        return Segmenter(source, _Classes(network(cls), frame, None), both, _OUTLINE)
    universal = known.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES
    if cls := universal.get(kind) or known.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES.get(kind):
        tokenizer = _tokenizer(source) if kind == "oneformer" else None
        return Segmenter(source, _Classes(network(cls), frame, tokenizer), both, _OUTLINE)
    raise ValueError(f"segmenter: {source} is a {kind}, which segments nothing; name a segmentation model")


def load_nobg(source: str, device: torch.device | str = "cpu") -> Segmenter:
    """A matting model by the package nobg (BiRefNet). Raises ValueError where it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        nobg = importlib.import_module("nobg")
    except ImportError as error:
        needs = error.name or "nobg"
        raise ValueError(f"segmenter: nobg needs {needs}, which is missing; pip install nobg torchvision") from None
    _check_folder(source)
    try:
        if not Path(source).is_dir():
            hf_hub_download(source, "model.safetensors")  # else the mixin of the Hub would take a pickle
        network = nobg.BiRefNet.from_pretrained(source).to(device).eval()
    except Exception as error:  # of the Hub, of safetensors, of the package's own
        raise ValueError(_reason(f"nobg:{source}", error)) from None
    size = getattr(getattr(network, "config", None), "image_size", None) or 1024
    frame = Frame((size, size), *_IMAGENET)

    @torch.no_grad()
    def find(picture: np.ndarray, **_: Any) -> np.ndarray:
        out = network(frame.tensor(picture).to(device))
        logits = out["logits"] if isinstance(out, dict) else out.logits
        return frame.restored(logits[:, 0].float().sigmoid(), picture.shape[:2])[0]

    return Segmenter(f"nobg:{source}", find, fine=True)


def _check_folder(source: str) -> None:
    """Refuse a folder with nothing but pickles, or none at all that could be meant."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"segmenter: {source} is no model's folder, it has no config.json")
        pickles = sorted(each for each in folder.glob("*") if each.suffix in files.PICKLE_SUFFIXES)
        if pickles and not list(folder.glob("*.safetensors")):
            raise ValueError(f"segmenter: {pickles[0]} is a pickle, which may run code; save it as safetensors")


def _reason(source: str, error: BaseException) -> str:
    line = first_line(error)
    if "trust_remote_code" in str(error):
        return (
            f"segmenter: {source} wants to run code of its own, which is never done; for a BiRefNet try nobg:{source}"
        )
    if isinstance(error, OSError) and not Path(source).is_dir():
        return f"segmenter: {source} is unknown: not on this machine, and not to be had from the Hub ({line})"
    return f"segmenter: {source} cannot be loaded ({line})"


def _network(source: str, cls: str, device: torch.device | str) -> Any:
    import transformers

    try:
        network = getattr(transformers, cls).from_pretrained(source, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
        raise ValueError(_reason(source, error)) from None
    return network.to(device).eval()


def _tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ValueError(_reason(source, error)) from None


# ------------------------------------------------------------------------------------------------- pictures and mattes


@dataclass(frozen=True)
class Frame:
    """How a model wants to see pictures.

    Attributes:
        size: (height, width) that pictures are stretched to; None: their aspect ratio is kept.
        mean, std: of the three channels.
        shortest, longest: pixels of the sides, where the aspect ratio is kept; 0 = not bounded.
        pad: side of the square that a picture lies in, in its left upper corner; 0 = none.
        flip: whether channels are blue, green, red.
    """

    size: tuple[int, int] | None
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    shortest: int = 0
    longest: int = 0
    pad: int = 0
    flip: bool = False

    @classmethod
    def read(cls, source: str, config: Any) -> Frame:
        """From the model's ``preprocessor_config.json``; where there is none, from its ``image_size``."""
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            given: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(source)[0]
        except OSError:
            given = {}
        given = given.get("image_processor", given)
        vision = getattr(config, "vision_config", config)
        side = getattr(vision, "image_size", None) or getattr(config, "image_size", None)
        side = side[0] if isinstance(side, (list, tuple)) else side
        mean, std = given.get("image_mean") or _IMAGENET[0], given.get("image_std") or _IMAGENET[1]
        if not given.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        flip = bool(given.get("do_flip_channel_order"))
        size = given.get("size") or {}
        size = {"height": size, "width": size} if isinstance(size, int) else size
        if "height" in size or not size:
            fallback = int(side or _SIDE)
            return cls((int(size.get("height", fallback)), int(size.get("width", fallback))), mean, std, flip=flip)
        shortest, longest = int(size.get("shortest_edge") or 0), int(size.get("longest_edge") or 0)
        padded = given.get("pad_size") or {}
        pad = int(padded.get("height") or 0) if given.get("do_pad", True) else 0
        if not pad and given.get("do_pad") and isinstance(side, int) and side == longest:
            pad = side  # a transformer with places for a square alone
        return cls(None, mean, std, shortest, longest, pad, flip)

    def extent(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a picture of ``shape`` as the model sees it, without padding."""
        if self.size is not None:
            return self.size
        scale = self.shortest / min(shape) if self.shortest else self.longest / max(shape)
        scale = min(scale, self.longest / max(shape)) if self.longest else scale
        if self.pad:
            return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
        sides = [max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in shape]
        return sides[0], sides[1]

    def tensor(self, picture: np.ndarray) -> Tensor:
        """(1, 3, h, w) for the model from (H, W, 3) uint8."""
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
        size = self.extent((picture.shape[0], picture.shape[1]))
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        x = (x - torch.tensor(self.mean).view(1, 3, 1, 1)) / torch.tensor(self.std).view(1, 3, 1, 1)
        x = x.flip(1) if self.flip else x
        return F.pad(x, (0, self.pad - size[1], 0, self.pad - size[0])) if self.pad else x

    def restored(self, maps: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        """(N, H, W) float32 of the picture from (N, h, w), which may be coarser than what the model saw."""
        height, width = shape[:2]
        seen = self.extent((height, width))
        whole = (self.pad, self.pad) if self.pad else seen
        rows, columns = maps.shape[-2] * seen[0] / whole[0], maps.shape[-1] * seen[1] / whole[1]
        maps = maps[..., : max(1, round(rows)), : max(1, round(columns))].float().cpu()
        found: np.ndarray = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[
            0
        ].numpy()
        return found

    def place(self, x: float, y: float, shape: tuple[int, ...]) -> tuple[float, float]:
        """A place in the picture as the model sees it."""
        height, width = self.extent((shape[0], shape[1]))
        return x * width / shape[1], y * height / shape[0]


# -------------------------------------------------------------------------------------------------- asked for by places


class _Prompted:
    """SAM, SAM 2, SAM 3 and what is like them. Without points it is asked for what lies in the box around GrabCut's
    cut-out, or in the middle; with words (SAM 3), for them."""

    def __init__(self, source: str, frame: Frame, device: torch.device | str, kind: str) -> None:
        from transformers.models.auto import modeling_auto as known

        self.source, self.frame, self.device, self.kind = source, frame, device, kind
        cls = known.MODEL_FOR_MASK_GENERATION_MAPPING_NAMES.get(kind)
        self.network = _network(source, cls, device) if cls else None
        self._words: _ByWords | None = None

    @torch.no_grad()
    def __call__(self, picture: np.ndarray, *, text: str = "", points: Sequence[Point] = ()) -> np.ndarray:
        if text:
            if self._words is None:  # another network with the same weights, loaded when it is first asked
                network = _network(self.source, _WORDS[self.kind], self.device)
                self._words = _ByWords(network, self.frame, _tokenizer(self.source))
            return self._words.sam3(picture, text=text)
        if self.network is None:
            raise ValueError(f"segmenter: {self.source} wants words; say what the subject is with subject_text")
        x = self.frame.tensor(picture).to(self.device)
        box = None if points else self._box(picture)
        out = self.network(x, **self._prompt(points, box, picture.shape), multimask_output=box is None)
        scores, logits = out.iou_scores.flatten(), out.pred_masks.flatten(0, -3)
        best = logits[int(scores.argmax())]
        return _sigmoid(self.frame.restored(best[None].float(), picture.shape)[0])

    def _prompt(self, points: Sequence[Point], box: Any, shape: tuple[int, ...]) -> dict[str, Tensor]:
        if box is not None:
            corners = [*self.frame.place(box.left, box.top, shape), *self.frame.place(box.right, box.bottom, shape)]
            return {"input_boxes": torch.tensor([[corners]], device=self.device)}
        points = points or (Point(shape[1] / 2, shape[0] / 2),)
        places = [self.frame.place(point.x, point.y, shape) for point in points]
        labels = [int(point.inside) for point in points]
        return {
            "input_points": torch.tensor([[places]], device=self.device),
            "input_labels": torch.tensor([[labels]], device=self.device),
        }

    @staticmethod
    def _box(picture: np.ndarray) -> Any:
        found = masks.grabcut(picture.astype(np.float32) / 255) > 0.5
        return bounding_box(found) if found.any() else None


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.clip(-30, 30)))


# --------------------------------------------------------------------------------------------------- asked for by words


class _ByWords:
    """Models that find what words say."""

    def __init__(self, network: Any, frame: Frame, tokenizer: Any) -> None:
        self.network, self.frame, self.tokenizer = network, frame, tokenizer

    def _inputs(self, picture: np.ndarray, text: str) -> dict[str, Tensor]:
        config = getattr(self.network.config, "text_config", None)
        length = int(getattr(config, "max_position_embeddings", 77))
        tokens = self.tokenizer(text, return_tensors="pt", truncation=True, padding="max_length", max_length=length)
        named = {name: tokens[name] for name in ("input_ids", "attention_mask")} | {
            "pixel_values": self.frame.tensor(picture)
        }
        return {name: value.to(self.network.device) for name, value in named.items()}

    @torch.no_grad()
    def clipseg(self, picture: np.ndarray, *, text: str = "", **_: Any) -> np.ndarray:
        """CLIPSeg (Lueddecke and Ecker 2022). Its probabilities are cautious: they are divided by the largest."""
        if not text:
            raise ValueError("segmenter: CLIPSeg wants words; say what the subject is with subject_text")
        logits = self.network(**self._inputs(picture, text)).logits.reshape(1, *self._map(picture))
        matte = self.frame.restored(logits.float().sigmoid(), picture.shape)[0]
        top = float(matte.max())
        return matte / top if top > _LEAST else np.zeros_like(matte)

    def _map(self, picture: np.ndarray) -> tuple[int, int]:
        return self.frame.extent((picture.shape[0], picture.shape[1]))

    @torch.no_grad()
    def sam3(self, picture: np.ndarray, *, text: str) -> np.ndarray:
        """SAM 3: all that the words name."""
        out = self.network(**self._inputs(picture, text))
        scores = out.pred_logits[0].float().sigmoid()
        if out.presence_logits is not None:
            scores = scores * out.presence_logits[0].float().sigmoid()
        kept = out.pred_masks[0][scores > _LEAST].float()
        if not len(kept):
            return np.zeros(picture.shape[:2], np.float32)
        return self.frame.restored(kept.sigmoid().amax(0, keepdim=True), picture.shape)[0]


# -------------------------------------------------------------------------------------------------- classes and objects


class _Classes:
    """Models that name what they see. The subject is what the words name, what lies at the points, or else what fills
    the middle of the picture and leaves its frame free."""

    def __init__(self, network: Any, frame: Frame, tokenizer: Any | None) -> None:
        self.network, self.frame, self.tokenizer = network, frame, tokenizer
        self.labels = {int(index): str(label) for index, label in network.config.id2label.items()}

    @torch.no_grad()
    def __call__(self, picture: np.ndarray, *, text: str = "", points: Sequence[Point] = ()) -> np.ndarray:
        wanted = self._wanted(text)
        inputs = {"pixel_values": self.frame.tensor(picture).to(self.network.device)}
        if self.tokenizer is not None:  # OneFormer is told its task in words
            length = self.network.config.task_seq_len
            tokens = self.tokenizer("the task is instance", padding="max_length", max_length=length, truncation=True)
            inputs["task_inputs"] = torch.tensor([tokens["input_ids"]], device=self.network.device)
        found, labels = self._maps(self.network(**inputs))
        if not labels:
            return np.zeros(picture.shape[:2], np.float32)
        maps = self.frame.restored(found, picture.shape)
        if wanted:
            chosen = [index for index, label in enumerate(labels) if label in wanted]
        else:
            scores = [_at(each, points) if points else _prominence(each) for each in maps]
            best = int(np.argmax(scores))
            chosen = [best] if scores[best] > 0 else []
        return np.asarray(maps[chosen].sum(0).clip(0, 1), np.float32)

    def _maps(self, out: Any) -> tuple[Tensor, list[int]]:
        """(N, h, w) in [0, 1], the candidates, and the class of each."""
        if (classes := getattr(out, "class_queries_logits", None)) is not None:
            queries = out.masks_queries_logits
        elif (queries := getattr(out, "pred_masks", None)) is not None:
            classes = out.logits
        else:  # a class for each pixel
            shares = out.logits[0].float().softmax(0)
            return shares, list(range(len(shares)))
        scores = classes[0].float()
        if scores.shape[-1] == len(self.labels) + 1:  # the last one is "no object"
            scores = scores.softmax(-1)[:, :-1]
        else:
            scores = scores.sigmoid()
        confidence, labels = scores.max(-1)
        sure = confidence > _LEAST
        return queries[0][sure].float().sigmoid(), labels[sure].tolist()

    def _wanted(self, text: str) -> set[int]:
        """The classes that words name. Raises ValueError where they name none."""
        if not text:
            return set()
        said = {_stem(word) for word in re.findall(r"\w+", text.lower())}
        found = {
            i for i, label in self.labels.items() if said & {_stem(word) for word in re.findall(r"\w+", label.lower())}
        }
        if not found:
            some = ", ".join(list(self.labels.values())[:8])
            raise ValueError(
                f"subject_text: {text!r} names none of this model's {len(self.labels)} classes ({some}, ...)"
            )
        return found


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


def _at(share: np.ndarray, points: Sequence[Point]) -> float:
    """How well a map fits points: its mean on the subject's, less that on the others."""
    height, width = share.shape
    values = [(float(share[min(height - 1, int(p.y)), min(width - 1, int(p.x))]), p.inside) for p in points]
    inside = [value for value, on in values if on]
    outside = [value for value, on in values if not on]
    return float(np.mean(inside)) - (float(np.mean(outside)) if outside else 0.0)


def _prominence(share: np.ndarray) -> float:
    """How much a map (H, W) in [0, 1] looks like a subject: its mean in the middle (a Gaussian of a quarter of the
    sides), less that along the frame, which a background touches."""
    height, width = share.shape
    y, x = (np.linspace(-2, 2, side, dtype=np.float32) for side in (height, width))
    weight = np.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2))
    frame = np.concatenate([share[0], share[-1], share[:, 0], share[:, -1]])
    return float((share * weight).sum() / weight.sum() - frame.mean())
