"""Filters by networks of transformers: whether caption and picture agree, looks, what is not safe for work, people.

Each takes a folder or a Hub id, safetensors only; no code of it is run. What the network is decides how it is asked:

- of pictures and words (CLIP, SigLIP): the cosine of picture and caption, or which of two prompts is nearer (CLIP-IQA:
  Wang et al., 2023, arXiv:2207.12396)
- an image classifier: the probability of some of its labels
- an object detector: the confidence of the surest object of some of its labels

A network is loaded once in each process, and shared by the filters that name it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from photofound.data.photograph import to_unit
from photofound.device import resolve_device
from photofound.errors import first_line
from photofound.model import vision
from photofound.room.filters import CAPTIONED, Filter, Sample, is_whole

_BATCH = 32


@dataclass(frozen=True)
class Question:
    """What is asked of a network.

    Attributes:
        threshold, keeps, about: as in ``Filter``.
        prompts: the two that a network of words chooses between; the first counts. None: picture and caption.
        labels: names, or parts of names, that count of a classifier or a detector.
    """

    threshold: float
    keeps: str
    about: str
    prompts: tuple[str, str] | None = None
    labels: tuple[str, ...] = ()


QUESTIONS = {
    "alignment": Question(0.2, ">=", "cosine of picture and caption, by a CLIP or SigLIP model"),
    "aesthetic": Question(
        0.5, ">=", "how likely it is a good photograph, by CLIP or a classifier", ("Good photo.", "Bad photo."),
        ("aesthetic", "good", "high"),
    ),
    "nsfw": Question(
        0.5, "<=", "how likely it is not safe for work, by CLIP or a classifier",
        ("A photo of naked people.", "A photo."), ("nsfw", "porn", "hentai", "sexy", "unsafe", "explicit", "nude"),
    ),
    "people": Question(
        0.5, "<=", "how likely there is a person, by a detector, a classifier or CLIP",
        ("A photo of a person.", "A photo without people."), ("person", "people", "man", "woman", "face", "human"),
    ),
    "watermark": Question(
        0.5, "<=", "how likely it bears a watermark, by a classifier or CLIP",
        ("A photo with a watermark.", "A photo."), ("watermark",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Judge(Filter):
    """A filter that asks a network.

    Attributes:
        model: a folder or a Hub id.
        device: where it runs; ``auto`` is the GPU where there is one.
    """

    model: str = ""
    device: str = "auto"
    question: Question = field(default=QUESTIONS["alignment"], repr=False)

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.model}"

    def load(self) -> None:
        """Load the network now, so that one that cannot be had is an error before anything is computed. Raises
        FileNotFoundError or ValueError."""
        net = network(self.model, self.device)
        if not isinstance(net, Words) and not (self.question.labels and net.counted(self.question.labels)):
            wanted = ", ".join(self.question.labels) or "words: a CLIP or SigLIP model"
            raise ValueError(f"filter: {self.name}: {self.model} knows none of {wanted}")

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        net = network(self.model, self.device)
        found = np.full(len(samples), np.nan, np.float32)
        asked = [
            i for i, sample in enumerate(samples) if (self.question.prompts or sample.caption) and is_whole(sample)
        ]
        for start in range(0, len(asked), _BATCH):
            part = asked[start : start + _BATCH]
            found[part] = net.answer(self.question, [samples[i] for i in part])
        return found


def judge(name: str, model: str) -> Judge:
    """A filter of ``QUESTIONS`` by a network. Nothing is loaded yet. Raises ValueError without a model."""
    question = QUESTIONS[name]
    if not model:
        raise ValueError(f"filter: {name} needs a model; give a folder or an id of transformers, as {name}:MODEL")
    needs = "" if question.prompts else CAPTIONED
    about = (question.threshold, question.keeps, question.about, needs)
    return Judge(name, f"1 {model}", *about, model=model, question=question)


# ------------------------------------------------------------------------------------------------------------- networks


@lru_cache(maxsize=8)
def network(model: str, device: str = "auto") -> Words | Labels:
    """A network by a folder or a Hub id. Raises FileNotFoundError, or ValueError for one of another kind."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(f"filter: {model} cannot be loaded: {first_line(error)}") from None
    except ValueError as error:
        raise ValueError(f"filter: {model} is no model of transformers: {first_line(error)}") from None
    kind = next(iter(getattr(config, "architectures", None) or ()), "")
    if kind.endswith("ForImageClassification"):
        return Classifier(model, device)
    if kind.endswith("ForObjectDetection"):
        return Detector(model, device)
    return Words(model, device)


