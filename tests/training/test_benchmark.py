import textwrap
from pathlib import Path

import pytest

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.training.benchmark import (
    benchmark_names,
    config_folder,
    describe_benchmark,
    load_benchmark,
    parse_cfg_options,
)

CONFIG = """
data = dict(type="digits")
student = dict(network=dict(type="lenet5"))
teacher = dict(network=dict(type="resnet20"), recipe=dict(epochs=100))
recipe = dict(
    epochs=200, batch_size=64, schedule_epochs=200,
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9),
    param_scheduler=[dict(type="MultiStepLR", milestones=[60, 120, 160], gamma=0.2)],
)
"""


@pytest.fixture
def config(tmp_path):
    """A function that writes a config, with lines of a test's own after it, and gives its path."""

    def write(more: str = "", text: str = CONFIG) -> str:
        path = tmp_path / "mine.py"
        path.write_text(text + textwrap.dedent(more))
        return str(path)

    return write


def refused(benchmark, **options) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load_benchmark(benchmark, **options)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", benchmark_names())
def test_every_config_loads(name):
    found = load_benchmark(name)
    assert found.name == name
    assert found.precision == "float32"
    assert {"teacher", "autoencoder"} <= set(found.sections)
    assert "student" not in found.sections
    assert describe_benchmark(name)
    assert found.defaults.epochs == found.student.recipe.epochs


def test_benchmarks_are_the_files_of_the_config_folder():
    assert {"digits", "fashion_mnist"} <= set(benchmark_names())
    assert set(benchmark_names()) == {p.stem for p in config_folder().iterdir() if p.suffix == ".py"}


def test_an_installed_package_brings_its_configs(tmp_path, monkeypatch):
    (tmp_path / "kdzoo").mkdir()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(kdzoo, "__file__", str(tmp_path / "kdzoo" / "__init__.py"))
    assert config_folder() == tmp_path / "configs"
    (tmp_path / "kdzoo" / "configs").mkdir()
    assert config_folder() == tmp_path / "kdzoo" / "configs"


def test_table_7_is_the_recipe():
    recipe = load_benchmark("fashion_mnist").student.recipe
    assert (recipe.epochs, recipe.batch_size) == (200, 256)
    assert dict(recipe.optimizer) == {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert [dict(s) for s in recipe.param_scheduler] == [
        {"type": "MultiStepLR", "milestones": [60, 120, 160], "gamma": 0.2}
    ]
    assert load_benchmark("fashion_mnist").sources == {"reffakd": {"gamma": 0.008}}


@pytest.mark.parametrize(
    ("epochs", "milestones"),
    [(200, [60, 120, 160]), (20, [6, 12, 16]), (240, [72, 144, 192]), (5, [2, 3, 4]), (1, [1, 1, 1])],
)
def test_milestones_scale_with_the_epochs(epochs, milestones):
    recipe = load_benchmark("fashion_mnist", epochs=epochs).student.recipe
    assert recipe.epochs == epochs
    assert recipe.param_scheduler[0]["milestones"] == milestones
    assert recipe.param_scheduler[0]["gamma"] == 0.2


def test_sections_have_epochs_of_their_own(config):
    found = load_benchmark(config(), epochs=10, section_epochs={"teacher": 20, "autoencoder": None})
    assert found.student.recipe.param_scheduler[0]["milestones"] == [3, 6, 8]
    assert found.sections["teacher"].recipe.epochs == 20
    assert found.sections["teacher"].recipe.param_scheduler[0]["milestones"] == [6, 12, 16]
    assert load_benchmark(config(), epochs=10).sections["teacher"].recipe.epochs == 100
    assert load_benchmark(config(), epochs=10).sections["teacher"].recipe.batch_size == 64
    assert load_benchmark(config(), epochs=10).defaults.epochs == 10


def test_networks_and_data_of_the_users_own(config):
    found = load_benchmark(
        config(), student="resnet18:head=global", teacher="resnet34", data="fashion_mnist:download=true"
    )
    assert (found.student.network, dict(found.student.options)) == ("resnet18", {"head": "global"})
    assert found.sections["teacher"].network == "resnet34"
    # The recipes stay the config's; the name follows the data, whose numbers are no longer the config's.
    assert found.student.recipe == load_benchmark(config()).student.recipe
    assert found.sections["teacher"].recipe.epochs == 100
    assert (found.name, found.data, found.data_options) == (
        "fashion_mnist", "fashion_mnist", {"download": "true"},
    )  # fmt: skip
    assert load_benchmark(config(), student="resnet18").name == "mine"


def test_a_teacher_may_be_named_where_the_config_has_none(config):
    without = config(text=CONFIG.replace("teacher = ", "_teacher = "))
    assert "teacher" not in load_benchmark(without).sections
    found = load_benchmark(without, teacher="resnet8")
    assert found.section("teacher").network == "resnet8"
    assert found.section("teacher").recipe.epochs == 200


def test_options_of_networks_are_values_however_they_are_spelled(config):
    spelled = load_benchmark(config(), teacher="resnet18:head=global").section("teacher")
    written = load_benchmark(
        config(), cfg_options={"teacher.network": {"type": "resnet18", "head": "global"}}
    ).section("teacher")
    assert spelled.options == written.options == {"head": "global"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student": "resnet18:"}, "--student: its value must be name[:option=value]*, got 'resnet18:'"),
        ({"student": ""}, "--student: its value must be name[:option=value]*"),
        ({"student": "resnet18:head"}, "'resnet18' has no members"),
        ({"student": "lenet6"}, "Did you mean 'lenet5'"),
        ({"student": "resnet18:head=big"}, "head must be 'auto' or 'global' or 'pool4', got 'big'"),
        ({"teacher": "resnet18:head=global:head=auto"}, "--teacher: option 'head' is given twice"),
        ({"data": "a b"}, "--data: its value must be"),
    ],
)
def test_networks_and_data_that_cannot_be_are_told(config, options, words):
    assert any(words in line for line in refused(config(), **options))


