import sys
import textwrap

import pytest

import kdzoo.distillers
from kdzoo.checks import UsageError
from kdzoo.distillers import Distiller
from kdzoo.provenance import plug_in
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES, Registry, import_modules


def test_what_this_version_brings_is_registered():
    assert {"scratch", "kd", "dkd"} <= set(DISTILLERS.names())
    assert {"teacher", "reffakd", "uniform"} <= set(SOURCES.names())
    assert {"lenet5", "resnet18", "resnet20", "autoencoder"} <= set(MODELS.names())
    assert {"digits", "fashion_mnist"} <= set(DATASETS.names())
    for registry in (DISTILLERS, SOURCES, MODELS, DATASETS):
        assert registry.names() == sorted(registry.names())


def test_a_doubled_name_names_both_places():
    registry = Registry("distiller", "kdzoo.distillers")

    def one() -> None: ...

    def other() -> None: ...

    registry.register("kd")(one)
    with pytest.raises(UsageError) as caught:
        registry.register("kd")(other)
    message = str(caught.value)
    assert "distiller 'kd' is registered twice" in message
    assert message.count(__file__) == 2
    for thing in (one, other):
        assert f"{__file__}:{thing.__code__.co_firstlineno}" in message
    assert registry._module_dict["kd"] is one


def test_the_same_place_may_register_again():
    """A module that is imported anew, as in a notebook, is no second one."""
    registry = Registry("model", "kdzoo.models")
    things = []
    for _ in range(2):

        @registry.register("again")
        def build() -> None: ...

        things.append(build)
    assert registry._module_dict["again"] is things[1]


@pytest.mark.parametrize("name", ["my kd+x", "my:kd", "a~b", "a+b", "a,b", "*", "", "2kd", 3])
def test_a_name_that_the_grammar_cannot_spell_is_refused(name):
    def build() -> None: ...

    for registry in (DISTILLERS, SOURCES, MODELS, DATASETS):
        before = dict(registry.module_dict)
        with pytest.raises(UsageError) as caught:
            registry.register(name)(build)
        assert str(caught.value) == (
            f"{registry.name} of {__file__}:{build.__code__.co_firstlineno}: its name must be letters, "
            f"digits, '_', '-' and '.', the first a letter or '_', got {name!r}. Rename it."
        )
        assert registry.module_dict == before


@pytest.mark.parametrize(
    ("registry", "name", "words"),
    [
        (DISTILLERS, "all", "table8 and all stand for several methods. Rename it."),
        (DISTILLERS, "table8", "table8 and all stand for several methods. Rename it."),
        (DISTILLERS, "reffakd", "there is a source of that name, at "),
        (SOURCES, "dkd", "there is a distiller of that name, at "),
    ],
)
def test_a_name_that_would_take_the_place_of_a_word_is_refused(registry, name, words):
    class Mine:
        shorthand = "kd"

    before = dict(registry.module_dict) if registry.names() else {}
    with pytest.raises(UsageError) as caught:
        registry.register(name)(Mine)
    assert str(caught.value).startswith(f"{registry.name} {name!r} of {__file__}:")
    assert words in str(caught.value)
    assert registry.module_dict == before


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"^kdzoo: there is no distiller 'dkdd'\. Did you mean .*'dkd'"):
        DISTILLERS.find("dkdd")
    with pytest.raises(UsageError, match=r"^who: there is no data set 'digit'\. Did you mean 'digits'"):
        DATASETS.find("digit", "who")


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """A folder that holds one more distiller, as if its file lay in kdzoo/distillers."""
    (tmp_path / "newcomer.py").write_text(
        textwrap.dedent('''
        """A new method."""
        from kdzoo.distillers.base import Distiller
        from kdzoo.registry import DISTILLERS

        @DISTILLERS.register("newcomer")
        class Newcomer(Distiller):
            """It adds nothing."""

            def forward(self, student, guide, batch, progress):
                return {}
        ''')
    )
    monkeypatch.setattr(kdzoo.distillers, "__path__", [*kdzoo.distillers.__path__, str(tmp_path)])
    yield
    DISTILLERS._module_dict.pop("newcomer", None)
    sys.modules.pop("kdzoo.distillers.newcomer", None)


@pytest.mark.usefixtures("new_file")
def test_a_new_file_registers_itself():
    assert "newcomer" not in DISTILLERS.names()
    import_modules(kdzoo.distillers.__name__, list(kdzoo.distillers.__path__))
    assert "newcomer" in DISTILLERS.names()
    assert DISTILLERS.find("newcomer").__module__ == "kdzoo.distillers.newcomer"


def test_what_comes_from_outside_is_known_by_its_file():
    from hashlib import sha256
    from pathlib import Path

    from kdzoo.distillers.kd import KD

    class Mine:
        pass

    assert plug_in(KD) is None
    assert plug_in(Mine) == sha256(Path(__file__).read_bytes()).hexdigest()


def class_of(source, name="Mine"):
    """Make a class from text, as a notebook or standard input does: there is no file."""
    exec(source, space := {"__name__": "a_notebook", "Distiller": Distiller})
    return space[name]


def test_code_without_a_file_is_known_by_what_was_compiled():
    source = "class Mine(Distiller):\n    def label_weight(self, progress): return {}"
    one, same, other = (plug_in(class_of(source.format(value))) for value in ("1.0", "1.0", "2.0"))
    assert one == same != other
    default = "class Mine(Distiller):\n    def __init__(self, *, w: float = {}): pass"
    assert plug_in(class_of(default.format(1))) != plug_in(class_of(default.format(2)))


def shapes(root, count: int = 300): ...


class Wide:
    def __init__(self, num_classes, channels, size, width=16): ...


@pytest.mark.parametrize(
    ("registry", "thing", "option"), [(DATASETS, shapes, "count"), (MODELS, Wide, "width")]
)
def test_an_option_that_is_given_by_place_is_refused_where_it_is_registered(registry, thing, option):
    """Else `--data shapes:count=200` would be told that there are no options."""
    said = rf"^{registry.name} 'odd': '{option}' has a default, so it is an option: put it behind '\*'\.$"
    with pytest.raises(UsageError, match=said):
        registry.register("odd")(thing)
    assert "odd" not in registry.names()


def test_what_is_always_given_by_place_may_have_a_default(monkeypatch):
    def plain(root=None, *, count=3): ...

    monkeypatch.setattr(DATASETS, "_module_dict", dict(DATASETS.module_dict))
    assert DATASETS.register("plain")(plain) is plain
