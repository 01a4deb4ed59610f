"""Files of Python: what they import, where it lies, and whether it is what ran."""

import importlib
import sys
from pathlib import Path

import pytest

from kdzoo.python_files import from_source, imports_of, is_local, located, ran_other_code, root_of


@pytest.mark.parametrize(
    ("text", "package", "names"),
    [
        ("import a.b, c as d", "", {"a", "a.b", "c"}),
        ("from a.b import c", "", {"a", "a.b", "a.b.c"}),
        ("def f():\n    from . import x", "p.q", {"p", "p.q", "p.q.x"}),
        ("from ..r import x", "p.q", {"p", "p.r", "p.r.x"}),
        ("from a import *", "", {"a", "a.*"}),
        ("importlib.import_module('a')", "", set()),
        ("def broken(:", "", set()),
    ],
)
def test_imports_are_read_off_statements(text, package, names):
    assert set(imports_of(text.encode(), package)) == names


@pytest.mark.parametrize(
    ("file", "package", "root"),
    [
        ("/x/net.py", "", "/x"),
        ("/x/pack/net.py", "pack", "/x"),
        ("/x/pack/sub/__init__.py", "pack.sub", "/x"),
        ("/x/src/net.py", "pack", "/x/src"),
    ],
)
def test_a_package_is_imported_from_the_folder_that_holds_it(file, package, root):
    assert root_of(Path(file), package) == Path(root)


def test_the_users_own_is_neither_installed_nor_of_python_or_kdzoo():
    assert is_local("net", "/home/me/net.py")
    assert not is_local("json.tool", "/home/me/json/tool.py")
    assert not is_local("kdzoo.keys", "/home/me/kdzoo/kdzoo/keys.py")
    assert not is_local("net", "/env/lib/python3.11/site-packages/net.py")
    assert not is_local("net", None)


def test_finding_a_module_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "found_pack/inner").mkdir(parents=True)
    (tmp_path / "found_pack/__init__.py").write_text("1 / 0")
    (tmp_path / "found_pack/inner/net.py").write_text("1 / 0")
    spec = located("found_pack.inner.net")
    assert spec is not None
    assert spec.origin == str(tmp_path / "found_pack/inner/net.py")
    assert not any(name.startswith("found_pack") for name in sys.modules)
    assert located("found_pack.nothing") is None
    assert located("found_pack.inner.nothing") is None
    (tmp_path / "found_folder/deep").mkdir(parents=True)
    (tmp_path / "found_folder/deep/net.py").write_text("1 / 0")
    spec = located("found_folder.deep.net")
    assert spec is not None
    assert spec.origin == str(tmp_path / "found_folder/deep/net.py")
    assert located("nothing.found") is None


def test_the_finder_is_there_for_a_while(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "found_for_a_while.py").write_text("x = 1")
    before = list(sys.meta_path)
    with from_source():
        module = importlib.import_module("found_for_a_while")
    assert sys.meta_path == before
    assert module.__spec__.loader.content == b"x = 1"


def test_functions_tell_other_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "class A:\n    def f(self): return 1\n\ndef g(): return 2\n"
    (tmp_path / "ran_before.py").write_text(text)
    module = importlib.import_module("ran_before")

    def other(text):
        return ran_other_code(module, vars(module).values(), text.encode())

    assert not other(text)
    assert other(text.replace("1", "3"))
    assert other(text.replace("2", "3"))
    assert other("\n" + text)
    assert other("def broken(:")
    # A module that was loaded again keeps functions that its file has no more.
    assert not other(text.partition("def g")[0])
