"""Messages that come packed: gzip and deflate, unpacked up to a limit and not a byte further."""

import asyncio
import zlib

from tidemill_runtime.rpc.status import Code, StatusError

_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ASIDE = 4096
"""Packed bytes above which the work is done in a thread: it would keep other calls waiting."""


async def unpack(raw: bytes, encoding: str, limit: int) -> bytes:
    """The message; raises StatusError."""
    bits = _BITS.get(encoding)
    if bits is None:
        raise StatusError(Code.UNIMPLEMENTED, "the encoding of messages is gzip, deflate or identity")
    return _inflate(raw, bits, limit) if len(raw) <= ASIDE else await asyncio.to_thread(_inflate, raw, bits, limit)


def _inflate(raw: bytes, bits: int, limit: int) -> bytes:
    packed = zlib.decompressobj(bits)
    try:
        found = packed.decompress(raw, limit + 1)
    except zlib.error:
        raise StatusError(Code.INTERNAL, "the message is not what its encoding says") from None
    if len(found) > limit:
        raise StatusError(Code.RESOURCE_EXHAUSTED, f"the unpacked message may have at most {limit} bytes")
    if not packed.eof or packed.unused_data:
        raise StatusError(Code.INTERNAL, "the packed message does not end where it should")
    return found
