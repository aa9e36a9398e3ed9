"""Pickles that are made to run code or to exhaust a reader: nothing is called, nothing grows without bound."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats import pickle_machine
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES, MAX_VALUE_BYTES, Call, Global, Mapping, read_pickle
from thetastore.formats.torch_state import MAX_DEPTH, named_tensors
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import Layout
from thetastore.testing.formats import BytesFile, mutations

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")


def archive(program: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """Return a torch archive around a pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", b"little")
        for key, raw in (storages or {"0": bytes(64)}).items():
            file.writestr(f"archive/data/{key}", raw)
    return target.getvalue()


def scan(program: bytes, storages: dict[str, bytes] | None = None) -> Layout:
    return TorchZip().scan(BytesFile(archive(program, storages)))


STORAGE = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI16\ntQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"I0\n(I4\nI4\nt(I4\nI1\ntI00\n}tR"


def test_the_templates_are_themselves_understood() -> None:
    layout = scan(b"}Vw\n" + TENSOR + b"s.")

    assert [tensor[:3] for tensor in layout.tensors] == [("w", "float32", (4, 4))]


# Nothing is called


class Canary:
    """Leaves a trace when it is unpickled in any way that Python knows."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call  # type: ignore[no-any-return]


@pytest.mark.parametrize("protocol", range(6))
def test_no_call_of_a_pickle_is_made(protocol: int, tmp_path: Any) -> None:
    trace = str(tmp_path / "trace")
    attacks = {
        "system": Canary(os.system, (f"touch {trace}",)),
        "mkdir": Canary(os.mkdir, (trace,)),
        "exec": Canary(exec, (f"open({trace!r}, 'w')",)),
        "import": Canary(__import__, ("antigravity",)),
        "state": Canary(OrderedDict, (), {"__setstate__": Canary(os.mkdir, (trace,))}),
        "getattr": Canary(getattr, (os, "system"))
        if protocol > 10
        else Canary(eval, (f"__import__('os').mkdir({trace!r})",)),
    }
    program = pickle.dumps(attacks, protocol)

    layout = scan(program)

    assert layout.tensors == ()
    assert not os.path.exists(trace)
    assert "antigravity" not in sys.modules
    pickle.loads(pickle.dumps(attacks["mkdir"], protocol))
    assert os.path.exists(trace), "the canary does leave a trace where it is called"


def test_old_opcodes_that_instantiate_make_records_too() -> None:
    for program in (b"(S'/tmp/x'\nios\nmkdir\n.", b"(cos\nmkdir\nS'/tmp/x'\no.", b"cos\nmkdir\n)\x81."):
        root = read_pickle(program).root

        assert type(root) is Call
        assert type(root.function) is Global
        assert (root.function.module, root.function.name) == ("os", "mkdir")


def test_naming_a_global_imports_nothing() -> None:
    read_pickle(b"cthis\ns\n.")
    read_pickle(b"\x8c\x04this\x8c\x01s\x93.")

    assert "this" not in sys.modules


def test_nested_bytes_of_torch_are_not_unpacked() -> None:
    inner = archive(b"}Vw\n" + TENSOR + b"s.")
    program = b"}Vx\nctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(inner)) + inner + b"tRs."

    assert scan(program).tensors == ()


# Nothing grows without bound


def bomb(levels: int, opening: bytes = b"]") -> bytes:
    """Return a list of two references to a list of two references to ... a tensor: 2^levels paths."""
    program = TENSOR + b"q\x000"
    for level in range(levels):
        # Build [previous, previous], remember it as level + 1, drop it.
        program += opening + b"(" + (b"h" + bytes([level])) * 2 + b"e" + b"q" + bytes([level + 1]) + b"0"
    return program + b"h" + bytes([levels]) + b"."


WIDE = "\U0001f600".encode()
SAME_HASH = 2**61 - 1
"""All multiples of this integer have the hash 0."""

BOMBS: dict[str, Callable[[int], bytes]] = {
    "billion laughs without a tensor": lambda n: bomb(60).replace(TENSOR, b"N"),
    "billion laughs in sets": lambda n: bomb(60, b"\x8f").replace(TENSOR, b"N"),
    "deep lists": lambda n: b"]" * n + b"a" * (n - 1) + b".",
    "deep tuples": lambda n: b")" + b"\x85" * n + b".",
    "deep dicts": lambda n: b"}N" * n + b"}" + b"s" * n + b".",
    "deep calls": lambda n: b"cx\ny\n" + b")R" * n + b".",
    "deep references": lambda n: b"N" + b"Q" * n + b".",
    "deep states": lambda n: b"cx\ny\n)R" * n + b"b" * (n - 1) + b".",
    "marks": lambda n: b"(" * n + b".",
    "empty lists": lambda n: b"(" + b"]" * n + b"l.",
    "empty dicts": lambda n: b"(" + b"}" * n + b"l.",
    "duplicates": lambda n: b"]" + b"2" * n + b".",
    "recalled": lambda n: b"(Nq\x00" + b"h\x00" * n + b"t.",
    "appended to itself": lambda n: b"]q\x00" + b"h\x00a" * n + b".",
    "wide strings": lambda n: b"(" + (b"X\x04\0\0\0" + WIDE) * n + b"l.",
    "one wide string": lambda n: b"X" + struct.pack("<I", n // 4 * 4) + WIDE * (n // 4) + b".",
    "a long integer": lambda n: b"\x8b" + struct.pack("<i", n) + b"\xff" * n + b".",
    "digits": lambda n: b"I" + b"9" * n + b"\n.",
    "a far memo index": lambda n: b"Nr\xff\xff\xff\xff.",
    "memo indexes with gaps": lambda n: (
        b"N" + b"".join(b"r" + struct.pack("<I", 1000 * at) for at in range(min(n, 2**22))) + b"."
    ),
    "states": lambda n: b"cx\ny\n)R" + b"}b" * n + b".",
    "pairs": lambda n: b"}(" + b"NN" * n + b"u.",
    "numbers": lambda n: b"(" + b"M\xff\xff" * n + b"l.",
    "short tuples": lambda n: b"(" + b"N\x85" * n + b"l.",
    "globals": lambda n: b"(" + b"cxx\nyy\n" * n + b"l.",
    "set once each": lambda n: b"}" + b"NNs" * n + b".",
    "colliding keys": lambda n: (
        b"}(" + b"".join(b"\x8a\x10%bN" % (at * SAME_HASH).to_bytes(16, "little") for at in range(n)) + b"u."
    ),
    "names that collide": lambda n: b"](" + (b"}(Va.b\n" + TENSOR + b"Va\n}Vb\n" + TENSOR + b"su") * n + b"e.",
}
"""Pickles that grow with a number."""


def bomb_of(name: str, nbytes: int) -> bytes:
    """Return a bomb of at most `nbytes` bytes, and nearly that where it grows at all."""
    count = 1
    while 2 * count < nbytes and len(BOMBS[name](2 * count)) <= nbytes:
        count *= 2
    unit_bytes = max(1, len(BOMBS[name](2)) - len(BOMBS[name](1)))
    return BOMBS[name](max(count, (nbytes - 200) // unit_bytes) if nbytes // unit_bytes < 2 * count else count)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_declined_or_read_in_bounded_time(name: str) -> None:
    file = BytesFile(archive(bomb_of(name, 300_000)))
    started = time.process_time()
    try:
        TorchZip().scan(file)
    except NotThisFormat:
        pass

    assert time.process_time() - started < 10


MEASURE = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from test_hostile_pickles import archive, bomb_of
from thetastore.errors import NotThisFormat
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES
from thetastore.formats.torch_zip import TorchZip
from thetastore.testing.formats import BytesFile
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
program = bomb_of(sys.argv[2], MAX_PICKLE_BYTES)
file = BytesFile(archive(program))
del program
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before_bytes, started = peak_bytes(), time.process_time()
try:
    TorchZip().scan(file)
    outcome = "layout"
except NotThisFormat as error:
    outcome = str(error)
print(json.dumps([outcome, peak_bytes() - before_bytes, time.process_time() - started, file.size]))
"""


