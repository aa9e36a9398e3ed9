"""Codecs: reversible transforms of bytes, each under a released name.

`encode` picks the codec that suits the bytes and their element type; `decode` undoes any of them into
memory that the caller allocated, so that no stored length is believed before it was checked.
"""

from __future__ import annotations
