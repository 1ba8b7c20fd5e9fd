"""Content Credentials: signed with a certificate made here, read back, and broken by any change."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from photofound import cli, image, provenance
from photofound.image import Picture
from photofound.picture import credentials
from photofound.picture.credentials import Signer

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install 'photofound[c2pa]'")
x509 = pytest.importorskip("cryptography.x509")


def certificate(folder, kind="ec"):
    """A shop's certificate under a root of its own, and its key, as PEM files."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    make = {
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]
    root, key = ec.generate_private_key(ec.SECP256R1()), make()
    now, usage = (
        datetime.datetime.now(datetime.UTC),
        dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        ),
    )

    def named(name):
        return x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "A shop"),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
            ]
        )

    def signed(name, public, leaf):
        built = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("Root")).public_key(public)
        built = built.serial_number(x509.random_serial_number())
        built = built.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(30))
        built = built.add_extension(x509.BasicConstraints(not leaf, None), True)
        signs = {"digital_signature": True, "key_cert_sign": not leaf, "crl_sign": not leaf}
        built = built.add_extension(x509.KeyUsage(**usage, **signs), True)
        built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        if leaf:
            built = built.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return built.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain, secret = folder / f"{kind}-chain.pem", folder / f"{kind}-key.pem"
    chain.write_bytes(signed("The shop's pictures", key.public_key(), True) + signed("Root", root.public_key(), False))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return chain, secret


def manifest(path):
    with c2pa.Reader(str(path)) as reader:
        store = json.loads(reader.json())
    return store["manifests"][store["active_manifest"]]


def actions(found):
    (assertion,) = (each for each in found["assertions"] if each["label"].startswith("c2pa.actions"))
    return {each["action"]: each.get("digitalSourceType") for each in assertion["data"]["actions"]}


@pytest.mark.parametrize("kind", ["ec", "ed25519", "rsa"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_signed_file_is_valid_and_a_changed_one_is_not(tmp_path, kind, suffix):
    signer = Signer(*certificate(tmp_path, kind))
    before = image.save(noise(40, 60), tmp_path / f"before{suffix}")
    result = provenance.mark(Picture(noise(40, 60, seed=1)))
    after = image.save(result, tmp_path / f"after{suffix}", sign=signer.signing(before))
    found = credentials.read(after)
    assert (found.state, found.signed_by) == ("Valid", "The shop's pictures")
    assert set(found.problems) <= {"signingCredential.untrusted"}  # the root is nobody's but ours
    said = manifest(after)
    assert actions(said)["c2pa.edited"] == provenance.COMPOSITE and "c2pa.opened" in actions(said)
    assert said["claim_generator_info"][0]["name"] == "photofound" and len(said["ingredients"]) == 1
    assert "thumbnail" not in said and provenance.source_type(image.load(after)) == provenance.COMPOSITE
    assert credentials.read(before) is None and not credentials.has_credentials(before)
    data = bytearray(after.read_bytes())
    place = data.find(b"compositeWithTrained")
    assert place > 0
    data[place] ^= 1
    after.write_bytes(data)
    assert credentials.read(after).state == "Invalid"


def test_the_photographs_own_credentials_stay_with_the_results(tmp_path):
    signer = Signer(*certificate(tmp_path))
    first = image.save(noise(40, 60), tmp_path / "first.jpg", sign=signer.signing(whole=True))
    assert actions(manifest(first)) == {"c2pa.created": provenance.GENERATED}
    image.save(noise(40, 60), tmp_path / "second.jpg", sign=signer.signing(first))
    (ingredient,) = manifest(tmp_path / "second.jpg")["ingredients"]
    assert ingredient["active_manifest"] and credentials.read(tmp_path / "second.jpg").state == "Valid"


def test_the_command_line_signs_and_verify_says_who_did(tiny_folder, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chain, key = certificate(tmp_path)
    Image.fromarray(photo).save("a.png")
    words = ["expand", "a.png", "--left", "4", "--model", str(tiny_folder), "--steps", "1", "--quiet", "-o", "b.png"]
    assert cli.main([*words, "--c2pa-cert", str(chain), "--c2pa-key", str(key)]) == 0
    assert cli.main(["verify", "a.png", "b.png"]) == 0
    assert "Content Credentials: valid, signed by The shop's pictures" in capsys.readouterr().out
    assert cli.main(["verify", "a.png", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["credentials"]["state"] == "Valid"
    signed = ["--c2pa-cert", str(chain), "--c2pa-key", str(key)]
    assert cli.main(["redo", "b.png", "-o", "c.png", "--model", str(tiny_folder), *signed]) == 0
    assert np.array_equal(image.load("b.png").pixels, image.load("c.png").pixels)
    assert credentials.read("c.png").state == "Valid"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--c2pa-cert", "chain.pem"], "--c2pa-key: is missing"),
        (["--c2pa-cert", "chain.pem", "--c2pa-key", "other.pem"], "is not the key of the first certificate"),
        (["--c2pa-cert", "a.png", "--c2pa-key", "key.pem"], "a.png: is no certificate in PEM"),
        (["--c2pa-cert", "chain.pem", "--c2pa-key", "chain.pem"], "is no private key in PEM"),
        (["--c2pa-cert", "none.pem", "--c2pa-key", "key.pem"], "none.pem: No such file"),
    ],
)
def test_mistakes_are_one_line_before_the_work(photo, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    for path, name in zip(certificate(tmp_path), ("chain.pem", "key.pem"), strict=True):
        path.rename(tmp_path / name)
    certificate(tmp_path / "more")[1].rename(tmp_path / "other.pem")
    Image.fromarray(photo).save("a.png")
    assert cli.main(["expand", "a.png", "--left", "4", "-o", "b.png", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and len(error.splitlines()) == 1 and not (tmp_path / "b.png").exists()


def test_what_cannot_be_signed_is_one_line(tmp_path):
    signer = Signer(*certificate(tmp_path))
    with pytest.raises(ValueError, match="BMP holds no Content Credentials"):
        image.save(noise(8, 8), tmp_path / "a.bmp", sign=signer.signing())
