"""Indices of tensors in other files, made to exhaust a reader: each is declined within set time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each runs in a process of its own, since peak memory can be measured only from the start.
ATTACKS = {
    "keys that share ever longer beginnings": (
        "table([HEADER, *(entry(min(n, 60_000), b'a', b'') for n in range(1_000_000))])",
        "bytes of keys",
    ),
    "many keys of what is no tensor": (
        "table([HEADER, *(entry(0, b'%06d' % n, b'') for n in range(600_000))])",
        "more than 500000 entries",
    ),
    "as many tensors as fit, by one": (
        "table([HEADER, *(entry(0, b'%06d' % n, bytes([8, 1, 40, 4])) for n in range(200_001))])",
        "more than 200000 tensors",
    ),
    "a block that is the file": ("bytes(MOST) + footer(0, MOST, 0, MOST)", "not within the file"),
    "restarts without end": ("bytes([255]) * MOST + bytes(9) + footer(0, MOST, 0, MOST)", "places to start at"),
    "a million slices": ("table([HEADER, entry(0, b'w', bytes([0x3a, 2, 10, 0]) * 1_000_000)])", "fields"),
    "slices of a million axes": (
        "table([HEADER, entry(0, b'w', bytes([0x3a]) + varint(4_000_000) + bytes([10, 0]) * 2_000_000)])",
        "too many",
    ),
    "a shape of millions of axes": (
        "table([HEADER, entry(0, b'w', bytes([0x12]) + varint(4_000_000) + bytes([0x12, 0]) * 2_000_000)])",
        "dimensions",
    ),
    "a longer file": ("table([HEADER, entry(0, b'w', bytes(MOST))] * 2)", "an index of more than"),
}
"""What is in the file, and why it is declined."""

MEASURE = """
import json, struct, time
from thetastore.errors import NotThisFormat
from thetastore.formats.tensorflow import TensorflowIndex
from thetastore.testing.formats import BytesFile
MOST = 31 << 20
def varint(value):
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
def footer(meta, meta_bytes, index, index_bytes):
    named = b"".join(map(varint, (meta, meta_bytes, index, index_bytes)))
    return named.ljust(40, b"\\0") + bytes.fromhex("57fb808b247547db")
def entry(shared, key, value):
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value
HEADER = entry(0, b"", bytes([8, 1]))
def table(entries):
    end = struct.pack("<II", 0, 1) + bytes(5)
    block = b"".join(entries) + end
    index = entry(0, b"", varint(0) + varint(len(block) - 5)) + end
    return block + index + footer(len(block), len(index) - 5, len(block), len(index) - 5)
raw = {raw}
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before_bytes, started = peak_bytes(), time.process_time()
try:
    TensorflowIndex().scan(BytesFile(raw))
    outcome = "layout"
except NotThisFormat as error:
    outcome = str(error)
print(json.dumps([outcome, peak_bytes() - before_bytes, time.process_time() - started]))
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_index_takes_bounded_memory_and_time(attack: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.replace("{raw}", ATTACKS[attack][0])], capture_output=True, check=True
    )
    outcome, extra_bytes, elapsed_s = json.loads(done.stdout)

    assert ATTACKS[attack][1] in outcome
    assert extra_bytes < 200 << 20, f"{extra_bytes >> 20} MiB beside the file"
    assert elapsed_s < 20
