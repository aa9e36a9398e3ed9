"""Repositories with weights in them, as in tests/bridge."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "bridge" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("bridge_conftest", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_BRIDGE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_BRIDGE)

alone, make_work, work, weights = _BRIDGE.alone, _BRIDGE.make_work, _BRIDGE.work, _BRIDGE.weights
