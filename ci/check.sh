#!/usr/bin/env bash
# Check what a pull request, or a push, brings: what action.yml runs, and what any other CI can run.
#
#   ci/check.sh [options of git theta check]
#
# THETA_BASE names the branch or commit that counts as known: in GitHub Actions, without it, the pull request's base, or
# what the branch was before the push. With none of these, everything there is is looked at.
set -euo pipefail

base=${THETA_BASE:-}
if [ -z "$base" ] && [ -n "${GITHUB_BASE_REF:-}" ]; then
  base=origin/$GITHUB_BASE_REF
elif [ -z "$base" ] && [ -n "${GITHUB_EVENT_BEFORE:-}" ] && [ -n "${GITHUB_EVENT_BEFORE//0/}" ]; then
  base=$GITHUB_EVENT_BEFORE # all zeros where the push made the branch
fi
if [ -n "$base" ] && ! git rev-parse --quiet --verify "$base^{commit}" >/dev/null; then
  echo "check.sh: '$base' is not in this clone: check out with fetch-depth: 0; looking at everything instead" >&2
  base=
fi

options=()
if [ -n "$base" ]; then options+=(--base "$base"); fi
if [ "${GITHUB_ACTIONS:-}" = true ]; then options+=(--format github); fi
exec git-theta check ${options[@]+"${options[@]}"} "$@" HEAD