@pytest.mark.deep
@pytest.mark.parametrize("name", BOMBS)
def test_the_largest_bomb_takes_bounded_memory_and_time(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, os.path.dirname(__file__), name], capture_output=True, check=True
    )
    outcome, extra_bytes, elapsed_s, _ = json.loads(result.stdout)

    assert extra_bytes < MAX_VALUE_BYTES + 1.5 * MAX_PICKLE_BYTES, f"{extra_bytes >> 20} MiB: {outcome}"
    assert elapsed_s < 60


def test_a_bomb_names_tensors_only_up_to_the_limit() -> None:
    with pytest.raises(NotThisFormat, match="more than 200000 tensors"):
        scan(bomb(60))


def test_shared_dicts_are_named_by_each_path() -> None:
    layout = scan(bomb(2))

    assert [tensor.name for tensor in layout.tensors] == ["0.0", "0.1", "1.0", "1.1"]


@pytest.mark.parametrize(
    "program",
    [
        b"]q\x00h\x00a.",
        b"}q\x00Vself\nh\x00s.",
        b"}q\x00Va\n](h\x00h\x00es.",
        b"cx\nObject\n)\x81q\x00}Vme\nh\x00sb.",
        b"cx\nObject\n)\x81q\x00h\x00b.",
    ],
)
def test_a_value_that_contains_itself_is_walked_once(program: bytes) -> None:
    with_tensor = program[:-1].join([b"](", TENSOR + b"e."])

    assert [tensor.name for tensor in scan(with_tensor).tensors] == ["1"]


