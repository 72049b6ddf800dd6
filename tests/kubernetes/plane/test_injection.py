"""What a pod's words become on this machine."""

import pytest
from planekit.injection import expanded, localized, quantity

PLACES = {"/etc/input": "/pod/in", "/etc/input/deep": "/pod/deep", "/dev/termination-log": "/pod/log"}


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("/etc/input", "/pod/in"),
        ("/etc/input/a.json", "/pod/in/a.json"),
        ("/etc/input/deep/a", "/pod/deep/a"),
        ("--in=/etc/input:/etc/input/deep", "--in=/pod/in:/pod/deep"),
        ("file:///etc/input/a", "file:///pod/in/a"),
        ("echo x >/dev/termination-log; true", "echo x >/pod/log; true"),
        ("/etc/inputs /etc/input-2 /etc/input.d", "/etc/inputs /etc/input-2 /etc/input.d"),
        ("/home/etc/input", "/home/etc/input"),
    ],
)
def test_places_of_mounts_are_found_in_texts_and_others_left(text: str, here: str) -> None:
    assert localized(text, PLACES) == here


@pytest.mark.parametrize(
    ("text", "value"),
    [("$(A)-$(A)", "1-1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A $(", "$A $("), ("a$$(A)$(A)", "a$(A)1")],
)
def test_references_are_expanded_where_they_are_known(text: str, value: str) -> None:
    assert expanded(text, {"A": "1"}) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("64Mi", 64 * 2**20),
        ("1Gi", 2**30),
        ("1.5Gi", 3 * 2**29),
        ("2k", 2_000),
        ("1Ki", 1_024),
        ("3G", 3 * 10**9),
        ("1500m", 2),
        ("1e3", 1_000),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, number: int) -> None:
    assert quantity(text) == number
