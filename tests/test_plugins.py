"""Plug-ins: files of the user's own and installed packages."""

import importlib
import json
import os
import sys
import textwrap
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kdzoo import api, cli, plugins
from kdzoo.checks import UsageError
from kdzoo.methods import universe
from kdzoo.provenance import plug_in
from kdzoo.python_files import is_local
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES

REGISTRIES = (DISTILLERS, SOURCES, MODELS, DATASETS)
MINE = """
    from kdzoo.distillers import Distiller
    from kdzoo.registry import DISTILLERS

    @DISTILLERS.register("{name}")
    class Mine(Distiller):
        \"\"\"Nothing.\"\"\"
        paper = "none"

        def forward(self, student, guide, batch, progress):
            return {{"mine": {weight} * student.logits.square().mean()}}
"""


@pytest.fixture(autouse=True)
def everything_as_before(monkeypatch):
    for registry in REGISTRIES:
        registry.names()
    before = [(r, dict(r.module_dict)) for r in REGISTRIES]
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(plugins, "_installed", set())
    yield
    for registry, things in before:
        registry.module_dict.clear()
        registry.module_dict.update(things)
    # Libraries stay: not all of them can be imported twice.
    for name in set(sys.modules) - modules:
        if is_local(name, getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and gives its path."""

    def write(text: str = MINE, file: str = "mine.py", name: str = "mine", weight: str = "1.0") -> Path:
        path = tmp_path / file
        path.write_text(textwrap.dedent(text).format(name=name, weight=weight))
        return path

    return write


def test_a_file_brings_a_method(write):
    module = plugins.load_plugin(write())
    assert DISTILLERS.find("mine") is module.Mine
    assert "mine" in universe()
    assert plug_in(module.Mine) is not None


def test_loaded_again_it_is_the_same_module_until_it_changes(write):
    path = write()
    first = plugins.load_plugin(path)
    assert plugins.load_plugin(str(path)) is first
    hashed = plug_in(first.Mine)
    second = plugins.load_plugin(write(weight="2.0"))
    assert second is not first
    assert DISTILLERS.find("mine") is second.Mine
    assert plug_in(second.Mine) != hashed
    plugins.load_plugin(write(name="other"))
    assert "mine" not in DISTILLERS.names()
    assert "other" in DISTILLERS.names()


def test_a_file_that_was_changed_after_it_was_loaded_is_refused(write):
    """The loop of a notebook: what runs is the old code, and no record may say otherwise."""
    path = write()
    hashed = plug_in(plugins.load_plugin(path).Mine)
    assert hashed == sha256(path.read_bytes()).hexdigest()
    write(weight="100.0")
    with pytest.raises(UsageError) as caught:
        plug_in(DISTILLERS.find("mine"))
    assert str(caught.value) == (
        f"{path}: it was changed after it was imported. Load {path} again by kdzoo.load_plugin, or restart "
        "Python."
    )
    assert plug_in(plugins.load_plugin(path).Mine) != hashed


def test_what_runs_is_what_the_file_holds(write, monkeypatch):
    """Python knows compiled code by second and size alone."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    text = MINE + "\n    from beside_fast import S\n    W = {weight}\n"
    for weight in ("1.0", "2.0", "3.0"):
        files = [write("S = {weight}", "beside_fast.py", weight=weight), write(text, weight=weight)]
        for file in files:
            os.utime(file, (1e9, 1e9))
        module = plugins.load_plugin(files[1])
        assert module.W == module.S == float(weight)


def test_a_reload_that_fails_leaves_what_was_there(write):
    path = write()
    first = plugins.load_plugin(path)
    hashed = plug_in(first.Mine)
    for text in (MINE + "\n    raise ValueError\n", "x = 1", "def broken(:"):
        write(text)
        for _ in range(2):
            with pytest.raises(UsageError):
                plugins.load_plugin(path)
            assert DISTILLERS.find("mine") is first.Mine
            assert sys.modules[first.__name__] is first
        with pytest.raises(UsageError, match="it was changed after it was imported"):
            plug_in(first.Mine)
    write()
    assert plugins.load_plugin(path) is first
    assert DISTILLERS.find("mine") is first.Mine
    assert plug_in(first.Mine) == hashed
    second = plugins.load_plugin(write(weight="2.0"))
    assert DISTILLERS.find("mine") is second.Mine


SCALED = MINE + "\n    from {package}scale import SCALE\n"


@pytest.mark.parametrize("package", ["", "pack_of_mine.", "folder_of_mine."])
def test_a_file_beside_it_is_hashed_and_loaded_with_it(write, tmp_path, package):
    folder = tmp_path / package.rstrip(".")
    folder.mkdir(exist_ok=True)
    if package.startswith("pack"):
        (folder / "__init__.py").write_text("")
    (folder / "scale.py").write_text("from deep_of_mine import SCALE")
    found = []
    for scale in ("1.0", "2.0", "1.0"):
        (tmp_path / "deep_of_mine.py").write_text(f"SCALE = {scale}")
        path = write(SCALED.replace("{package}", package))
        if found:
            with pytest.raises(UsageError, match=r"deep_of_mine\.py: it was changed after .*\. Load"):
                plug_in(DISTILLERS.find("mine"))
        module = plugins.load_plugin(path)
        assert plugins.load_plugin(path) is module
        assert float(scale) == module.SCALE
        found.append(plug_in(module.Mine))
    assert found[0] == found[2] != found[1]


def test_the_hash_knows_no_place(write, tmp_path):
    """Nor what else was loaded before, or lies in the folder."""
    found = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        write("SCALE = 1.0", file=f"{place}/beside_both.py")
        write("x = 1", file=f"{place}/not_imported.py")
        if found:
            for name in ("beside_both", plugins._name(tmp_path / "one/mine.py")):
                sys.modules.pop(name, None)
            sys.path.remove(str(tmp_path / "one"))
        text = MINE + "\n    def later():\n        import beside_both\n"
        for name in ("other", "mine"):
            module = plugins.load_plugin(write(text, file=f"{place}/{name}.py", name=f"{name}_{place}"))
        found.append(plug_in(module.Mine))
        write("x = 2", file=f"{place}/not_imported.py")
        assert plug_in(module.Mine) == found[-1]
    assert "two" in str(module.__file__)
    # Only the name that is registered differs; the names of the files and what they hold are alike.
    text = (tmp_path / "two/mine.py").read_text()
    (tmp_path / "two/mine.py").write_text(text.replace("mine_two", "mine_one"))
    DISTILLERS.module_dict.pop("mine_one")
    assert plug_in(plugins.load_plugin(tmp_path / "two/mine.py").Mine) == found[0]


def test_two_that_share_a_file_each_have_what_they_ran_with(write):
    write("SCALE = 1.0", file="shared_scale.py")
    text = MINE + "\n    from shared_scale import SCALE\n"
    one = plugins.load_plugin(write(text, file="one.py", name="one"))
    other = plugins.load_plugin(write(text, file="other.py", name="other"))
    write("SCALE = 2.0", file="shared_scale.py")
    assert plugins.load_plugin(one.__file__).SCALE == 2.0
    assert other.SCALE == 1.0
    with pytest.raises(UsageError, match=r"shared_scale\.py: .* Load .*other\.py again"):
        plug_in(other.Mine)
    assert plugins.load_plugin(other.__file__).SCALE == 2.0
    assert plug_in(DISTILLERS.find("one"))
    assert plug_in(DISTILLERS.find("other"))


def test_what_a_file_beside_it_registers_is_keyed_by_both(write):
    write(file="beside_registers.py")
    path = write("import beside_registers\nbeside_registers.Mine.year = 1", file="main.py")
    plugins.load_plugin(path)
    before = plug_in(DISTILLERS.find("mine"))
    write("import beside_registers\nbeside_registers.Mine.year = 2", file="main.py")
    plugins.load_plugin(path)
    between = plug_in(DISTILLERS.find("mine"))
    # A line more: it is registered at another place, and yet it is no second one.
    write("\n" + textwrap.dedent(MINE), file="beside_registers.py")
    plugins.load_plugin(path)
    assert len({before, between, plug_in(DISTILLERS.find("mine"))}) == 3


def test_a_script_that_registers_is_hashed_as_it_was_when_it_ran(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "a_script_of_mine.py"
    text = textwrap.dedent(MINE).format(name="scripted", weight="1.0")
    path.write_text(text)
    script = importlib.import_module("a_script_of_mine")
    hashed = sha256(text.encode()).hexdigest()
    assert plug_in(script.Mine) == hashed
    path.write_text(text.replace("1.0", "20.0"))
    with pytest.raises(UsageError, match=r"a_script_of_mine\.py: it was changed .*\. Restart Python\.$"):
        plug_in(script.Mine)
    importlib.reload(script)
    assert plug_in(script.Mine) == sha256(path.read_bytes()).hexdigest() != hashed


def test_it_may_import_files_beside_it(write):
    write("WEIGHT = 3.0", file="beside_mine.py")
    text = MINE + "\n    from beside_mine import WEIGHT\n"
    assert plugins.load_plugin(write(text)).WEIGHT == 3.0


def test_a_name_like_a_module_of_the_library_hides_none(write):
    module = plugins.load_plugin(write(file="json.py"))
    assert module.Mine
    import json

    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "it registers nothing. Put @DISTILLERS.register('name')"),
        ("def broken(:", "it cannot be run: SyntaxError: invalid syntax (line 1)"),
        ("x = 1\ny = 1 / 0", "it cannot be run: ZeroDivisionError: division by zero (line 2)"),
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule' (line 1)"),
        ("import sys\nsys.exit(3)", "it cannot be run: SystemExit: 3 (line 2)"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two (line 1)"),
    ],
)
def test_a_broken_file_is_told_in_a_line_and_leaves_nothing(write, text, words):
    path = write(text)
    before = [r.names() for r in REGISTRIES]
    modules = set(sys.modules)
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            plugins.load_plugin(path)
        assert str(caught.value).startswith(f"plug-in {path}: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [r.names() for r in REGISTRIES] == before
    assert not [name for name in set(sys.modules) - modules if name.startswith("kdzoo_plugin")]


def test_what_a_broken_file_registered_before_it_broke_is_taken_back(write):
    with pytest.raises(UsageError):
        plugins.load_plugin(write(MINE + "\n    1 / 0\n"))
    assert "mine" not in DISTILLERS.names()


@pytest.mark.parametrize("file", ["nosuch.py", "mine.txt", "folder.py"])
def test_what_is_no_python_file_is_refused(tmp_path, file):
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UsageError, match=r"must be a Python file \(\.py\), and there is none"):
        plugins.load_plugin(tmp_path / file)


