"""Names of certificates, held against OpenSSL itself."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.pki_names import alt_names
from hypothesis import given, settings
from hypothesis import strategies as st

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
DNS = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
ADDRESS = st.ip_addresses().map(str)


@settings(max_examples=15, deadline=None)
@given(st.lists(DNS, max_size=3), st.lists(ADDRESS, min_size=1, max_size=3))
def test_they_are_written_as_openssl_writes_them(dns, ip):
    wanted = ",".join([f"DNS:{name}" for name in dns] + [f"IP:{address}" for address in ip])
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
        + ["-subj", "/CN=x", "-addext", f"subjectAltName={wanted}"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName"], check=True, input=made, capture_output=True
    ).stdout.decode()
    assert sorted(set(shown.splitlines()[-1].strip().split(", "))) == alt_names(dns, ip)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a..b", "a" * 64, "x." * 130, "a.*.b", "é"])
def test_what_is_no_dns_name_is_refused(name):
    with pytest.raises(ValueError, match="is not a DNS name"):
        alt_names([name], [])


def test_a_wildcard_may_come_first_and_case_does_not_matter():
    assert alt_names(["*.Example.org", "*.example.org"], []) == ["DNS:*.example.org"]


@pytest.mark.parametrize("address", ["10.0.0.256", "host", "10.0.0.0/8"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError):
        alt_names([], [address])
