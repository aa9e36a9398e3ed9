"""What gets one into a store behind a URL: credentials, profile, endpoint, from git configuration alone.

`theta.<url>.<option>` holds for URLs that are the same or lie below; of two that hold, the longer counts. Git spells
names of settings without underscores, so `endpoint-url` (or `endpointUrl`: git does not keep capitals) is given as
`endpoint_url`. Committed files have no say here: they could send what opens the user's own store to somebody else's.

    git config theta.s3://team-models.profile work
    git config theta.s3://team-models.endpoint-url https://s3.example.com
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thetastore.backends.urls import Url

_NO_VALUES = ("null", "none")


class StorageOptions(dict[str, object]):
    """Options that may be secret: they are never shown."""

    def __repr__(self) -> str:
        return f"<{len(self)} storage options>"


def options_for(url: Url, settings: Mapping[str, Iterable[str]]) -> StorageOptions:
    """Return the options that hold for a URL.

    Args:
        url: of the store.
        settings: all of git configuration, as git lists its names, and each name's values.
    """
    found: list[tuple[str, str, str]] = []
    for name, values in settings.items():
        section, _, rest = name.partition(".")
        prefix, _, option = rest.rpartition(".")
        if section == "theta" and "://" in prefix and url.is_below(prefix):
            found.append((prefix, option, list(values)[-1]))
    ordered = sorted(found, key=lambda setting: len(setting[0]))
    return StorageOptions((option.replace("-", "_"), parse_option(value)) for _, option, value in ordered)


def parse_option(text: str) -> object:
    """Return an option as fsspec wants it: true, false, whole numbers and JSON objects are what they look like."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in _NO_VALUES:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10 and (text == "0" or not text.startswith("0")):
        return int(text)
    if text.startswith(("{", "[")):
        import json

        try:
            parsed: object = json.loads(text)
            return parsed
        except (ValueError, RecursionError):
            return text
    return text