class Words:
    """A network of pictures and words."""

    def __init__(self, model: str, device: str) -> None:
        self.name, self.device = model, resolve_device(device, "device")
        net = vision.Pretrained(model).to(self.device).eval()
        if not net.speaks:
            raise ValueError(f"filter: {model} knows no words; name a CLIP or SigLIP model, a classifier or a detector")
        self.net = net
        scale = getattr(net.model, "logit_scale", None)
        self.scale = 100.0 if scale is None else float(scale.exp())
        self._said: dict[str, Tensor] = {}

    @torch.inference_mode()
    def answer(self, question: Question, samples: Sequence[Sample]) -> np.ndarray:
        pictures = self._pictures(samples)
        if question.prompts is None:
            words = _unit(self.net.prompts([sample.caption for sample in samples]).float())
            return (pictures * words).sum(1).cpu().numpy()
        both = torch.stack([self._prompt(text) for text in question.prompts])
        return (self.scale * pictures @ both.T).softmax(1)[:, 0].cpu().numpy()

    def _pictures(self, samples: Sequence[Sample]) -> Tensor:
        """(N, D) of length 1; kept with the samples for other filters by this network."""
        new = [sample for sample in samples if self.name not in sample.features]
        if new:
            vectors = _unit(self.net(_squares(new, self.net.side).to(self.device)).float())
            for sample, vector in zip(new, vectors, strict=True):
                sample.features[self.name] = vector
        return torch.stack([sample.features[self.name] for sample in samples])

    def _prompt(self, text: str) -> Tensor:
        if text not in self._said:
            self._said[text] = _unit(self.net.prompts([text]).float())[0]
        return self._said[text]


class Labels:
    """A network that knows labels."""

    automatic = ""

    def __init__(self, model: str, device: str) -> None:
        import transformers

        self.device = resolve_device(device, "device")
        try:
            net: Any = getattr(transformers, self.automatic).from_pretrained(
                model, use_safetensors=True, trust_remote_code=False
            )
        except OSError as error:
            raise FileNotFoundError(f"filter: {model} cannot be loaded: {first_line(error)}") from None
        self.net = net.requires_grad_(False).eval().to(self.device)
        mean, std = vision.normalisation(model)
        self.mean, self.std = (torch.tensor(each, device=self.device).view(1, 3, 1, 1) for each in (mean, std))
        names = {int(number): str(name).lower() for number, name in net.config.id2label.items()}
        self.names = [names.get(number, "") for number in range(max(names) + 1)]

    def counted(self, labels: Sequence[str]) -> list[int]:
        """The numbers of the labels whose names have one of these words, and do not deny it."""
        words = [set(re.split(r"[^a-z]+", name)) for name in self.names]
        wanted = set(labels)
        return [i for i, each in enumerate(words) if each & wanted and not each & {"not", "no", "non", "without"}]

    def answer(self, question: Question, samples: Sequence[Sample]) -> np.ndarray:
        raise NotImplementedError

    def _normal(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.device) / 2 + 0.5 - self.mean) / self.std


class Classifier(Labels):
    """The probability of the labels that count, together."""

    automatic = "AutoModelForImageClassification"

    @torch.inference_mode()
    def answer(self, question: Question, samples: Sequence[Sample]) -> np.ndarray:
        side = getattr(getattr(self.net.config, "vision_config", self.net.config), "image_size", 224)
        size = int(side[0] if isinstance(side, (list, tuple)) else side)
        logits = self.net(pixel_values=self._normal(_squares(samples, size))).logits.float()
        several = getattr(self.net.config, "problem_type", None) == "multi_label_classification"
        chances = (logits.sigmoid() if several else logits.softmax(1))[:, self.counted(question.labels)]
        return (chances.amax(1) if several else chances.sum(1)).cpu().numpy()


class Detector(Labels):
    """The confidence of the surest object of the labels that count."""

    automatic = "AutoModelForObjectDetection"

    @torch.inference_mode()
    def answer(self, question: Question, samples: Sequence[Sample]) -> np.ndarray:
        found = []
        for sample in samples:  # one by one, each of its own shape
            pixels = to_unit(torch.from_numpy(np.ascontiguousarray(sample.pixels.transpose(2, 0, 1)))[None])
            logits = self.net(pixel_values=self._normal(pixels)).logits.float()[0]
            # DETR and YOLOS have one more class for no object; others (RT-DETR) answer each label by itself
            one_more = logits.shape[-1] == len(self.names) + 1
            chances = logits.softmax(-1)[:, :-1] if one_more else logits.sigmoid()
            found.append(float(chances[:, self.counted(question.labels)].max()))
        return np.array(found, np.float32)


def _squares(samples: Sequence[Sample], side: int) -> Tensor:
    """(N, 3, side, side) in [-1, 1]: each seen as a whole."""
    import cv2

    squares = [cv2.resize(sample.pixels, (side, side), interpolation=cv2.INTER_AREA) for sample in samples]
    return to_unit(torch.from_numpy(np.stack(squares).transpose(0, 3, 1, 2).copy()))


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