def test_a_doubled_name_names_both_places(write):
    zoo = DISTILLERS.find("kd")
    with pytest.raises(UsageError) as caught:
        plugins.load_plugin(write(name="kd"))
    message = str(caught.value)
    assert "distiller 'kd' is registered twice" in message
    assert "mine.py:" in message
    assert "kd.py:" in message
    assert DISTILLERS.find("kd") is zoo
    plugins.load_plugin(write())
    with pytest.raises(UsageError, match=r"'mine' is registered twice: .*mine\.py:5 and .*again\.py:5"):
        plugins.load_plugin(write(file="again.py"))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A function that installs modules as entry points, for as long as a test runs."""

    def install(**texts: str) -> None:
        points = []
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
            points.append(EntryPoint(name=name, value=name, group=plugins.GROUP))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "kdzoo.plugins" else [])
        plugins._points.cache_clear()

    yield install
    plugins._points.cache_clear()


def test_an_installed_package_brings_a_method(installed):
    installed(one_package=MINE.format(name="installed", weight=1.0))
    assert "installed" in DISTILLERS.names()
    assert DISTILLERS.find("installed").__module__ == "one_package"


def test_a_broken_package_is_named(installed):
    installed(broken_package="import nosuchmodule")
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            DISTILLERS.names()
        assert "plug-in 'broken_package' of the installed package" in str(caught.value)
        assert "No module named 'nosuchmodule'. Update or uninstall that package." in str(caught.value)


def test_packages_are_imported_once(installed):
    installed(counted_package="import builtins\nbuiltins.counted = getattr(builtins, 'counted', 0) + 1")
    for registry in REGISTRIES:
        registry.names()
        registry.names()
    import builtins

    assert builtins.counted == 1
    del builtins.counted


def test_the_command_lists_a_plug_in(write, capsys):
    assert cli.main(["list", "methods", "--plugin", str(write())]) == 0
    assert "mine " in capsys.readouterr().out
    assert cli.main(["list", "methods", "--plugin", "nosuch.py"]) == 2
    assert capsys.readouterr().err.startswith("plug-in nosuch.py: must be a Python file")


def test_a_member_under_a_plug_in_is_keyed_by_its_file(write, bench):
    path = str(write())
    command = bench.command("scratch,mine", "--plugin", path)
    assert cli.main(command) == 0
    [first] = bench.folder.glob("work/runs/*/*/0/mine-*")
    assert len(bench.contents()["mine", 0][0]["settings"]["method"]["plug_in"]) == 64
    write(weight="2.0")
    assert cli.main(command) == 0
    # Another file is another method; the first one's record stays, and scratch is not trained again.
    [second] = set(bench.folder.glob("work/runs/*/*/0/mine-*")) - {first}
    losses = [
        json.loads((f / "record.json").read_text())["epochs"][0]["train"]["mine"] for f in (first, second)
    ]
    assert losses[0] != losses[1]
    assert len(list(bench.folder.glob("work/runs/*/*/0/scratch-*"))) == 1


def test_a_member_is_keyed_by_what_its_plug_in_imports(write, bench):
    write("SCALE = 1.0", file="beside_losses.py")
    path = write("    import beside_losses\n" + MINE, weight="beside_losses.SCALE")
    command = bench.command("mine", "--plugin", str(path))
    for scale in ("1.0", "100.0"):
        write(f"SCALE = {scale}", file="beside_losses.py")
        assert cli.main(command) == 0
    records = [json.loads(f.read_text()) for f in bench.folder.glob("work/runs/*/*/0/mine-*/record.json")]
    low, high = sorted(record["epochs"][0]["train"]["mine"] for record in records)
    assert high > 10 * low


def test_the_loop_of_a_notebook_never_shows_old_numbers_for_new_code(write, bench):
    path = write()
    plugins.load_plugin(path)
    options = bench.options("mine")
    first = api.run(**options).records
    write(weight="100.0")
    with pytest.raises(UsageError, match=r"by kdzoo\.load_plugin, or restart Python"):
        api.run(**options)
    planned = None
    for weight in ("100.0", "200.0"):
        plugins.load_plugin(write(weight=weight))
        if planned is None:
            planned = api.plan(**options)
    # What was planned is the code before.
    with pytest.raises(UsageError, match=r"a plug-in was loaded again after this was planned\."):
        api.execute(planned)
    second = api.run(**options).records
    assert first[0].key != second[0].key
    assert second[0].epochs[0]["train"]["mine"] > 10 * first[0].epochs[0]["train"]["mine"]
    assert second[0].settings["method"]["plug_in"] == sha256(path.read_bytes()).hexdigest()


PARTS = """
    import numpy as np
    import kdzoo
    from kdzoo.models import build_model
    from kdzoo.registry import DATASETS, MODELS

    @DATASETS.register("my_data")
    def my_data(root):
        images = np.arange(40 * 32 * 32).reshape(40, 32, 32).astype(np.uint8)
        return kdzoo.from_arrays(images, np.arange(40) % 4, images[:8], np.arange(8) % 4, name="my_data")

    @MODELS.register("my_net")
    def my_net(num_classes, channels, size):
        return build_model("resnet8", num_classes=num_classes, channels=channels, size=size)
    # {weight}