def test_only_pretrained_teachers_go_untrained(config):
    (line,) = refused(config(), section_epochs={"teacher": 0})
    assert "epochs must be an integer of at least 1, got 0. Only a teacher with pretrained=true" in line
    (line,) = refused(config(), epochs=0)
    assert "at least 1" in line


def test_epochs_of_a_section_that_is_not_there_are_refused(config):
    (line,) = refused(config(), section_epochs={"autoencoder": 3})
    assert "no section 'autoencoder'" in line
    with pytest.raises(UsageError, match="no section 'autoencoder', which a requested method needs"):
        load_benchmark(config()).section("autoencoder")


@pytest.mark.parametrize(
    ("scheduler", "scaled"),
    [
        ("type='CosineAnnealingLR', T_max=190, begin=10, end=200", {"T_max": 19, "begin": 1, "end": 20}),
        ("type='LinearLR', start_factor=0.1, begin=0, end=50", {"start_factor": 0.1, "begin": 0, "end": 5}),
        ("type='LinearLR', start_factor=0.1, end=4", {"end": 1}),
        ("type='StepLR', step_size=30, gamma=0.5", {"step_size": 3, "gamma": 0.5}),
        ("type='CosineRestartLR', periods=[50, 150], restart_weights=[1, 0.5], eta_min=0",
         {"periods": [5, 15], "restart_weights": [1, 0.5]}),
        ("type='OneCycleLR', eta_max=0.3, total_steps=200", {"eta_max": 0.3, "total_steps": 20}),
        ("type='OneCycleLR', eta_max=0.3, total_steps=200, convert_to_iter_based=True", {"total_steps": 20}),
        ("type='LinearLR', start_factor=0.1, end=500, by_epoch=False", {"end": 500}),
        ("type='MultiStepLR', milestones=[700], by_epoch=False", {"milestones": [700]}),
        ("type='ExponentialLR', gamma=0.9", {"gamma": 0.9}),
    ],
)  # fmt: skip
def test_lengths_in_epochs_scale_and_nothing_else(config, scheduler, scaled):
    path = config(f"recipe['param_scheduler'] = [dict({scheduler})]")
    (found,) = load_benchmark(path, epochs=20).student.recipe.param_scheduler
    assert {name: found[name] for name in scaled} == scaled
    (whole,) = load_benchmark(path).student.recipe.param_scheduler
    assert dict(whole) == eval(f"dict({scheduler})")


def test_a_single_scheduler_needs_no_list_and_none_is_none(config):
    one = load_benchmark(config("recipe['param_scheduler'] = dict(type='StepLR', step_size=3)"))
    assert len(one.student.recipe.param_scheduler) == 1
    for none in ("[]", "None"):
        found = load_benchmark(config(f"recipe['param_scheduler'] = {none}"))
        assert found.student.recipe.param_scheduler == ()


