"""Masking: the same bytes, whoever makes them, and whatever is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from trio_mcp_transport.sansio import websocket_masking
from trio_mcp_transport.sansio.websocket_masking import Mask, choose_mask, mask, mask_in_python

pytestmark = pytest.mark.sansio

MASKS = {"python": mask_in_python, "chosen": mask}
KEY = b"\x00\x7f\x80\xff"


@pytest.fixture(params=MASKS)
def masked(request: pytest.FixtureRequest) -> Mask:
    return MASKS[request.param]


def test_the_example_of_the_specification(masked: Mask) -> None:
    """RFC 6455, section 5.7: a single-frame masked text message that contains "Hello"."""
    key = bytes.fromhex("37fa213d")
    assert masked(b"Hello", key) == bytes.fromhex("7f9f4d5158")
    assert masked(bytes.fromhex("7f9f4d5158"), key) == b"Hello"


@pytest.mark.parametrize(
    "size", [0, 1, 3, 4, 5, 7, 8, 1023, 1024, 1025, 1027, 65535, 65536, 65537, 131_075]
)
def test_every_byte_meets_its_byte_of_the_key(masked: Mask, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    expected = bytes(byte ^ KEY[place % 4] for place, byte in enumerate(data[:size]))
    assert masked(data[:size], KEY) == expected


@pytest.mark.parametrize("size", [5, 2000])
def test_bytes_are_taken_from_wherever_they_are(masked: Mask, size: int) -> None:
    data = b"x" + b"abcde" * 400
    expected = masked(data[1 : size + 1], KEY)
    assert type(expected) is bytes
    for kind in (bytearray, memoryview):
        assert masked(kind(data)[1 : size + 1], bytearray(KEY)) == expected


def test_what_is_masked_may_change_afterwards(masked: Mask) -> None:
    buffer = bytearray(b"abcde" * 400)
    with memoryview(buffer) as view:
        before = masked(view[:2000], KEY)
    del buffer[:1000]
    assert masked(before, KEY) == b"abcde" * 400


def test_without_the_library_python_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert choose_mask() is mask_in_python


def test_with_the_library_its_function_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    in_c = object()
    monkeypatch.setitem(sys.modules, "websockets", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "websockets.speedups", SimpleNamespace(apply_mask=in_c))
    assert websocket_masking.choose_mask() is in_c
