"""Finding files, reading and writing YAML, overriding fields by path."""

import pytest

from dtme_search.config import (
    ExpansionConfig,
    FixedPlan,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TaskConfig,
    TrainConfig,
    check_path,
    dump_yaml,
    find_file,
    load_run_config,
    load_study_config,
    set_path,
    shipped,
    validate,
)
from dtme_search.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text, name="run.yaml"):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return str(file)


class TestFind:
    def test_shipped_files_are_found_from_any_folder(self, folder):
        assert "demo" in shipped("studies")
        assert find_file("demo", "studies").is_file()

    def test_the_current_folder_comes_first(self, folder):
        file = write(folder, "seed: 1", "configs/demo.yaml")
        assert find_file("demo", "configs").samefile(file)
        assert load_run_config("demo").seed == 1

    def test_a_path_is_taken_as_it_is(self, folder):
        file = write(folder, "seed: 2", "other.yml")
        assert str(find_file(file, "configs")) == file

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            (
                "nyd",
                "studies",
                r"^No study is named 'nyd'\. Known, nearest first: nyud, .*demo.*\. A path ending in \.yaml",
            ),
            (
                "qqq",
                "studies",
                r"^No study is named 'qqq'\. Known, nearest first: .*demo.* A path ending in \.yaml",
            ),
            (
                "nyud_vit_tny",
                "configs",
                r"^No config is named 'nyud_vit_tny'\. Known, nearest first: nyud_vit_tiny, ",
            ),
            (
                "nyud.yaml",
                "studies",
                r"^nyud\.yaml: no such file\. The study named 'nyud' needs no ending\.$",
            ),
            ("a/b.yaml", "configs", r"^a/b\.yaml: no such file\.$"),
        ],
    )
    def test_an_unknown_name_says_what_there_is(self, folder, name, kind, message):
        with pytest.raises(ConfigError, match=message):
            find_file(name, kind)


class TestYaml:
    @pytest.mark.parametrize(
        "config",
        [
            RunConfig(),
            RunConfig(
                seed=3,
                tasks={"normals": TaskConfig(weight=0.1), "semseg": TaskConfig(role="auxiliary")},
                # Text that would be read as a number or a date if it were not quoted.
                model=ModelConfig(
                    checkpoint="/a/1e5", backbone="2024-01-01", backbone_options={"a": "no", "b": "1e5"}
                ),
                expansion=ExpansionConfig(
                    policy="fixed",
                    plan=FixedPlan(
                        modulate={11: (("semseg",), ("normals",)), 2: (("semseg", "normals"),)},
                        expand={0: (("normals",),)},
                    ),
                ),
                train=TrainConfig(lr=1e-5, grad_clip=1e22),
            ),
            RunConfig(expansion=ExpansionConfig(policy="per_layer", layers=("none", "both", "auto"))),
        ],
        ids=["defaults", "fixed", "per_layer"],
    )
    def test_what_is_written_is_read_back(self, folder, config):
        text = dump_yaml(config, header="Best of study demo.\n\ntrial 3")
        assert text.startswith("# Best of study demo.\n#\n# trial 3\nseed:")
        assert load_run_config(write(folder, text)) == config
        assert list(load_run_config("run.yaml").tasks) == list(config.tasks)

    def test_a_plan_is_written_as_a_person_would(self):
        plan = FixedPlan(modulate={5: (("semseg",), ("depth", "normals"))})
        assert "modulate:\n  5:\n  - [semseg]\n  - [depth, normals]\n" in dump_yaml(plan)

    def test_a_study_is_read_back(self, folder):
        study = StudyConfig(
            name="s",
            config={"train": {"lr": 1e-4}},
            search={
                "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
                "model.backbone": {"choices": ["1e5"]},
            },
            enqueue=("paper", {"train.lr": 1e-5}),
        )
        assert load_study_config(write(folder, dump_yaml(study))) == study

    @pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-03", "0.001"])
    def test_numbers_with_an_exponent_are_numbers(self, folder, text):
        assert load_run_config(write(folder, f"train: {{lr: {text}}}")).train.lr == 0.001
        search = f"name: s\nconfig: {{}}\nsearch: {{train.lr: {{choices: [{text}, 1]}}}}"
        assert load_study_config(write(folder, search)).search["train.lr"].choices == (0.001, 1)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train: {lr: 1", r":1:14: not valid YAML: expected ',' or '}', but got '<stream end>'\.$"),
            (
                "train:\n\tlr: 1",
                r":2:1: not valid YAML: found character '\\t' that cannot start any token\.$",
            ),
            ("seed: 1\ntrain: {}\nseed: 2", r":3:1: not valid YAML: the key 'seed' appears twice\.$"),
            ("train: {lr: 1,\n  lr: 2}", r":2:3: not valid YAML: the key 'lr' appears twice\.$"),
            ("", r": must hold a mapping of keys to values, got an empty file\.$"),
            ("hello", r": must hold a mapping of keys to values, got only 'hello'\.$"),
            ("seed: \0", r": not valid YAML: unacceptable character #x0000: [^\n]*$"),
        ],
    )
    def test_what_is_no_yaml_is_named_with_line_and_column(self, folder, text, message):
        file = write(folder, text)
        with pytest.raises(ConfigError, match=message) as caught:
            load_run_config(file)
        assert str(caught.value).startswith(file)

    def test_what_is_no_text_is_named(self, folder):
        (folder / "run.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match=r"^run\.yaml: not valid YAML: 'utf-8' codec"):
            load_run_config("run.yaml")


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "dotted", "value"),
        [
            ("train.lr=1e-3", "train.lr", 0.001),
            (" train.lr = 2 ", "train.lr", 2.0),
            ("train.compile=true", "train.compile", True),
            ("train.grad_clip=null", "train.grad_clip", None),
            ("data.name=nyud", "data.name", "nyud"),
            ("data.root=/a=b c", "data.root", "/a=b c"),
            ("data.image_size=[32, 48]", "data.image_size", (32, 48)),
            ("data.image_size.1=32", "data.image_size", (64, 32)),
            ("expansion.layers=[none, both]", "expansion.layers", ("none", "both")),
            ("expansion.plan.modulate.3=[[depth]]", "expansion.plan.modulate", {3: (("depth",),)}),
            ("model.backbone_options.depth=6", "model.backbone_options", {"depth": 6}),
            ("tasks.depth.weight=0.5", "tasks.depth", TaskConfig(weight=0.5)),
            ("tasks={depth: {}}", "tasks", {"depth": TaskConfig()}),
        ],
    )
    def test_one_field_is_set(self, folder, override, dotted, value):
        config = load_run_config(write(folder, "train: {grad_clip: 1.0}"), (override,))
        for name in dotted.split("."):
            config = config[name] if isinstance(config, dict) else getattr(config, name)
        assert config == value

    def test_the_last_one_holds_and_the_rest_stays(self, folder):
        overrides = ("train.lr=1", "train.num_steps=5", "train.lr=2")
        config = load_run_config(write(folder, "seed: 4"), overrides)
        assert config == RunConfig(seed=4, train=TrainConfig(lr=2.0, num_steps=5))

    def test_rules_across_fields_are_checked_after_all_of_them(self, folder):
        file = write(folder, "model: {checkpoint: w.pt}")
        config = load_run_config(file, ("model.pretrained=true", "model.checkpoint=null"))
        assert config.model == ModelConfig(pretrained=True)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.lr", "--set must look like path=value, got 'train.lr'."),
            ("=3", "--set must look like path=value, got '=3'."),
            ("train.lrr=3", "--set train.lrr=3: 'lrr' is unknown. Did you mean 'lr'?"),
            ("train.lr=[1", "--set train.lr=[1: '[1' is not a YAML value."),
            ("train.lr=fast", "--set train.lr=fast: train.lr must be a number, got 'fast'."),
            ("train.lr=", "--set train.lr=: train.lr must be a number, got nothing."),
            ("train=3", "--set train=3: train must be a mapping of keys to values, got 3."),
            (
                "tasks.dept.weight=1",
                "--set tasks.dept.weight=1: 'dept' is not a task of the config. Did you mean 'depth'?",
            ),
            (
                "expansion.layers.0=both",
                "--set expansion.layers.0=both: the list is shorter than that. Set it as a whole.",
            ),
            (
                "expansion.layers.*=both",
                "--set expansion.layers.*=both: the path must not contain *; only a search space may.",
            ),
            (
                "expansion.plan.modulate.x=[[depth]]",
                "--set expansion.plan.modulate.x=[[depth]]: "
                "expansion.plan.modulate has whole numbers as keys, got 'x'.",
            ),
        ],
    )
    def test_a_wrong_one_is_named(self, folder, override, message):
        with pytest.raises(ConfigError) as caught:
            load_run_config(write(folder, "seed: 4"), (override,))
        assert str(caught.value) == message


