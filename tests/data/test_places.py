from pathlib import Path

import pytest

from kdzoo.data.places import cache, few, places, shown


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache() == tmp_path / "cache"
    monkeypatch.delenv("KDZOO_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache() == tmp_path / "xdg" / "kdzoo" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache() == Path.home() / ".cache" / "kdzoo" / "data"
    monkeypatch.setenv("KDZOO_DATA", "~/data")
    assert cache() == Path.home() / "data"


def test_a_named_folder_is_the_only_place(tmp_path: Path) -> None:
    assert places(tmp_path) == [tmp_path]
    assert places(Path("~/own")) == [Path.home() / "own"]
    assert places(None) == [tmp_path / "cache"]


def test_any_name_fits_one_line_and_any_encoding() -> None:
    assert shown("plain ü 猫.png") == "plain ü 猫.png"
    assert shown("a\nb\t\x1b[31m\udcff\u202e") == r"a\nb\t\x1b[31m\udcff\u202e"
    assert shown("x" * 1000).startswith("xxx")
    assert len(shown("x" * 1000)) < 300


def test_many_names_are_told_by_the_first_and_their_number() -> None:
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(list("abcdefgh")) == "a, b, c and 5 more"
