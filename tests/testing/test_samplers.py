"""What authors of samplers are told: each mistake by its method and rule."""

import pytest
from optuna.samplers import BaseSampler, RandomSampler

from dtme_search.config import StudyConfig
from dtme_search.errors import ConfigError
from dtme_search.search.study.samplers import SAMPLERS, SamplerKind
from dtme_search.search.study.sampling import build_sampler
from dtme_search.testing import BrokenRule, check_sampler


class Right(RandomSampler):
    def __init__(self, setting):
        super().__init__(seed=setting.seed)


class Outside(Right):
    def sample_independent(self, study, trial, name, distribution):
        return 2.0 if name == "rate" else super().sample_independent(study, trial, name, distribution)


class Between(Right):
    def sample_independent(self, study, trial, name, distribution):
        return 5 if name == "rank" else super().sample_independent(study, trial, name, distribution)


class Invented(Right):
    def sample_independent(self, study, trial, name, distribution):
        return "more" if name == "kind" else super().sample_independent(study, trial, name, distribution)


class Failing(Right):
    def sample_independent(self, study, trial, name, distribution):
        return self.values[name]


class Whole(Right):
    def infer_relative_search_space(self, study, trial):
        return {"rate": 3}


class Further(Right):
    def sample_relative(self, study, trial, search_space):
        return {"rates": 0.5}


class Bare(Right):
    def sample_relative(self, study, trial, search_space):
        return None


class Late(Right):
    def after_trial(self, study, trial, state, values):
        raise KeyError("values")


class Early(Right):
    def before_trial(self, study, trial):
        raise KeyError("values")


class Stuck(Right):
    def reseed_rng(self):
        raise KeyError("rng")


class Unseeded(RandomSampler):
    def __init__(self, setting):
        super().__init__()


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_built_in_samplers_pass(name):
    check_sampler(SAMPLERS[name], name=name)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda _: 1 / 0, r"build must not fail, got ZeroDivisionError"),
        (lambda _: None, r"build must give a sampler of Optuna, got NoneType"),
        (Unseeded, r"build must give samplers that propose the same for the same seed and trials"),
        (Outside, r"sample_independent must stay inside the space, rate from 0.1 to 1.0, got 2.0"),
        (Between, r"sample_independent must stay inside the space, rank from 2 to 8 in steps of 2, got 5"),
        (
            Invented,
            r"sample_independent must stay inside the space, kind from \['none', 'grow'\], got 'more'",
        ),
        (Failing, r"sample_independent must not fail, got AttributeError"),
        (Whole, r"infer_relative_search_space must give names with distributions, got \{'rate': 3\}"),
        (Further, r"sample_relative must name parameters that it was asked for, \[\], got 'rates'"),
        (Bare, r"sample_relative must give a mapping, got None"),
        (Late, r"after_trial must not fail, got KeyError"),
        (Early, r"before_trial must not fail, got KeyError"),
        (Stuck, r"reseed_rng must not fail, got KeyError"),
    ],
)
def test_a_mistake_is_named(build, rule):
    expected = rf"^sampler 'mine': {rule}.*See docs/plugins\.md\.$"
    with pytest.raises(BrokenRule, match=expected) as caught:
        check_sampler(SamplerKind(build), name="mine")
    assert "\n" not in str(caught.value)


SOURCE = """
from optuna.samplers import RandomSampler
from dtme_search.config import Section
from dtme_search.search.study.samplers import SamplerKind

class Options(Section):
    width: float = 1.0

PLUGINS = {"samplers": {"mine": SamplerKind(lambda s: RandomSampler(seed=s.seed), Options)}}
"""


def study(file, **sampler) -> StudyConfig:
    search = {"train.lr": {"low": 1e-5, "high": 1e-2}}
    values = {"name": "s", "config": {}, "search": search, "plugins": [str(file)], "sampler": sampler}
    return StudyConfig.model_validate(values)


def test_a_sampler_of_a_file_is_found_with_its_options(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(SOURCE)
    file.chmod(0o600)
    made = build_sampler(study(file, name="mine", options={"mine": {"width": 2}}), seed=2**40)
    assert isinstance(made, BaseSampler)
    with pytest.raises(
        ConfigError, match=r"^sampler\.name: no sampler is named 'mien'\. Did you mean 'mine'"
    ):
        build_sampler(study(file, name="mien"), seed=0)
    with pytest.raises(
        ConfigError, match=r"^sampler\.options\.mine: widht is unknown\. Did you mean 'width'"
    ):
        build_sampler(study(file, name="mine", options={"mine": {"widht": 2}}), seed=0)