def test_cfg_options_change_single_entries(config):
    found = load_benchmark(
        config(),
        cfg_options={
            "recipe.batch_size": 128,
            "recipe.optimizer.lr": 0.5,
            "student.network.type": "resnet20",
            "teacher.recipe.optimizer.lr": 0.01,
            "methods.dkd.beta": 2.0,
            "views.rotation": 15,
        },
    )
    assert found.student.recipe.batch_size == 128
    assert found.student.recipe.optimizer["lr"] == 0.5
    assert found.student.recipe.optimizer["momentum"] == 0.9
    assert found.student.network == "resnet20"
    assert found.sections["teacher"].recipe.optimizer["lr"] == 0.01
    assert found.sections["teacher"].recipe.optimizer["type"] == "SGD"
    assert found.methods == {"dkd": {"beta": 2.0}}
    assert found.views.rotation == 15


def test_the_command_line_comes_after_cfg_options(config):
    assert load_benchmark(config(), epochs=7, cfg_options={"recipe.epochs": 9}).student.recipe.epochs == 7


def test_a_config_by_path_and_over_another(tmp_path, config):
    assert load_benchmark(config()).name == "mine"
    base = Path(config())
    (tmp_path / "derived.py").write_text(f"_base_ = './{base.name}'\nrecipe = dict(batch_size=8)\n")
    found = load_benchmark(str(tmp_path / "derived.py"))
    assert (found.name, found.student.recipe.batch_size, found.student.recipe.epochs) == ("derived", 8, 200)


def test_an_unknown_benchmark_is_answered_with_the_nearest(tmp_path):
    assert refused("digit") == ["kdzoo: there is no benchmark 'digit'. Did you mean 'digits'?"]
    missing = str(tmp_path / "nosuch.py")
    assert refused(missing) == [f"benchmark: there is no config file {missing}."]


def test_a_config_that_cannot_be_read_is_named(config):
    (line, *_) = refused(config("recipe = dict(\n"))
    assert "its config cannot be read" in line


