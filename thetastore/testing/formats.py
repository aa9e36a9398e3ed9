"""The conformance suite of format plug-ins, and a file in memory to scan.

Subclass `FormatConformance` in a test module, say which plug-in and which samples, and run pytest.
"""

from __future__ import annotations


class BytesFile:
    """Bytes that can be read like a file."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)`; shorter only at the end."""
        assert offset >= 0, "a negative offset is a bug of the reader"
        assert nbytes >= 0, "a negative length is a bug of the reader"
        return self._raw[offset : offset + nbytes]
