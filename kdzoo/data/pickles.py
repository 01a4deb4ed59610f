"""Pickled batches read as data: no name in a file is looked up, so nothing in it is ever executed.

Python's own unpickler calls whatever a file names. This one is its pure-Python version (the one in C can be
made to take gigabytes by a file of ten bytes) with a short list of opcodes: those that make plain values, and
GLOBAL, REDUCE and BUILD for the five names by which numpy pickles an array. They stand for themselves; what
they would have made is only noted, and becomes an array after its type, shape and bytes were found to fit.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

LINE = 1 << 20  # bytes of the longest line in a file of protocol 0
# Every opcode may make an object of some 100 bytes from a single byte of the file, which is packed a thousand
# times smaller still. CIFAR-100's training batch, with 50,000 file names and 100,000 labels, has 0.2 million
# as it is published, and up to 0.8 million in other protocols.
MOST_OPCODES = 2_000_000

ENCODE, RECONSTRUCT, FROMBUFFER, NDARRAY, DTYPE = "encode", "_reconstruct", "_frombuffer", "ndarray", "dtype"
_NAMES = {
    ("_codecs", "encode"): ENCODE,
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): DTYPE,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FROMBUFFER for core in ("core", "_core")},
}
# The version in Python, of which typeshed knows nothing.
_Unpickler: Any = vars(pickle)["_Unpickler"]
_ALLOWED = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.INT, pickle.LONG, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
    pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING,
    pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8,
    pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8,
    pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_DICT,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE,
    pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.STACK_GLOBAL,
)  # fmt: skip
_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}


class Unreadable(ValueError):
    """A file is not what it should be; str() says why, in words that fit a line."""


class _Name:
    """Stands for a thing that a file names; it can do nothing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Type:
    """Stands for a numpy.dtype: its code, as 'u1', and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"


class Array:
    """Stands for a numpy.ndarray as a file describes it; `as_array` makes a real one."""

    __slots__ = ("content", "fortran", "shape", "type")

    def __init__(self) -> None:
        self.shape: Any = None
        self.type: Any = None
        self.fortran: Any = None
        self.content: Any = None


class _Source:
    """A stream of known length, of which nobody can ask more than there is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise Unreadable("it ends too early")
        content = self._file.read(count)
        if len(content) < count:
            raise Unreadable("it ends too early")
        self._left -= count
        return content

    def readline(self) -> bytes:
        line = self._file.readline(min(LINE, self._left))
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise Unreadable("it has a line without an end")
        return line


