"""Headers that are made to exhaust a reader: each is declined, or read, within set time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each runs in a process of its own, since peak memory can be measured only from the start.
ATTACKS = {
    "opening brackets": "b'{\"a\":' + b'[' * MOST",
    "opening braces": "b'{\"a\":' * (MOST // 5)",
    "nested metadata": "b'{\"__metadata__\":' * (MOST // 16)",
    "a shape of millions of numbers": "b'{\"a\":{\"shape\":[' + b'1,' * (MOST // 2 - 50) + b'1]}}'",
    "a shape of millions of lists": "b'{\"a\":{\"shape\":[' + b'[],' * (MOST // 3 - 50) + b'1]}}'",
    "an integer of millions of digits": "b'{\"a\":{\"shape\":[' + b'9' * (MOST - 50) + b']}}'",
    "millions of keys of metadata": (
        "b'{\"__metadata__\":{' + b','.join(b'\"%x\":\"\"' % n for n in range(2_500_000)) + b'}}'"
    ),
    "millions of empty tensors": "b'{' + b','.join(b'\"%d\":{}' % n for n in range(2_500_000)) + b'}'",
    "as many tensors as fit, by one": (
        'b\'{\' + b\',\'.join(b\'"%x":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}\' % (n, n, n + 1)'
        " for n in range(200_001)) + b'}'"
    ),
    "a name of wide characters": "b'{\"' + '\\U0001f600'.encode() * (MOST // 4 - 50) + b'\":{}}'",
    "metadata of escapes": "b'{\"__metadata__\":{\"a\":\"' + b'\\\\n' * (MOST // 2 - 50) + b'\"}}'",
    "metadata of escaped surrogates": (
        "b'{\"__metadata__\":{\"a\":\"' + b'\\\\ud83d\\\\ude00' * (MOST // 12 - 50) + b'\"}}'"
    ),
    "a string that never ends": "b'{\"' + b'\\\\\"' * (MOST // 2 - 50)",
    "spaces": "b'{' + b' ' * (MOST - 50) + b'}'",
}

MEASURE = """
import json, resource, sys, time
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES
from thetastore.formats.safetensors import Safetensors
MOST = MAX_HEADER_BYTES - 100
text = {text}
prefix = len(text).to_bytes(8, "little") + text
del text
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before_bytes, started = peak_bytes(), time.process_time()
try:
    Safetensors().scan_header(prefix)
    outcome = "layout"
except NotThisFormat:
    outcome = "declined"
print(json.dumps([outcome, peak_bytes() - before_bytes, time.process_time() - started]))
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_header_of_32_mib_takes_bounded_memory_and_time(attack: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE.replace("{text}", ATTACKS[attack])], capture_output=True, check=True
    )
    outcome, extra_bytes, elapsed_s = json.loads(result.stdout)

    assert outcome in ("layout", "declined")
    assert extra_bytes < 200 << 20, f"{extra_bytes >> 20} MiB beside the header"
    assert elapsed_s < 20