MISTAKES = [
    ("recipee = dict(epochs=3)", "there is no config entry 'recipee'. Did you mean 'recipe'?"),
    ("techer = 3", "there is no config entry 'techer'. Did you mean 'teacher'"),
    ("student = 3", "config entry 'student' must be a dict, got 3."),
    ("data = None", "config entry 'data' must be a dict, got None."),
    ("data = dict(kind='digits')", "config entry 'data' must name a data set"),
    ("student = dict(recipe=dict(epochs=3))", "config entry 'student' must name a network"),
    ("student = dict(network=3)", "section 'student': must be dict(network=dict(type=...)"),
    ("student = dict(network=dict(type='lenet5'), epochs=3)", "section 'student': must be dict(network="),
    ("recipe['epoch'] = 3", "there is no recipe entry 'epoch'. Did you mean 'epochs'"),
    ("recipe['epochs'] = 0", "epochs must be an integer of at least 1, got 0."),
    ("recipe['batch_size'] = 2.5", "batch_size must be an integer of at least 1, got 2.5."),
    ("recipe['schedule_epochs'] = True", "schedule_epochs must be an integer of at least 1, got True."),
    ("recipe['optimizer'] = dict(type='SDG', lr=0.1)", "there is no optimizer 'SDG'. Did you mean 'SGD'"),
    ("recipe['optimizer'] = dict(lr=0.1)", "optimizer"),
    ("recipe['optimizer'] = dict(type='SGD', rate=0.1)", "optimizer or schedule cannot be built: "),
    ("recipe['optimizer'] = dict(type='SGD', lr='fast')", "optimizer or schedule cannot be built: "),
    ("recipe['optimizer'] = dict(type='SGD', lr=-1)", "optimizer or schedule cannot be built: "),
    ("recipe['optimizer'] = dict(type='SGD', lr=float('nan'))", "lr must be a finite number, got nan."),
    ("recipe['optimizer'] = 3", "optimizer"),
    ("recipe['param_scheduler'] = [dict(type='MultistepLR', milestones=[3])]",
     "there is no param_scheduler 'MultistepLR'. Did you mean 'MultiStepLR'"),
    ("recipe['param_scheduler'] = [dict(type='ReduceOnPlateauLR')]",
     "there is no param_scheduler 'ReduceOnPlateauLR'."),
    ("recipe['param_scheduler'] = [dict(milestones=[3])]", "param_scheduler"),
    ("recipe['param_scheduler'] = [dict(type='MultiStepLR')]", "optimizer or schedule cannot be built: "),
    ("recipe['param_scheduler'] = [3]", "param_scheduler"),
    ("recipe['param_scheduler'] = 'StepLR'", "param_scheduler"),
    ("teacher = dict(network=dict(type='resnet20'), recipe=3)", "section 'teacher'"),
    ("views = dict(rotaton=15)", "there is no entry 'rotaton'. Did you mean 'rotation'?"),
    ("views = dict(rotation=999)", "rotation must be a number in [0, 180], got 999."),
    ("views = 3", "config entry 'views' must be a dict, got 3."),
    ("methods = dict(dkdd=dict(beta=2))", "there is no distiller 'dkdd'. Did you mean 'dkd'"),
    ("methods = dict(dkd=dict(bta=2))", "there is no option 'bta'. Did you mean 'beta'"),
    ("methods = dict(dkd=dict(beta=-2))", "beta must be a number in [0, inf), got -2."),
    ("methods = 3", "methods: config entry must be a dict of dicts such as "),
    ("methods = dict(kd=3)", "methods: config entry must be a dict of dicts such as "),
    ("sources = dict(refakd=dict(gamma=2))", "there is no source 'refakd'. Did you mean 'reffakd'"),
    ("sources = dict(reffakd=dict(gamma=-2))", "gamma must be 'auto' or a number in [0, inf), got -2."),
]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), MISTAKES)
def test_mistakes_in_a_config_are_answered_in_a_line(config, more, message):
    (line,) = refused(config(more))
    assert message in line
    assert "mine" in line or line.startswith("views: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "kdzoo: precision must be float32, bf16 or auto, got 'float16'."),
        ({"val_fraction": 1}, "kdzoo: val_fraction must be a number in [0, 1), got 1."),
        ({"val_fraction": -0.1}, "val_fraction must be"),
        ({"val_fraction": float("nan")}, "val_fraction must be"),
        ({"val_fraction": True}, "val_fraction must be"),
        ({"epochs": 0}, "section 'student': epochs must be an integer of at least 1, got 0."),
        (
            {"section_epochs": {"teacher": -1}},
            "section 'teacher': epochs must be an integer of at least 1, got -1.",
        ),
        ({"cfg_options": {"recip.epochs": 3}}, "there is no config entry 'recip'. Did you mean 'recipe'"),
        ({"cfg_options": {"recipe.epoch": 3}}, "there is no recipe entry 'epoch'. Did you mean 'epochs'"),
        ({"cfg_options": {"student.network": 3}}, "section 'student'"),
    ],
)
def test_mistakes_of_a_user_are_answered_in_a_line(config, options, message):
    (line,) = refused(config(), **options)
    assert message in line


def test_all_mistakes_are_told_at_once(config):
    lines = refused(
        config("views = dict(flop=True)"), epochs=0, section_epochs={"teacher": 0, "autoencoder": 1}
    )
    assert len(lines) == 4
    assert len(refused(config("nosuch = 3\ndata = 3"), precision="int8", val_fraction=2)) == 4


def test_assignments_become_entries():
    assignments = ["a.b=128", "c=0.1", "d=adam", "e=[1, 2]", "f=true", "g=None", "h=", "i=a=b", "j='3'"]
    assert parse_cfg_options(assignments) == {
        "a.b": 128, "c": 0.1, "d": "adam", "e": [1, 2], "f": True, "g": None, "h": "", "i": "a=b", "j": "3",
    }  # fmt: skip
    for wrong in ("a", "=3"):
        with pytest.raises(UsageError, match=r"^cfg-options: must be name=value, .*, got "):
            parse_cfg_options([wrong])


def test_a_warm_up_that_scales_to_nothing_is_left_out():
    schedule = [
        {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 5},
        {"type": "CosineAnnealingLR", "T_max": 195, "begin": 5, "end": 200},
    ]
    recipe = load_benchmark(
        "digits", epochs=1, cfg_options={"recipe.param_scheduler": schedule}
    ).student.recipe
    assert [s["type"] for s in recipe.param_scheduler] == ["LinearLR"]
    longer = load_benchmark(
        "digits", epochs=40, cfg_options={"recipe.param_scheduler": schedule}
    ).student.recipe
    assert [(s["begin"], s["end"]) for s in longer.param_scheduler] == [(0, 1), (1, 40)]
