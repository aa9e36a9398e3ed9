"""Commands for which permissions hold, whoever runs the tests: root may read what it likes."""

from __future__ import annotations

import sys

_LAUNCHER = """
import ctypes, os, sys
DROP_FROM_BOUNDING_SET, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2  # of prctl(2) and capabilities(7)
for capability in (DAC_OVERRIDE, DAC_READ_SEARCH) if sys.platform == "linux" else ():
    ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""

WITHOUT_PRIVILEGE = (sys.executable, "-c", _LAUNCHER)
"""Put before a command: it, and all that it starts, is refused what permissions do not allow."""
