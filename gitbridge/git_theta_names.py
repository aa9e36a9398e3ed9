"""What Git-Theta's users have typed and set, and what it means here.

Its options and variables work where they still mean something; where they do not, a word says what replaces them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from gitbridge.errors import UsageError

UPDATE_TYPE = "GIT_THETA_UPDATE_TYPE"
UPDATE_DATA_PATH = "GIT_THETA_UPDATE_DATA_PATH"
_DENSE = "dense"

REPLACED = {
    "--checkpoint-type": "the format of a file is seen from its bytes",
    "GIT_THETA_CHECKPOINT_TYPE": "the format of a file is seen from its bytes",
    UPDATE_TYPE: "git theta add takes it, as --update-type; a plain git add does not",
    UPDATE_DATA_PATH: "git theta add takes it, as --update-path; a plain git add does not",
    "GIT_THETA_PARAMETER_ATOL": "every change of a bit is a change",
    "GIT_THETA_PARAMETER_RTOL": "every change of a bit is a change",
    "GIT_THETA_LSH_SIGNATURE_SIZE": "tensors are compared by BLAKE3, not by similarity",
    "GIT_THETA_LSH_THRESHOLD": "tensors are compared by BLAKE3, not by similarity",
    "GIT_THETA_LSH_POOL_SIZE": "tensors are compared by BLAKE3, not by similarity",
    "GIT_THETA_MAX_CONCURRENCY": "as many threads are used as there are processors: taskset limits them",
    "GIT_THETA_MANUAL_MERGE": "git merge leaves conflicts that git theta mergetool decides; theta.merge.method does so "
    "without asking",
}
"""By option or variable: what replaces it, or why nothing needs to."""


def update_from_environment(environment: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the type of update that the environment sets and where the update is; None, None for a plain add.

    Raises:
        UsageError: it sets the one without the other.
    """
    kind = environment.get(UPDATE_TYPE)
    if not kind or kind == _DENSE:
        return None, None
    path = environment.get(UPDATE_DATA_PATH)
    if not path:
        raise UsageError(f"{UPDATE_TYPE} is '{kind}', and {UPDATE_DATA_PATH} is not set", "git theta add --update-path")
    return kind, path


def remark_on(name: str) -> None:
    """Say on stderr what became of an option or variable."""
    print(f"git theta: {name} is not needed: {REPLACED[name]}", file=sys.stderr)


def remark_on_lost_update(environment: Mapping[str, str]) -> None:
    """Say on stderr that a plain `git add` knows nothing of an update that the environment names."""
    kind = environment.get(UPDATE_TYPE)
    if kind and kind != _DENSE:
        print(
            f"git theta: {UPDATE_TYPE} is '{kind}', but a plain git add stores the file as it is\n"
            "hint: git theta add FILE applies the update",
            file=sys.stderr,
        )
