"""Law 7 for pickled batches: what a file holds is read as values, and nothing that it names is called."""

import io
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kdzoo.data.pickles import MOST_OPCODES, Unreadable, as_array, read_pickle

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 12)


def read(content: bytes) -> dict:
    return read_pickle(io.BytesIO(content), len(content))


def short(text: bytes) -> bytes:
    """A string as Python 2 pickles it."""
    return b"U" + bytes([len(text)]) + text


def python2(array: np.ndarray, labels: list[int]) -> bytes:
    """Spell a batch as Python 2 and numpy 1 pickled it by protocol 2."""
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    content = array.tobytes()
    return (
        b"\x80\x02}q\x01(" + short(b"data") + b"q\x02"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01" + shape + b"\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(content)) + content + b"tb"
        + short(b"labels") + b"]q\x08(" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
        + short(b"batch_label") + short(b"training batch 1 of 5") + b"u."
    )  # fmt: skip


# As the published CIFAR-10's batches.meta is: protocol 0.
PROTOCOL_0 = b"(dp0\nS'label_names'\np1\n(lp2\nS'airplane'\np3\naS'cat'\np4\nasS'num_vis'\np5\nI3072\ns."


def test_batches_of_python_2_are_read() -> None:
    batch = read(python2(ARRAY, [3, 200]))
    np.testing.assert_array_equal(as_array(batch["data"]), ARRAY)
    assert batch["labels"] == [3, 200]
    assert batch["batch_label"] == b"training batch 1 of 5"
    # The unpickler that trusts agrees that this is what such a file is.
    assert pickle.loads(python2(ARRAY, [3, 200]), encoding="bytes")[b"data"].tolist() == ARRAY.tolist()
    assert read(PROTOCOL_0) == {"label_names": [b"airplane", b"cat"], "num_vis": 3072}


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(6))
def test_batches_of_python_3_are_read(protocol: int, order: str, core: str) -> None:
    array = np.asarray(ARRAY, order=order)
    batch = {b"data": array, b"fine_labels": np.array([1, 299]), "names": [b"caf\xe9", "text"], b"none": None}
    content = pickle.dumps(batch, protocol=protocol).replace(b"numpy._core.", f"numpy.{core}.".encode())
    if protocol >= 4 and core == "core":
        # Its texts have lengths.
        content = pickle.dumps(batch, protocol=protocol)
    found = read(content)
    np.testing.assert_array_equal(as_array(found["data"]), array)
    assert as_array(found["fine_labels"]).tolist() == [1, 299]
    assert found["names"] == [b"caf\xe9", "text"]


@pytest.mark.parametrize("dtype", ["<i2", ">i4", ">u8", "|i1"])
def test_integers_of_any_size_and_byte_order_are_read(dtype: str) -> None:
    array = np.array([1, 2, 100], dtype)
    assert as_array(read(pickle.dumps({"x": array}, 2))["x"]).tolist() == [1, 2, 100]


SYSTEM = b"cposix\nsystem\n"
COMMAND = b"S'mkdir executed'\n"
HOSTILE = {
    "REDUCE": SYSTEM + b"(" + COMMAND + b"tR.",
    "REDUCE by os": b"cos\nsystem\n(" + COMMAND + b"tR.",
    "eval": b'c__builtin__\neval\n(S\'__import__("os").mkdir("executed")\'\ntR.',
    "builtins": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x1b__import__('os').mkdir('x')\x85R.",
    "INST": b"(" + COMMAND + b"iposix\nsystem\n.",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o.",
    "NEWOBJ": b"\x80\x02" + SYSTEM + b"(" + COMMAND + b"t\x81.",
    "NEWOBJ_EX": b"\x80\x04" + SYSTEM + b"(" + COMMAND + b"t}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0emkdir executed\x85R.",
    "attribute of numpy": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93\x8c\x01x\x85R.",
    "other name of numpy": b"cnumpy\nfromfile\n(S'x'\ntR.",
    "numpy's own loader": b"cnumpy\nload\n(S'x'\ntR.",
    "scalar": b"cnumpy.core.multiarray\nscalar\n(tR.",
    "decode": b"c_codecs\ndecode\n(S'x'\nS'zip'\ntR.",
    "zip": b"c_codecs\nencode\n(S'x'\nVzip\ntR.",
    "encoding of its own": b"c_codecs\nencode\n(Vx\nVidna\ntR.",
    "call of a result": b"(dS'x'\nR.",
    "call of a name's state": b"cnumpy\nndarray\n(K\x01tR.",
    "BUILD of a name": b"cnumpy\nndarray\n}V__setstate__\n" + SYSTEM + b"sb.",
    "BUILD of attributes": b"cnumpy\ndtype\n(N}Vname\nVsystem\nstb.",
    "BUILD of a dictionary": b"(d(dS'x'\nK\x01sb.",
    "BUILD of a type": b"cnumpy\ndtype\n(S'u1'\ntR(N}Vcode\nVO\nstb.",
    "persistent": b"Pposix.system\n.",
    "binary persistent": COMMAND + b"Q.",
    "extension": b"\x80\x02\x82\x01.",
    "extension 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "buffer": b"\x80\x05\x97.",
    "set": b"\x80\x04\x8f(K\x01\x90.",
}


