#!/usr/bin/env bash
# Print a key for a cache of the local store, .git/theta: another one as soon as any tracked file is another one.
#
# Needs git alone. Objects of the store are named by their content, so that an older cache is never wrong, only short of
# something: let the CI fall back to the newest one that it has (restore-keys).
set -euo pipefail
echo "theta-$(git ls-files --stage -- ':(top,attr:filter=theta)' | git hash-object --stdin)"
