"""gzip and deflate in bodies: requests are unpacked up to a limit and not a byte further, large answers are packed."""

import asyncio
import zlib

from tidemill_runtime.http import HttpProblem

GZIP, DEFLATE = "gzip", "deflate"
_BITS = {GZIP: 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, DEFLATE: zlib.MAX_WBITS}
ASIDE = 64 * 1024
"""Bytes above which the work is done in a thread: it would keep other requests waiting."""
WORTH = 1024
"""Bytes below which an answer is sent as it is."""
_LEVEL = 1
"""Between the server and its clients time is dearer than bytes."""


async def unpack(raw: bytes, encoding: str, limit: int) -> bytes:
    """The body behind its Content-Encoding; raises HttpProblem 400 or 415, and 413 above `limit` bytes."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return raw
    bits = _BITS.get(name)
    if bits is None:
        raise HttpProblem(415, "the content encoding is gzip, deflate or identity", headers={"accept-encoding": "gzip"})
    if len(raw) <= ASIDE // 16:
        return _inflate(raw, bits, limit)
    return await asyncio.to_thread(_inflate, raw, bits, limit)


def _inflate(raw: bytes, bits: int, limit: int) -> bytes:
    packed = zlib.decompressobj(bits)
    try:
        found = packed.decompress(raw, limit + 1)
    except zlib.error:
        raise HttpProblem(400, "the body is not what its content encoding says") from None
    if len(found) > limit:
        raise HttpProblem(413, f"the unpacked body may have at most {limit} bytes")
    if not packed.eof or packed.unused_data:
        raise HttpProblem(400, "the packed body does not end where it should")
    return found


def accepted(header: str) -> str | None:
    """Which of the two a client takes by its Accept-Encoding, gzip first; None: neither."""
    found = set()
    for part in header.lower().split(","):
        name, _, parameters = part.partition(";")
        if not _is_refused(parameters):
            found.add(name.strip())
    return next((name for name in (GZIP, DEFLATE) if name in found), None)


def _is_refused(parameters: str) -> bool:
    """Whether the quality is zero."""
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return False
    try:
        return float(value) <= 0
    except ValueError:
        return True


async def pack(body: bytes, encoding: str) -> bytes:
    """The body in that encoding."""
    if len(body) <= ASIDE:
        return _deflate(body, _BITS[encoding])
    return await asyncio.to_thread(_deflate, body, _BITS[encoding])


def _deflate(body: bytes, bits: int) -> bytes:
    packed = zlib.compressobj(_LEVEL, wbits=bits)
    return packed.compress(body) + packed.flush()
