"""A test authority and a certificate for each name, made when the world starts."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..places import ADDRESSES, NAMES

DIRECTORY = Path("/run/egress-world")


def _certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey,
                 names: list[x509.GeneralName] | None) -> x509.Certificate:  # fmt: skip
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])).issuer_name(issuer)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip
    if names is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def make() -> None:
    """Write ca.crt, and server.pem (one key and one certificate for every name), unless they are there."""
    if (DIRECTORY / "stranger.pem").exists():
        return
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake internet")])
    pem = serialization.Encoding.PEM
    (DIRECTORY / "ca.crt").write_bytes(_certificate("fake internet", authority, issuer, authority, None).public_bytes(pem))
    everybody: list[x509.GeneralName] = [x509.DNSName(n) for n in (*NAMES, "*.wild.example", "*.attacker.example")]
    everybody += [x509.IPAddress(ipaddress.ip_address(a)) for a in ADDRESSES.values()]
    for file, names in (("server", everybody), ("stranger", [x509.DNSName("stranger.example")])):
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (DIRECTORY / f"{file}.pem").write_bytes(text + _certificate(names[0].value, key, issuer, authority, names).public_bytes(pem))


def context(file: str = "server") -> ssl.SSLContext:
    """Speak TLS 1.2 and 1.3, HTTP/1.1 and, with who offers nothing else, HTTP/2."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(DIRECTORY / f"{file}.pem")
    made.set_alpn_protocols(["http/1.1", "h2", "dot"])
    return made
