"""An interpreter of pickles that calls nothing.

A pickle is a program for a stack machine, and two of its instructions import and call whatever they name. Here those
two build a record of what they were asked for, so that a pickle can be read like any other data: what a record means
is for the reader to decide (see `torch_state`). No name of a pickle is ever looked up, not even to compare it with a
class; no value is hashed or compared, and nothing here recurses, so values may nest to any depth and form cycles.

The machine has a budget of memory that every instruction is charged against before it acts.

Source: CPython's Lib/pickletools.py (opcodes of protocols 0 to 5) and Modules/_pickle.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from thetastore.errors import NotThisFormat

MAX_PICKLE_BYTES = 64 << 20
"""200,000 tensors take 27 to 50 MB."""
MAX_VALUE_BYTES = 256 << 20
"""Memory that the values of one pickle may take, as estimated (from above) beside each instruction; 200,000 tensors
are estimated at 233 MiB and take 112."""
_MAX_MEMO_GAP = 1000
_MAX_INTEGER_BYTES = 255
_MAX_INTEGER_DIGITS = 616
"""Longer integers mean nothing to a checkpoint, and converting decimal digits takes quadratic time."""


class Global:
    """A class or function that the pickle names."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Reference:
    """A persistent id: something that lies outside of the pickle."""

    __slots__ = ("identity",)

    def __init__(self, identity: object) -> None:
        self.identity = identity