class _Opcodes(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise Unreadable(f"it has the opcode {bytes([code])!r}, which no batch of images needs")


class _Counted:
    """Gives out what is done for an opcode, so many times and no more."""

    def __init__(self, opcodes: _Opcodes, most: int) -> None:
        self._opcodes, self._left = opcodes, most

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            raise Unreadable(f"it has more than {MOST_OPCODES:,} opcodes, which no batch of images needs")
        return self._opcodes[code]


class _Reader(_Unpickler):  # type: ignore[misc]
    dispatch = _Opcodes((code, _Unpickler.dispatch[code]) for code in map(ord, _ALLOWED))

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(_Source(file, size), encoding="bytes")
        # Found before the class's own, for this file alone.
        self.dispatch = _Counted(_Reader.dispatch, MOST_OPCODES)  # type: ignore[assignment]
        # A text of a file may be asked for again and again by a few bytes each.
        self._encodable = size

    def find_class(self, module: str, name: str) -> _Name:
        found = _NAMES.get((module, name))
        if found is None:
            raise Unreadable(f"it names {f'{module}.{name}'[:80]!r}, which no batch of images needs")
        return _Name(found)

    def load_reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not _Name or type(arguments) is not tuple:
            raise Unreadable("it calls something that is none of numpy's names")
        self.append(self._made(called.name, arguments))

    def _made(self, name: str, arguments: tuple[Any, ...]) -> object:
        if name == ENCODE and len(arguments) == 2 and [type(a) for a in arguments] == [str, str]:
            text, encoding = arguments
            self._encodable -= len(text)
            if encoding == "latin1" and self._encodable >= 0:
                return text.encode("latin1")
        elif name == DTYPE and arguments and type(arguments[0]) in (str, bytes):
            return _Type(as_text(arguments[0]))
        elif name == RECONSTRUCT and arguments and _is(arguments[0], NDARRAY):
            return Array()
        elif name == FROMBUFFER and len(arguments) == 4 and type(arguments[3]) is str:
            array = Array()
            array.content, array.type, array.shape, order = arguments
            array.fortran = order == "F"
            return array
        raise Unreadable(f"it calls {name} in a way that numpy does not")

    def load_build(self) -> None:
        state, thing = self.stack.pop(), self.stack[-1]
        if type(thing) is _Type and type(state) is tuple and len(state) > 1:
            thing.order = as_text(state[1])
        elif type(thing) is Array and type(state) is tuple and len(state) == 5:
            _, thing.shape, thing.type, thing.fortran, thing.content = state
        else:
            raise Unreadable("it sets the state of something that is no array")

    def load_append(self) -> None:
        value = self.stack.pop()
        _expect(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        _expect(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict)[_key(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = _expect(self.stack[-1], dict)
        for place in range(0, len(items), 2):
            target[_key(items[place])] = items[place + 1]

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[place]): items[place + 1] for place in range(0, len(items), 2)})

    def load_bytearray8(self) -> None:
        # Python's own makes room for the length that the file claims, before it looks.
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch |= {
        ord(pickle.REDUCE): load_reduce, ord(pickle.BUILD): load_build, ord(pickle.APPEND): load_append,
        ord(pickle.APPENDS): load_appends, ord(pickle.SETITEM): load_setitem, ord(pickle.DICT): load_dict,
        ord(pickle.SETITEMS): load_setitems, ord(pickle.BYTEARRAY8): load_bytearray8,
    }  # fmt: skip


def _is(thing: object, name: str) -> bool:
    return type(thing) is _Name and thing.name == name


def _expect(thing: Any, kind: type) -> Any:
    if type(thing) is not kind:
        raise Unreadable(f"it treats something as a {kind.__name__} that is none")
    return thing


def _key(thing: Any) -> Any:
    # Tuples of tuples of one tuple take for ever to hash.
    if type(thing) not in (str, bytes, int):
        raise Unreadable("it has a dictionary whose keys are no texts")
    return thing


def as_text(thing: object) -> str:
    """Take a text as Python 2 or 3 pickles it.

    Raises:
        Unreadable: it is none.
    """
    if type(thing) is str:
        return thing
    try:
        return _expect(thing, bytes).decode()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        raise Unreadable("it has a text that is not UTF-8") from None


def read_pickle(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read a pickled dictionary of plain values and arrays.

    Args:
        file: a stream, read from where it stands.
        size: bytes that it has left.

    Returns:
        By text, whether the keys were texts or bytes. Arrays are `Array`s, 8-bit strings of Python 2 bytes.

    Raises:
        Unreadable: it is damaged, or holds anything but plain values and arrays.
    """
    try:
        loaded = _Reader(file, size).load()
    except Unreadable:
        raise
    except Exception as error:
        # What a damaged or hostile file brings to light in the unpickler: a dozen kinds of error.
        reason = " ".join(str(error).split())[:100]
        raise Unreadable(f"it is no whole pickle ({type(error).__name__}: {reason})") from error
    if type(loaded) is not dict:
        raise Unreadable("it holds no dictionary")
    return {as_text(key) if type(key) is bytes else str(key): value for key, value in loaded.items()}


def as_array(noted: object) -> npt.NDArray[np.integer[Any]]:
    """Make a real array of integers, which shares its memory with what was read.

    Args:
        noted: an `Array`.

    Raises:
        Unreadable: it is none, or its type, shape and bytes do not fit together.
    """
    if type(noted) is not Array:
        raise Unreadable("it has no array where one should be")
    shape, kind, content = noted.shape, noted.type, noted.content
    if type(kind) is not _Type or kind.code not in _INTEGERS or kind.order not in ("<", ">", "|", "="):
        raise Unreadable("it has an array of something else than integers")
    if type(shape) is not tuple or not all(type(n) is int and n > 0 for n in shape) or len(shape) > 8:
        raise Unreadable("it has an array whose shape is no shape")
    dtype = np.dtype(kind.order.replace("|", "<") + kind.code)
    if type(content) is not bytes or len(content) != math.prod(shape) * dtype.itemsize:
        raise Unreadable("it has an array with another number of bytes than its shape needs")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if noted.fortran else "C")
