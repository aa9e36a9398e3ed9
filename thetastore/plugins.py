"""What other packages add to the store, found by their entry points.

| group | the entry point's name | what it names |
| --- | --- | --- |
| `thetastore.formats` | any; they are tried in its order | a class without arguments: see `thetastore.formats` |
| `thetastore.codecs` | name of the codec | `decode(params, stored, out, bases)`: see `thetastore.codecs` |
| `thetastore.backends` | scheme of a URL, such as `s3` | `open(url) -> Backend`: see `thetastore.backends` |
| `thetastore.merge_methods` | name of the method | a `Method`: see `thetastore.merging` |
| `thetastore.updates` | name of the update type | an `UpdateType`: see `thetastore.adapters` |
| `thetastore.metrics` | name of the metric | `(pair) -> Metric or None`: see `thetastore.statistics` |

What is built in is listed in the code, and comes first. Reading entry points costs 40 ms: it is done only for what
nothing built in knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thetastore.errors import UnsupportedError, did_you_mean, near_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FORMATS = "thetastore.formats"
CODECS = "thetastore.codecs"
BACKENDS = "thetastore.backends"
MERGE_METHODS = "thetastore.merge_methods"
UPDATES = "thetastore.updates"
METRICS = "thetastore.metrics"
_NOUNS = {CODECS: "codec", BACKENDS: "URL scheme", UPDATES: "update type", METRICS: "metric"}
"""What a name of a group is called in messages."""


def offered(group: str) -> list[EntryPoint]:
    """Return a group's entry points, ordered by name."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group), key=lambda point: (point.name, point.value))


def has(group: str, name: str) -> bool:
    """Tell whether another package offers something under a name."""
    return any(point.name == name for point in offered(group))


def load(group: str, name: str, built_in: tuple[str, ...]) -> Any:
    """Return what another package offers under a name.

    Args:
        group: one of the groups above.
        name: the entry point's name.
        built_in: names that need no plug-in, for the message.

    Raises:
        UnsupportedError: no package offers it, or it cannot be loaded; the message lists what there is.
    """
    points = offered(group)
    for point in points:
        if point.name == name:
            try:
                return point.load()
            except Exception as error:
                raise UnsupportedError(f"the plug-in '{name}' of {group} cannot be loaded: {error}") from error
    names = [*built_in, *dict.fromkeys(point.name for point in points)]
    known, near = ", ".join(names), did_you_mean(near_names(name, names, 1)) or ": update, or install what offers it"
    raise UnsupportedError(f"'{name:.40}' is no {_NOUNS.get(group, group)} that is known here ({known}){near}")