def test_a_trusted_pickle_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test below."""
    monkeypatch.chdir(tmp_path)
    for name in ("REDUCE", "INST", "OBJ", "STACK_GLOBAL"):
        pickle.loads(HOSTILE[name])
        assert os.listdir() == ["executed"]
        os.rmdir("executed")


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a batch"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_execute_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    with pytest.raises(Unreadable) as told:
        read(b"(dS'data'\n" + content[:-1] + b"s." if inside else content)
    assert os.listdir() == []
    assert "\n" not in str(told.value)
    assert "it " in str(told.value)


def test_the_forbidden_name_is_told() -> None:
    with pytest.raises(Unreadable, match="calls something that is none of numpy's names"):
        read(HOSTILE["call of a result"])
    with pytest.raises(Unreadable, match=r"names 'posix\.system', which no batch of images needs"):
        read(HOSTILE["REDUCE"])
    with pytest.raises(Unreadable, match=r"names 'x{79}"):
        read(b"c" + b"x" * 10**6 + b"\ny\n.")


HUGE = (2**62).to_bytes(8, "little")
BOMBS = {
    "BINBYTES8": b"\x80\x04\x8e" + HUGE,
    "BINUNICODE8": b"\x80\x04\x8d" + HUGE,
    "BYTEARRAY8": b"\x80\x05\x96" + (2**36).to_bytes(8, "little"),
    "FRAME": b"\x80\x04\x95" + HUGE,
    "BINBYTES": b"\x80\x03B\xff\xff\xff\xff",
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "negative BINSTRING": b"T\xff\xff\xff\xff",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f",
    "line": b"S'" + b"x" * (1 << 21),
}


@pytest.mark.parametrize("name", BOMBS)
def test_lengths_that_a_file_only_claims_take_no_memory(name: str) -> None:
    content = BOMBS[name] + b"rest."
    asked = []

    class Asked(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            asked.append(count)
            return super().read(count)

    with pytest.raises(Unreadable) as told:
        read_pickle(Asked(content), len(content))
    assert max(asked) <= len(content)
    assert "MemoryError" not in str(told.value)


def test_the_memo_takes_no_memory_for_a_large_number() -> None:
    assert read(b"}r\xff\xff\xff\x7f.") == {}
    assert read(b"}p4000000000\n.") == {}


@pytest.mark.parametrize("opcodes", [b"]", b"(", b"}", b"]\x94", b"(l", b"K\x01\x85"], ids=repr)
def test_objects_without_number_are_refused_before_they_fill_the_memory(
    opcodes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar.gz of 58 KB holds 20 MB of them, which would take 2 GB; here it is all a fortieth."""
    monkeypatch.setattr("kdzoo.data.pickles.MOST_OPCODES", MOST_OPCODES // 40)
    content = opcodes * (500_000 // len(opcodes))
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="it has more than 50,000 opcodes"):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 400e6 / 40
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_batches_as_large_as_two_of_the_largest_are_read(
    protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdzoo.data.pickles.MOST_OPCODES", MOST_OPCODES // 2)
    names = [b"some_picture_s_%06d.png" % i for i in range(50_000)]
    labels = {name: [i % 100 for i in range(50_000)] for name in (b"fine_labels", b"coarse_labels")}
    # CIFAR-100's training batch without its pixels.
    batch = {b"filenames": names, b"batch_label": b"training batch 1 of 1", **labels}
    loaded = read(pickle.dumps(batch, protocol))
    assert loaded["filenames"] == names
    assert loaded["fine_labels"] == labels[b"fine_labels"]


def test_texts_that_are_encoded_again_and_again_are_refused() -> None:
    """A megabyte that is asked for ten thousand times by ten bytes each."""
    text = b"\x80\x03X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x00"
    encode = b"c_codecs\nencode\nq\x01X\x06\x00\x00\x00latin1q\x02]"
    again = b"h\x01h\x00h\x02\x86Ra" * 10_000
    with pytest.raises(Unreadable, match="calls encode in a way that numpy does not"):
        read(text + encode + again + b".")


def test_keys_that_take_for_ever_to_hash_are_refused() -> None:
    doubled = b"\x80\x02)q\x00"
    for number in range(60):
        doubled += b"h%ch%c\x86q%c" % (number, number, number + 1)
    for setting in (b"}h\x3cK\x01s.", b"}(h\x3cK\x01u.", b"(h\x3cK\x01d."):
        with pytest.raises(Unreadable, match="keys are no texts"):
            read(doubled + setting)


@pytest.mark.parametrize("nest", [b"(", b"]", b"\x85", b"(l", b"]q\x00h\x00a"])
def test_deep_nesting_is_survived(nest: bytes) -> None:
    with pytest.raises(Unreadable):
        read(b"\x80\x02)" + nest * 50_000 + b".")


def test_every_beginning_of_a_file_is_refused() -> None:
    whole = pickle.dumps({b"data": ARRAY, b"labels": [1, 2], "text": "ü"}, 2)
    assert read(whole)
    for length in range(len(whole)):
        with pytest.raises(Unreadable):
            read(whole[:length])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_changed_bytes_are_read_or_refused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = pickle.dumps({b"data": ARRAY, b"labels": [1, 2], "names": ["a", b"b"]}, protocol)
    draw = random.Random(protocol)
    refused = []
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            for value in read(bytes(changed)).values():
                as_array(value)
        except Unreadable as error:
            refused.append(str(error))
    assert len(refused) > 500
    assert max(map(len, refused)) < 300
    assert os.listdir() == []


def noted(**changed: object) -> object:
    """An array as a file notes it, with something about it changed."""
    array = read(pickle.dumps({"x": ARRAY}, 2))["x"]
    for name, value in changed.items():
        setattr(array, name, value)
    return array


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (dict(shape=(2, 13)), "another number of bytes"),
        (dict(shape=(1, 12)), "another number of bytes"),
        (dict(shape=(-2, -12)), "no shape"),
        (dict(shape=(0, 10**30)), "no shape"),
        (dict(shape=[2, 12]), "no shape"),
        (dict(shape=(True, 24)), "no shape"),
        (dict(shape=(1,) * 70 + (24,)), "no shape"),
        (dict(content="text"), "another number of bytes"),
        (dict(content=None), "another number of bytes"),
        (dict(type=None), "something else than integers"),
    ],
)
def test_arrays_whose_parts_do_not_fit_are_refused(changed: dict, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        as_array(noted(**changed))


@pytest.mark.parametrize(
    "array",
    [np.array([None, {}], object), np.ones(3), np.array(["a"]), np.zeros(2, "u1,i4"), np.array([True])],
    ids=["objects", "floats", "texts", "records", "truths"],
)
def test_arrays_of_other_things_than_integers_are_refused(array: np.ndarray) -> None:
    with pytest.raises(Unreadable, match=r"something else than integers|in a way that numpy does not"):
        as_array(read(pickle.dumps({"x": array}, 2))["x"])
    with pytest.raises(Unreadable, match="no array where one should be"):
        as_array([1, 2])


@pytest.mark.parametrize("content", [b"", b"].", b"K\x01.", b"(S'a'\nK\x01d0.", b"hello", b"\x80\x09}."])
def test_what_is_no_dictionary_is_refused(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read(content)
