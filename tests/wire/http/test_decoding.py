"""Content codings: what is inflated comes in pieces."""

from __future__ import annotations

import gzip
import sys
import types
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_pool._wire.http import _decoding
from trio_mcp_pool._wire.http._decoding import ACCEPT_ENCODING, PIECE, decoder_for
from trio_mcp_pool._wire.http._failures import BadResponse

CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "identity, deflate": lambda data: zlib.compress(data)[2:-4],
}


@given(st.binary(max_size=5000), st.sampled_from(sorted(CODINGS)), st.integers(1, 300))
def test_what_was_coded_is_what_comes_out_however_it_is_split(data: bytes, coding: str, split: int) -> None:
    decoder = decoder_for(coding)
    assert decoder is not None
    coded, out = CODINGS[coding](data), b""
    for start in range(0, len(coded), split):
        out += b"".join(decoder.decode(coded[start : start + split]))
    assert out == data


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_R19_a_bomb_comes_in_pieces_of_a_mebibyte(coding: str) -> None:
    decoder = decoder_for(coding)
    assert decoder is not None
    pieces = [len(piece) for piece in decoder.decode(CODINGS[coding](b"\0" * 50_000_000))]
    assert sum(pieces) == 50_000_000
    assert max(pieces) == PIECE


def test_a_body_may_be_several_members_of_gzip() -> None:
    decoder = decoder_for("gzip")
    assert decoder is not None
    assert b"".join(decoder.decode(gzip.compress(b"one ") + gzip.compress(b"two"))) == b"one two"


@pytest.mark.parametrize("data", [b"rubbish", gzip.compress(b"x" * 1000)[:20] + b"\xff" * 50], ids=["none", "broken"])
def test_what_is_not_the_coding_it_says_is_an_error(data: bytes) -> None:
    decoder = decoder_for("gzip")
    assert decoder is not None
    with pytest.raises(BadResponse, match="not the gzip"):
        list(decoder.decode(data))


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_nothing_is_decoded_where_nothing_was_coded(coding: str) -> None:
    assert decoder_for(coding) is None


@pytest.mark.parametrize("coding", ["compress", "gzip, deflate", "lzma"])
def test_a_coding_that_was_not_asked_for_is_an_error(coding: str) -> None:
    with pytest.raises(BadResponse, match="did not ask for"):
        decoder_for(coding)


def test_what_is_asked_for_can_be_read() -> None:
    for coding in ACCEPT_ENCODING.decode().split(", "):
        assert decoder_for(coding) is not None


class Bounded:
    """Stands in for the decompressors of br and zstd."""

    def __init__(self) -> None:
        self.eof = False
        self._left: list[bytes] = []

    def process(self, data: bytes, output_buffer_limit: int) -> bytes:
        return self.decompress(data, output_buffer_limit)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data == b"bad":
            raise ValueError(data)
        if data:
            self._left += [b"x" * max_length, b"y"]
        return self._left.pop(0) if self._left else b""


@pytest.mark.parametrize(
    ("coding", "module", "name"), [("br", "brotli", "Decompressor"), ("zstd", "backports.zstd", "ZstdDecompressor")]
)
def test_br_and_zstd_are_offered_where_a_library_is_there_that_can_be_held_to_a_piece(
    coding: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in ("compression", "compression.zstd", "backports", "brotli"):
        monkeypatch.setitem(sys.modules, parent, None)  # type: ignore[arg-type]
    assert coding not in _decoding._codings()
    fake: Any = types.ModuleType(module)
    setattr(fake, name, Bounded)
    if "." in module:
        monkeypatch.setitem(sys.modules, module.partition(".")[0], types.ModuleType("backports"))
    monkeypatch.setitem(sys.modules, module, fake)
    found = _decoding._codings()
    assert [len(piece) for piece in found[coding]().decode(b"data")] == [PIECE, 1]
    with pytest.raises(BadResponse, match=f"not the {coding}"):
        list(found[coding]().decode(b"bad"))


def test_a_brotli_that_is_too_old_to_be_bounded_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def process(self, data: bytes) -> bytes:
            return data

    fake: Any = types.ModuleType("brotli")
    fake.Decompressor = Old
    monkeypatch.setitem(sys.modules, "brotli", fake)
    assert "br" not in _decoding._codings()