"""


def test_data_and_teachers_of_a_plug_in_are_keyed_by_its_file(write, bench):
    """Even where the data comes out the same: whoever reads the record can tell which code it was."""
    options = bench.options("scratch,kd") | {"data": "my_data", "teacher": "my_net"}
    found = []
    for weight in ("1", "2"):
        path = write(PARTS, weight=weight)
        plugins.load_plugin(path)
        hashed = sha256(path.read_bytes()).hexdigest()
        records = api.run(**options).records
        assert [r.settings["data"]["plug_in"] for r in records] == [hashed] * 2
        assert records[1].artifacts["teacher"]["settings"]["plug_in"] == hashed
        found += [[r.key, r.protocol["hash"]] for r in records]
    assert len({key for key, _ in found}) == 4
    assert len({protocol for _, protocol in found}) == 2
    # The same images as arrays come from nowhere.
    data = DATASETS.find("my_data")(None)
    (record,) = api.run(**options | {"methods": "scratch", "data": data}).records
    assert "plug_in" not in record.settings["data"]


def test_a_file_without_its_ending_is_found(write):
    path = write()
    with pytest.raises(UsageError, match=r"there is none of that name\. Did you mean .*mine\.py\?$"):
        plugins.load_plugin(path.with_suffix(""))
    with pytest.raises(UsageError, match=r"there is none of that name\.$"):
        plugins.load_plugin(path.with_name("other"))


@pytest.mark.parametrize(
    "words",
    [["--methods", "nosuch"], ["--methods", "kd+nosuch"], ["--student", "nosuch"], ["--data", "nosuch"]],
)
def test_an_unknown_name_may_be_one_of_a_plug_in(words, capsys):
    assert cli.main(["bench", "--dry-run", *words]) == 2
    assert "If a plug-in brings it, name its file by --plugin." in capsys.readouterr().err