class Mapping:
    """A dict: its pairs in the order in which they were set, repeated keys included."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[object, object]] = []


class Call:
    """An object that unpickling would make by calling `function(*arguments)`."""

    __slots__ = ("arguments", "function", "items", "pairs", "states")

    def __init__(self, function: object, arguments: object) -> None:
        self.function = function
        self.arguments = arguments
        self.items: list[object] | None = None
        """What would be appended or added to it."""
        self.pairs: list[tuple[object, object]] | None = None
        """What would be set in it by key."""
        self.states: list[object] | None = None
        """What would be given to its `__setstate__`, or update its `__dict__`."""


class Opaque:
    """A value of a kind that is of no interest (an out-of-band buffer, an extension, an odd string)."""

    __slots__ = ()


class Pickle:
    """What a pickle holds.

    Values are None, bool, int, float, str, bytes, tuple, list (also for sets), and the classes above. They may be
    shared and cyclic.
    """

    __slots__ = ("nbytes", "references", "root")

    def __init__(self, root: object, references: list[Reference], nbytes: int) -> None:
        self.root = root
        self.nbytes = nbytes
        """Length of the pickle."""
        self.references = references
        """Every persistent id, in the order of the pickle, whether or not it can be reached from the root."""


def read_pickle(pickle: bytes, value_bytes: int = MAX_VALUE_BYTES) -> Pickle:
    """Return what a pickle describes.

    Raises:
        NotThisFormat: not exactly one well-formed pickle, or one that exceeds the bounds.
    """
    described, end = read_pickle_at(pickle, 0, value_bytes)
    if end != len(pickle):
        raise NotThisFormat("something is left over at the end of the pickle")
    return described


def read_pickle_at(pickles: bytes, start: int, value_bytes: int = MAX_VALUE_BYTES) -> tuple[Pickle, int]:
    """Return what the pickle that begins at `start` describes, and where it ends.

    Raises:
        NotThisFormat: it is not well-formed, is cut off, or exceeds the bounds.
    """
    if len(pickles) > MAX_PICKLE_BYTES:
        raise NotThisFormat(f"a pickle of {len(pickles)} bytes, more than {MAX_PICKLE_BYTES}")
    machine = _Machine(pickles, start, value_bytes)
    try:
        return machine.run(), machine.at
    except (IndexError, struct.error):
        raise NotThisFormat(f"the pickle breaks off, or takes what is not there, before byte {machine.at}") from None


class _Machine:
    """One run over one pickle. Methods are instructions; an IndexError means that an operand is not there."""

    def __init__(self, pickle: bytes, start: int, value_bytes: int) -> None:
        self.pickle = pickle
        self.start = self.at = start
        self.room = value_bytes
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: list[object] = []
        self.references: list[Reference] = []
        self.running = True

    def run(self) -> Pickle:
        pickle = self.pickle
        instructions = _INSTRUCTIONS
        while self.running:
            opcode = pickle[self.at]
            self.at += 1
            try:
                instruction, cost = instructions[opcode]
            except KeyError:
                raise NotThisFormat(f"unknown opcode {opcode} in the pickle at byte {self.at - 1}") from None
            self.room -= cost
            if self.room < 0:
                raise NotThisFormat("the values of the pickle take too much memory")
            instruction(self)
        if len(self.stack) != 1 or self.marks:
            raise NotThisFormat("something is left over at the end of the pickle")
        return Pickle(self.stack[0], self.references, self.at - self.start)

    # Operands

    def take(self, nbytes: int) -> bytes:
        end = self.at + nbytes
        if end > len(self.pickle):
            raise IndexError
        data = self.pickle[self.at : end]
        self.at = end
        return data

    def number(self, nbytes: int) -> int:
        return int.from_bytes(self.take(nbytes), "little")

    def line(self) -> bytes:
        end = self.pickle.find(b"\n", self.at)
        if end < 0:
            raise IndexError
        data = self.pickle[self.at : end]
        self.at = end + 1
        return data

    def charge(self, nbytes: int) -> None:
        self.room -= nbytes
        if self.room < 0:
            raise NotThisFormat("the values of the pickle take too much memory")

    def text(self, data: bytes, encoding: str = "utf-8") -> str:
        if not data.isascii():
            self.charge(32 + 3 * len(data))
        try:
            return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            raise NotThisFormat("a string of the pickle cannot be decoded") from None

    # The stack

    def pop(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack.pop()

    def top(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack[-1]

    def pop_to_mark(self) -> list[object]:
        start = self.marks.pop()
        self.charge(8 * (len(self.stack) - start))
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def discard(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def stop(self) -> None:
        self.running = False

    # The memo

    def memoize(self, index: int) -> None:
        """Remember the top of the stack. Indexes count up, in Python 2 from 1, with gaps if a pickle was optimised."""
        memo = self.memo
        gap = index - len(memo)
        if gap > _MAX_MEMO_GAP:
            raise NotThisFormat(f"the pickle jumps over {gap} memo indexes")
        if gap >= 0:
            self.charge(10 * gap)
            memo.extend([None] * (gap + 1))
        memo[index] = self.top()

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def index_of_line(self) -> int:
        index = self.integer_of_line(self.line())
        if index < 0:
            raise NotThisFormat("a negative memo index in the pickle")
        return index

    # Values

    def integer_of_line(self, data: bytes) -> int:
        if len(data) > _MAX_INTEGER_DIGITS:
            raise NotThisFormat("an overlong integer in the pickle")
        try:
            return int(data)
        except ValueError:
            raise NotThisFormat(f"{data[:20]!r} in the pickle is not an integer") from None

    def push_int_line(self) -> None:
        data = self.line()
        self.push(data == b"01" if data in (b"00", b"01") else self.integer_of_line(data))

    def push_long(self, nbytes: int) -> None:
        data = self.take(nbytes)
        self.charge(min(nbytes, _MAX_INTEGER_BYTES))
        self.push(int.from_bytes(data, "little", signed=True) if nbytes <= _MAX_INTEGER_BYTES else Opaque())

    def push_float_line(self) -> None:
        data = self.line()
        try:
            self.push(float(data[:40]))
        except ValueError:
            raise NotThisFormat(f"{data[:40]!r} in the pickle is not a number") from None

    def push_packed(self, layout: struct.Struct) -> None:
        self.push(layout.unpack(self.take(layout.size))[0])

    def push_quoted(self) -> None:
        """Push a protocol 0 string; one with escapes is of no interest as a key."""
        data = self.line()
        self.push(Opaque() if b"\\" in data or len(data) < 2 else self.old_text(data[1:-1]))

    def old_text(self, data: bytes) -> object:
        """Return a string of Python 2: text where it reads as such, as `torch.load` does."""
        try:
            return self.text(data)
        except NotThisFormat:
            return data

    # Containers

    def append(self, values: list[object]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is Call:
            self.charge(_LIST)
            target.items = target.items or []
            target.items.extend(values)
        else:
            raise NotThisFormat("the pickle appends to what is not a list")

    def set_items(self, flat: list[object]) -> None:
        target = self.top()
        if len(flat) % 2 or type(target) not in (Mapping, Call):
            raise NotThisFormat("the pickle sets keys of what is not a dict")
        self.charge(40 * len(flat))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        if type(target) is Mapping:
            target.pairs.extend(pairs)
        elif type(target) is Call:
            self.charge(_LIST)
            target.pairs = target.pairs or []
            target.pairs.extend(pairs)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append_one(self) -> None:
        value = self.pop()
        self.append([value])

    def push_mapping(self) -> None:
        flat = self.pop_to_mark()
        self.push(Mapping())
        self.set_items(flat)

    def push_tuple(self, length: int) -> None:
        values = [self.pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    # What unpickling would import and call

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(Call(function, arguments))

    def call_with_keywords(self) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        self.push(Call(function, (arguments, keywords)))

    def call_marked(self) -> None:
        function, *arguments = self.pop_to_mark() or [None]
        self.push(Call(function, tuple(arguments)))

    def call_named(self) -> None:
        function = Global(self.text(self.line()), self.text(self.line()))
        self.push(Call(function, tuple(self.pop_to_mark())))

    def push_global(self) -> None:
        self.push(Global(self.text(self.line()), self.text(self.line())))

    def push_stacked_global(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise NotThisFormat("the pickle names a global by what is not text")
        self.push(Global(module, name))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if type(target) is not Call:
            raise NotThisFormat("the pickle gives a state to what is not an object")
        target.states = target.states or []
        target.states.append(state)

    def push_reference(self, identity: object) -> None:
        reference = Reference(identity)
        self.references.append(reference)
        self.push(reference)

    def push_extension(self, nbytes: int) -> None:
        """Push what the copyreg registry of the reading process would name: nothing that the file determines."""
        self.take(nbytes)
        self.push(Opaque())

    def check_protocol(self, protocol: int) -> None:
        if protocol > 5:
            raise NotThisFormat(f"a pickle of protocol {protocol}")

    def check_frame(self) -> None:
        if self.number(8) > len(self.pickle) - self.at:
            raise IndexError


def _sized(nbytes: int, push: Callable[[_Machine, bytes], None]) -> Callable[[_Machine], None]:
    """Return an instruction whose operand is preceded by its length."""
    return lambda m: push(m, m.take(m.number(nbytes)))


def _text(m: _Machine, data: bytes) -> None:
    m.push(m.text(data))


def _bytes(m: _Machine, data: bytes) -> None:
    m.push(data)


def _old_text(m: _Machine, data: bytes) -> None:
    m.push(m.old_text(data))


_INT32: Final = struct.Struct("<i")
_FLOAT64: Final = struct.Struct(">d")
_STACK, _SMALL, _STRING, _TUPLE, _LIST, _CALL, _OBJECT = 10, 40, 72, 88, 100, 112, 140
"""Bytes that an instruction can take at most, slots on the stack and in a container included: nothing but a
slot; a number; a short string (its length comes with the operand, which is no longer than the pickle); a short
tuple; a list of one value; a call without items or state; a record with its first list."""

_INSTRUCTIONS: Final[dict[int, tuple[Callable[[_Machine], None], int]]] = {
    ord("("): (_Machine.mark, _SMALL),
    ord("."): (_Machine.stop, _STACK),
    ord("0"): (_Machine.discard, 1),
    ord("1"): (lambda m: m.pop_to_mark().clear(), 1),
    ord("2"): (lambda m: m.push(m.top()), _STACK),
    ord("F"): (_Machine.push_float_line, _SMALL),
    ord("I"): (_Machine.push_int_line, _SMALL),
    ord("J"): (lambda m: m.push_packed(_INT32), _SMALL),
    ord("K"): (lambda m: m.push(m.take(1)[0]), _STACK),
    ord("M"): (lambda m: m.push(m.number(2)), _SMALL),
    ord("L"): (lambda m: m.push(m.integer_of_line(m.line().removesuffix(b"L"))), _SMALL),
    ord("N"): (lambda m: m.push(None), _STACK),
    ord("P"): (lambda m: m.push_reference(m.text(m.line())), _STRING + _TUPLE),
    ord("Q"): (lambda m: m.push_reference(m.pop()), _SMALL + _STACK),
    ord("R"): (_Machine.call, _CALL),
    ord("S"): (_Machine.push_quoted, _STRING),
    ord("T"): (_sized(4, _old_text), _STRING),
    ord("U"): (_sized(1, _old_text), _STRING),
    ord("V"): (lambda m: m.push(m.text(m.line(), "raw-unicode-escape")), _STRING),
    ord("X"): (_sized(4, _text), _STRING),
    ord("a"): (_Machine.append_one, _STACK),
    ord("b"): (_Machine.build, _LIST),
    ord("c"): (_Machine.push_global, _STRING * 3),
    ord("d"): (_Machine.push_mapping, _OBJECT),
    ord("}"): (lambda m: m.push(Mapping()), _OBJECT),
    ord("e"): (lambda m: m.append(m.pop_to_mark()), _STACK),
    ord("g"): (lambda m: m.recall(m.index_of_line()), _STACK),
    ord("h"): (lambda m: m.recall(m.take(1)[0]), _STACK),
    ord("i"): (_Machine.call_named, _OBJECT + _STRING * 3),
    ord("j"): (lambda m: m.recall(m.number(4)), _STACK),
    ord("l"): (lambda m: m.push(m.pop_to_mark()), _LIST),
    ord("]"): (lambda m: m.push([]), _LIST),
    ord("o"): (_Machine.call_marked, _OBJECT),
    ord("p"): (lambda m: m.memoize(m.index_of_line()), _STACK),
    ord("q"): (lambda m: m.memoize(m.take(1)[0]), _STACK),
    ord("r"): (lambda m: m.memoize(m.number(4)), _STACK),
    ord("s"): (_Machine.set_item, _STACK),
    ord("t"): (lambda m: m.push(tuple(m.pop_to_mark())), _TUPLE),
    ord(")"): (lambda m: m.push(()), _STACK),
    ord("u"): (lambda m: m.set_items(m.pop_to_mark()), _STACK),
    ord("G"): (lambda m: m.push_packed(_FLOAT64), _SMALL),
    # Protocol 2
    0x80: (lambda m: m.check_protocol(m.take(1)[0]), 1),
    0x81: (_Machine.call, _CALL),
    0x82: (lambda m: m.push_extension(1), _SMALL),
    0x83: (lambda m: m.push_extension(2), _SMALL),
    0x84: (lambda m: m.push_extension(4), _SMALL),
    0x85: (lambda m: m.push_tuple(1), _TUPLE),
    0x86: (lambda m: m.push_tuple(2), _TUPLE),
    0x87: (lambda m: m.push_tuple(3), _TUPLE),
    0x88: (lambda m: m.push(True), _STACK),
    0x89: (lambda m: m.push(False), _STACK),
    0x8A: (lambda m: m.push_long(m.number(1)), _SMALL),
    0x8B: (lambda m: m.push_long(m.number(4)), _SMALL),
    # Protocols 3 to 5
    ord("B"): (_sized(4, _bytes), _STRING),
    ord("C"): (_sized(1, _bytes), _STRING),
    0x8C: (_sized(1, _text), _STRING),
    0x8D: (_sized(8, _text), _STRING),
    0x8E: (_sized(8, _bytes), _STRING),
    0x8F: (lambda m: m.push([]), _LIST),
    0x90: (lambda m: m.append(m.pop_to_mark()), _STACK),
    0x91: (lambda m: m.push(m.pop_to_mark()), _LIST),
    0x92: (_Machine.call_with_keywords, _OBJECT + _TUPLE),
    0x93: (_Machine.push_stacked_global, _TUPLE),
    0x94: (lambda m: m.memoize(len(m.memo)), _STACK),
    0x95: (_Machine.check_frame, 1),
    0x96: (_sized(8, _bytes), _STRING),
    0x97: (lambda m: m.push(Opaque()), _SMALL),
    0x98: (lambda m: None, _STACK),
}
"""What each opcode does, and how many bytes of memory it can take beyond its operand."""
