"""Content codings, inflated in pieces of at most 1 MiB, so that a small body cannot become a large one unseen.

gzip and deflate are in the standard library; br and zstd are offered only where a library is installed that can be held
to a piece.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from ._failures import BadResponse

PIECE: Final = 1024 * 1024


class Decoder(Protocol):
    """Bytes in, pieces of decoded bytes out."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What these bytes decode to, piece by piece. Raises `BadResponse`."""
        ...


class _Zlib:
    """gzip and deflate. Many servers send deflate without the wrapper that the standard asks for: its first two bytes tell."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._wbits = zlib.MAX_WBITS | (16 if coding == "gzip" else 0)
        self._inflater = zlib.decompressobj(self._wbits)
        self._first: bytes | None = b"" if coding == "deflate" else None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._first is not None:
            data = self._first + data
            if len(data) < 2:
                self._first = data
                return
            self._first = None
            if data[0] & 0x0F != 8 or (data[0] << 8 | data[1]) % 31:
                self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while data:
            if self._inflater.eof:
                if self._coding != "gzip":
                    return
                # A gzip body may be several members, one after the other.
                self._inflater = zlib.decompressobj(self._wbits)
            piece = self._inflate(data)
            data = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if piece:
                yield piece
        # What did not fit into a piece may still lie in the inflater with no input left.
        while not self._inflater.eof and (piece := self._inflate(b"")):
            yield piece

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, PIECE)
        except zlib.error:
            raise BadResponse(f"a body is not the {self._coding} that its headers promise") from None


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = importlib.import_module("brotli").Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            while True:
                piece: bytes = self._decompressor.process(data, output_buffer_limit=PIECE)
                data = b""
                if not piece:
                    return
                yield piece
        except Exception:
            raise BadResponse("a body is not the br that its headers promise") from None


class _Zstandard:
    def __init__(self) -> None:
        self._decompressor: Any = _zstd_module().ZstdDecompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        try:
            while not self._decompressor.eof:
                piece: bytes = self._decompressor.decompress(data, max_length=PIECE)
                data = b""
                if not piece:
                    return
                yield piece
        except Exception:
            raise BadResponse("a body is not the zstd that its headers promise") from None


def _zstd_module() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _has_bounded_brotli() -> bool:
    try:
        importlib.import_module("brotli").Decompressor().process(b"", output_buffer_limit=PIECE)
    except Exception:
        # Not there, or too old to be held to a piece.
        return False
    return True


def _codings() -> dict[str, Callable[[], Decoder]]:
    found: dict[str, Callable[[], Decoder]] = {"gzip": lambda: _Zlib("gzip"), "deflate": lambda: _Zlib("deflate")}
    if _has_bounded_brotli():
        found["br"] = _Brotli
    if _zstd_module() is not None:
        found["zstd"] = _Zstandard
    return found


_CODINGS: Final = _codings()

ACCEPT_ENCODING: Final = ", ".join(_CODINGS).encode()
"""The value of `Accept-Encoding`."""


def decoder_for(content_encoding: str) -> Decoder | None:
    """A decoder for the value of `Content-Encoding`, or `None` where there is nothing to decode. Raises `BadResponse`."""
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return None
    name = {"x-gzip": "gzip"}.get(names[0], names[0])
    if len(names) > 1 or name not in _CODINGS:
        raise BadResponse("a body has a content coding that this client did not ask for")
    return _CODINGS[name]()
