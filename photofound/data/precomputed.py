"""Text embeddings and latents that are computed once, before training: the file that holds them, and the check that
training would compute the same.

An embedding is of one caption, word for word, by a frozen text encoder, and is found by the caption. Latents are of the
middle of the whole picture, scaled to cover its bucket: they take the place of encoding the target only where a batch
shows the picture like that, neither moved nor mirrored. Both are kept at half precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from photofound import files
from photofound.data.sources import Source

KINDS = {"text": "text encoder", "latents": "autoencoder"}  # what there is, and what makes it
_CAPTION = "text:"  # the name of an embedding is this and its caption


def pack(embeddings: Mapping[str, Tensor], latents: Tensor | None = None) -> bytes:
    """A ``.safetensors`` file of a sample.

    Args:
        embeddings: caption -> (L, D), kept in bfloat16.
        latents: (C, h, w), kept in float16.
    """
    from safetensors.torch import save

    tensors = {_CAPTION + words: value.to(torch.bfloat16) for words, value in embeddings.items()}
    if latents is not None:
        tensors["latents"] = latents.to(torch.float16)
    return save({name: value.cpu().contiguous() for name, value in tensors.items()})


def unpack(file: bytes | None) -> tuple[dict[str, Tensor], Tensor | None]:
    """The embeddings and latents of a file of ``pack``, at half precision; of None nothing. Raises ValueError for any
    other file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file) if file else {}
    except SafetensorError as error:
        raise ValueError(f"its .safetensors is damaged ({error})") from None
    captions = {name.removeprefix(_CAPTION): value for name, value in tensors.items() if name.startswith(_CAPTION)}
    return captions, tensors.get("latents")


def text_fingerprint(tokenizer: Any, encoder: nn.Module, length: int, cleaning: str | None = None) -> dict[str, Any]:
    """What embeddings of captions of at most ``length`` tokens depend on: the network, the length, and what is done to
    a caption before (``text.clean``), if anything is."""
    made = {"model": network_fingerprint(encoder, len(tokenizer)), "length": length}
    return made if cleaning is None else made | {"cleaning": cleaning}


def latents_fingerprint(vae: Any, side: int, multiple: int, widest: float) -> dict[str, Any]:
    """What latents of pictures in ``aspect_buckets(side, multiple, widest)`` depend on: the network, and the sizes."""
    facts = [getattr(vae.config, name, None) for name in ("scaling_factor", "shift_factor")]
    return {"model": network_fingerprint(vae, *facts), "side": side, "multiple": multiple, "widest": float(widest)}


def network_fingerprint(network: nn.Module, *facts: object) -> str:
    """16 hex digits that differ for networks with different weights or other ``facts``.

    The precision and the names of the weights do not count. Of large tensors 4,096 values are used, spread evenly."""
    digests = set()
    for tensor in network.state_dict().values():
        flat = tensor.detach().flatten()
        step = max(1, len(flat) // 4096)
        values = flat[::step].to("cpu", torch.bfloat16).view(torch.int16).numpy()
        digests.add(hashlib.blake2b(values.tobytes(), digest_size=8, person=str(len(flat)).encode()[:16]).digest())
    return hashlib.blake2b(b"".join(sorted(digests)) + repr(facts).encode(), digest_size=8).hexdigest()


def check(source: Source, kind: str, mine: Mapping[str, Any]) -> None:
    """Raise ValueError unless the ``index.json`` of the source's shards says that their ``kind`` was made as ``mine``
    says: by the same network, of the same pictures."""
    try:
        entries = files.parse_json(files.read_beside(source.path, "index.json") or "{}", "it")
    except ValueError as error:
        raise ValueError(f"data.precomputed: the index.json of {source.path} is damaged ({error})") from None
    made = entries.get("precomputed", {}).get(kind)
    remedy = f"run 'photofound train prepare' with {kind}=true, or leave {kind} out of data.precomputed"
    if made is None:
        raise ValueError(f"data.precomputed: {source.path} has no {kind} by its index.json; {remedy}")
    for name, value in mine.items():
        if made.get(name) != value:
            what = f"another {KINDS[kind]}" if name == "model" else f"{name} {made.get(name)}"
            how = "by" if name == "model" else "with"
            raise ValueError(
                f"data.precomputed: the {kind} of {source.path} were made {how} {what}, not {value}; {remedy}"
            )