def test_nesting_is_read_to_the_limit_and_not_beyond() -> None:
    def nested(depth: int) -> bytes:
        return b"]" * depth + TENSOR + b"a" * depth + b"."

    assert len(scan(nested(MAX_DEPTH)).tensors) == 1
    with pytest.raises(NotThisFormat, match="deep"):
        scan(nested(MAX_DEPTH + 1))


def test_names_may_not_grow_with_their_depth() -> None:
    name = b"V" + b"n" * 60_000 + b"\n"

    with pytest.raises(NotThisFormat):
        scan((b"}" + name) * 200 + TENSOR + b"s" * 200 + b".")


# What is malformed is declined

BROKEN = {
    "empty": b"",
    "no stop": b"N",
    "nothing to return": b".",
    "two values": b"NN.",
    "something after the end": b"N.N",
    "an open mark": b"(N.",
    "a pop beyond a mark": b"]N(a.",
    "a tuple without a mark": b"Nt.",
    "an unknown opcode": b"\xff.",
    "protocol 6": b"\x80\x06N.",
    "a memo entry that is not there": b"h\x05.",
    "a negative memo index": b"Np-1\n.",
    "a memo of an empty stack": b"q\x00N.",
    "a text index": b"Npx\n.",
    "a string longer than the pickle": b"X\xff\xff\xff\xffa.",
    "a string of 2^63 bytes": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "a frame longer than the pickle": b"\x95\xff\0\0\0\0\0\0\0N.",
    "invalid UTF-8": b"X\x01\0\0\0\xff.",
    "append to a tuple": b")Na.",
    "set in a list": b"]NNs.",
    "a key without a value": b"}(Nu.",
    "a state for a list": b"]}b.",
    "a global named by a number": b"K\x01K\x02\x93.",
    "an integer that is none": b"Ix\n.",
    "a float that is none": b"Fx\n.",
    "a global without an end": b"cos\nsystem",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pickle_is_declined(what: str) -> None:
    with pytest.raises(NotThisFormat):
        read_pickle(BROKEN[what])


WRONG_TENSORS = {
    "beyond the storage": TENSOR.replace(b"I0\n(I4", b"I1\n(I4"),
    "a huge offset": TENSOR.replace(b"I0\n(I4", b"I9000000000000000000\n(I4"),
    "a negative offset": TENSOR.replace(b"I0\n(I4", b"I-1\n(I4"),
    "a negative stride": TENSOR.replace(b"(I4\nI1\nt", b"(I-4\nI1\nt"),
    "a negative length": TENSOR.replace(b"(I4\nI4\nt", b"(I-4\nI4\nt"),
    "too few strides": TENSOR.replace(b"(I4\nI1\nt", b"(I1\nt"),
    "a boolean length": TENSOR.replace(b"(I4\nI4\nt", b"(I01\nI4\nt"),
    "a text for a shape": TENSOR.replace(b"(I4\nI4\nt", b"V44\n"),
    "70 dimensions": TENSOR.replace(b"(I4\nI4\nt(I4\nI1\nt", b"(" + b"I1\n" * 70 + b"t(" + b"I1\n" * 70 + b"t"),
    "no storage": TENSOR.replace(STORAGE, b"N"),
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"tR",
    "a storage that is longer than its entry": TENSOR.replace(b"I16", b"I17"),
    "a storage of negative length": TENSOR.replace(b"I16", b"I-16"),
    "a storage without an entry": TENSOR.replace(b"V0\n", b"V1\n"),
    "a storage by a path": TENSOR.replace(b"V0\n", b"V../data.pkl\n"),
    "a storage with three fields": TENSOR.replace(b"Vcpu\nI16\n", b""),
    "a storage with a text for a class": TENSOR.replace(b"ctorch\nFloatStorage\n", b"VFloatStorage\n"),
    "an unknown storage class": TENSOR.replace(b"ctorch\nFloatStorage\n", b"cevil\nFloatStorage\n"),
    "a dtype that is no dtype": TENSOR.replace(b"_v2", b"_v3").replace(b"I00\n}tR", b"I00\n}Vfloat32\ntR"),
}


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_a_tensor_that_torch_would_refuse_makes_the_file_opaque_or_has_no_name(what: str) -> None:
    try:
        layout = scan(b"}Vw\n" + WRONG_TENSORS[what] + b"s.")
    except NotThisFormat:
        return

    assert what == "an unknown storage class"
    assert layout.tensors == ()


def test_a_tensor_that_repeats_its_elements_without_end_is_left_out() -> None:
    huge = TENSOR.replace(b"(I4\nI4\nt(I4\nI1\nt", b"(I1000000000\nI1000000000\nt(I0\nI0\nt")

    assert [tensor.name for tensor in scan(b"}(Va\n" + huge + b"Vb\n" + TENSOR + b"u.").tensors] == ["b"]


def test_dicts_keep_the_last_value_of_a_repeated_key() -> None:
    other = TENSOR.replace(b"(I4\nI4\nt(I4\nI1\nt", b"(I2\nt(I1\nt")
    layout = scan(b"}(Va\n" + TENSOR + b"Va\n" + other + b"u.")

    assert [(tensor.name, tensor.shape) for tensor in layout.tensors] == [("a", (2,))]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_pickle_says(protocol: int) -> None:
    values = [
        None,
        True,
        False,
        0,
        -1,
        255,
        65535,
        2**31,
        -(2**40),
        2**70,
        0.5,
        "a\u00e9\U0001f600\n",
        (),
        (1,),
        (1, 2, 3),
        [],
    ]
    root = read_pickle(pickle.dumps(values, protocol)).root

    assert root == values


def test_every_opcode_of_pickle_is_known() -> None:
    known = set(pickle_machine._INSTRUCTIONS)

    assert known == {ord(opcode.code) for opcode in pickletools.opcodes}


def test_an_ordered_dict_of_python_2_is_a_dict() -> None:
    program = b"ccollections\nOrderedDict\n(](](Vw\n" + TENSOR + b"eetR."

    assert [tensor.name for tensor in scan(program).tensors] == ["w"]


# Damage


def fixture_pickles() -> dict[str, bytes]:
    programs = {}
    for name in sorted(os.listdir(FIXTURES)):
        if name.endswith(".pt") and not name.startswith("legacy"):
            with zipfile.ZipFile(os.path.join(FIXTURES, name)) as file:
                programs[name] = next(file.read(entry) for entry in file.namelist() if entry.endswith("/data.pkl"))
    return programs


def check_damaged_pickles(count: int, seed: int) -> None:
    for name, program in fixture_pickles().items():
        for damaged in mutations(program, count, seed):
            started = time.process_time()
            try:
                named_tensors(read_pickle(damaged))
            except NotThisFormat:
                pass
            assert time.process_time() - started < 5, (name, damaged)


def test_damaged_pickles_are_read_or_declined() -> None:
    check_damaged_pickles(100, seed=3)


def test_random_programs_are_read_or_declined() -> None:
    import random

    draw = random.Random(4)
    opcodes = bytes(pickle_machine._INSTRUCTIONS)
    for _ in range(3000):
        program = bytes(draw.choice(opcodes) for _ in range(draw.randrange(200))) + b"."
        try:
            named_tensors(read_pickle(program))
        except NotThisFormat:
            pass


@pytest.mark.deep
def test_many_damaged_pickles_are_read_or_declined() -> None:
    check_damaged_pickles(20_000, seed=5)


def test_a_mapping_is_never_hashed() -> None:
    root = read_pickle(b"}q\x00(h\x00h\x00u.").root

    assert type(root) is Mapping
    assert root.pairs[0][0] is root
