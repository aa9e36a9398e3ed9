# Sourced by the scenarios: they run in an empty directory of their own, with HOME in it, as somebody would work.
#
#   MODEL    a checkpoint to begin with
#   ROUNDS   how often what is done again and again is done

set -eu
PS4=$'\n$ '

cat >"$HOME/.gitconfig" <<'END'
[user]
	name = Ada
	email = ada@example.com
[init]
	defaultBranch = main
[advice]
	detachedHead = false
END

cat >"$HOME/train.py" <<'END'
"""Stands for training: train.py SEED STRENGTH IN OUT [LAYER...] moves the weights of some layers, or of all."""
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

seed, strength, source, target, *layers = sys.argv[1:]
rng = np.random.default_rng(int(seed))
tensors = load_file(source)
for name, weight in tensors.items():
    if weight.dtype.kind == "f" and (not layers or any(f".layer.{layer}." in name for layer in layers)):
        tensors[name] = (weight * (1 + float(strength) * rng.standard_normal(weight.shape))).astype(weight.dtype)
save_file(tensors, target, metadata={"format": "pt"})
END
train() { python3 "$HOME/train.py" "$@"; }

fail() {
  echo "SCENARIO FAILED: $*" >&2
  exit 1
}
same() { cmp -- "$1" "$2" || fail "$1 and $2 differ"; }
refused() { # a command that has to fail, in words
  local status=0
  "$@" || status=$?
  [ "$status" -ne 0 ] || fail "this should have been refused: $*"
}
clean() { [ -z "$(git status --porcelain)" ] || fail "the work tree should be clean: $(git status --porcelain)"; }
