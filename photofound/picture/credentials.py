"""Content Credentials (C2PA 2): a manifest in a file that says how it was made, signed by the user's certificate.

    signer = Signer("chain.pem", "key.pem")
    image.save(provenance.mark(result), "out.jpg", sign=signer.signing(parent="photo.jpg"))
    read("out.jpg").state

The library is ``c2pa-python`` (``pip install 'photofound[c2pa]'``). Nothing is fetched: no timestamp, and no list of
whom to trust.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from photofound import __version__, files
from photofound.errors import first_line
from photofound.picture.provenance import COMPOSITE, GENERATED

_LARGEST_PEM = 2**20  # bytes
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_QUIET = {"builder": {"thumbnail": {"enabled": False}}}  # no small copies of the photograph in the result
_ACTIONS = "c2pa.actions.v2"


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        reason = f"Content Credentials need c2pa-python ({error}); pip install 'photofound[c2pa]'"
        raise ImportError(reason) from error
    return c2pa


class Signer:
    """Signs files with the user's certificate.

    Args:
        certificate: a PEM file of the certificate and those that lead to its root, the signer's own first. C2PA wants
            one for signing documents or e-mail, and none that is signed by itself.
        key: a PEM file of its private key, without a password: elliptic curve, Ed25519 or RSA.

    Raises:
        ValueError: a file that is none of these, or a key of another certificate. OSError: one that cannot be read.
        ImportError: c2pa-python is missing.
    """

    def __init__(self, certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
        self._c2pa = _library()
        self._certificate, self._key = (files.read(Path(path), _LARGEST_PEM) for path in (certificate, key))
        self._algorithm = _algorithm(self._certificate, self._key, certificate, key)

    def signing(
        self, parent: str | os.PathLike[str] | bytes | None = None, whole: bool = False
    ) -> Callable[[bytes, str], bytes]:
        """What signs the bytes of a file of a format: ``sign`` of ``image.save``.

        Args:
            parent: the photograph that was edited, whose own credentials, if it has some, are kept with the result's.
            whole: all of the picture was generated.
        """
        given = parent if isinstance(parent, bytes) or parent is None else files.read(Path(parent))
        return lambda data, format: self.sign(data, format, given, whole)

    def sign(self, data: bytes, format: str, parent: bytes | None = None, whole: bool = False) -> bytes:
        """A file's bytes with a signed manifest.

        Args:
            format: Pillow's name of the file's format.

        Raises:
            ValueError: a format that holds none (BMP), or a certificate that C2PA does not allow.
        """
        c2pa, kind = self._c2pa, _mime_type(format)
        if kind not in c2pa.Builder.get_supported_mime_types():
            raise ValueError(f"{format} holds no Content Credentials; use png, jpg, webp, avif or tif")
        source_type, agent = GENERATED if whole else COMPOSITE, {"name": "photofound", "version": __version__}
        opened = None if parent is None else _kind_of(parent)
        is_edit = opened in c2pa.Builder.get_supported_mime_types()
        action = {"action": "c2pa.edited" if is_edit else "c2pa.created", "digitalSourceType": source_type}
        actions = {"label": _ACTIONS, "data": {"actions": [{**action, "softwareAgent": agent}]}}
        signed = io.BytesIO()
        try:
            with c2pa.Context(c2pa.Settings.from_dict(_QUIET)) as context:
                manifest = {"claim_generator_info": [agent], "assertions": [actions]}
                with c2pa.Builder(manifest, context=context) as builder:
                    if is_edit and parent is not None:
                        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                        builder.add_ingredient({"relationship": "parentOf"}, opened, io.BytesIO(parent))
                    info = c2pa.C2paSignerInfo(self._algorithm, self._certificate, self._key, None)
                    with c2pa.Signer.from_info(info) as signer:
                        builder.sign(signer, kind, io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            raise ValueError(f"the file cannot be signed ({first_line(error)}); is the certificate for C2PA?") from None
        return signed.getvalue()


def _algorithm(certificate: bytes, key: bytes, *names: Any) -> str:
    """What C2PA calls the key's way of signing. Raises ValueError for what is no certificate with its key."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        own, *_ = x509.load_pem_x509_certificates(certificate)
    except ValueError:
        raise ValueError(f"{names[0]}: is no certificate in PEM; name the file with its chain") from None
    try:
        secret = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{names[1]}: is no private key in PEM without a password; name the certificate's") from None
    if secret.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise ValueError(
            f"{names[1]}: is not the key of the first certificate in {names[0]}; put the signer's own first"
        )
    if isinstance(secret, ec.EllipticCurvePrivateKey) and secret.curve.name in _CURVES:
        return _CURVES[secret.curve.name]
    if isinstance(secret, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(secret, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError(f"{names[1]}: C2PA knows no signatures with such a key; use P-256, Ed25519 or RSA")


@dataclass(frozen=True)
class Credentials:
    """What a file's manifest says.

    Attributes:
        state: ``Valid``: nothing was changed since it was signed; ``Trusted``: and the certificate is on a list of
            trusted ones; ``Invalid``: it was changed, or the signature is not right.
        signed_by: the certificate's name.
        problems: what was found, in C2PA's words.
    """

    state: str
    signed_by: str
    problems: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> Credentials | None:
    """The credentials in a file; None if it has none. Raises ImportError without c2pa-python, ValueError for a manifest
    that cannot be read."""
    c2pa, data = _library(), files.read(Path(path))
    try:
        reader = c2pa.Reader.try_create(io.BytesIO(data))
        if reader is None:
            return None
        with reader:
            store, state = json.loads(reader.json()), reader.get_validation_state()
    except c2pa.C2paError.NotSupported:  # a format that holds none
        return None
    except c2pa.C2paError as error:
        raise ValueError(f"{path}: its Content Credentials cannot be read ({first_line(error)})") from None
    signature = store["manifests"][store["active_manifest"]].get("signature_info", {})
    problems = tuple(dict.fromkeys(each["code"] for each in store.get("validation_status", ())))
    return Credentials(str(state), str(signature.get("common_name") or signature.get("issuer") or "unknown"), problems)


def has_credentials(path: str | os.PathLike[str]) -> bool:
    """Whether a file seems to have a manifest, without the library: by the name of its container (JUMBF)."""
    return b"jumdc2pa" in files.read(Path(path))


def _mime_type(format: str) -> str:
    Image.init()
    return Image.MIME.get(format, "")


def _kind_of(data: bytes) -> str:
    """The MIME type of a picture file; "" for what Pillow does not know."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return _mime_type("JPEG" if opened.format == "MPO" else str(opened.format))
    except (OSError, ValueError):
        return ""