class TestPaths:
    @pytest.mark.parametrize(
        "dotted",
        [
            "seed",
            "train.lr",
            "data.augment.scale.0",
            "tasks.depth.weight",
            "expansion.layers.*",
            "expansion.layers.11",
            "expansion.plan.modulate.5",
            "model.backbone_options.embed_dim",
        ],
    )
    def test_known(self, dotted):
        check_path(dotted, "here", RunConfig())

    @pytest.mark.parametrize(
        ("dotted", "message"),
        [
            (
                "",
                "here: '' is unknown. Known: "
                "baselines, data, expansion, model, plugins, schedule, seed, tasks, train.",
            ),
            ("expansion.layer.*", "here: 'layer' is unknown. Did you mean 'layers'?"),
            (
                "expansion.layers.last",
                "here: expansion.layers is a list: follow it with an index from 0 or with *, got 'last'.",
            ),
            (
                "expansion.layers.-1",
                "here: expansion.layers is a list: follow it with an index from 0 or with *, got '-1'.",
            ),
            ("seed.*", "here: seed is a single value with nothing below it, got '*'."),
            ("tasks.*.weight", "here: '*' is not a task of the config. Known: depth, edge, normals, semseg."),
        ],
    )
    def test_unknown(self, dotted, message):
        with pytest.raises(ConfigError) as caught:
            check_path(dotted, "here", RunConfig())
        assert str(caught.value) == message

    def test_without_a_base_any_task_is_possible(self):
        check_path("tasks.saliency.weight", "here", None)

    def test_setting_leaves_the_original_alone(self):
        original = {"train": {"lr": 1}, "layers": ["none", "none"]}
        changed = set_path(set_path(original, "train.lr", 2), "layers.1", "both")
        assert changed == {"train": {"lr": 2}, "layers": ["none", "both"]}
        assert original == {"train": {"lr": 1}, "layers": ["none", "none"]}

    def test_setting_makes_missing_sections(self):
        values = set_path({}, "expansion.plan.modulate", {1: [["depth"]]})
        assert validate(RunConfig, values, "here").expansion.plan.modulate == {1: (("depth",),)}
