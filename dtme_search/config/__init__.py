"""Frozen configs: ``RunConfig`` for one run, ``StudyConfig`` for one search, YAML in and out."""

from dtme_search.config.files import (
    base_config,
    dump_yaml,
    find_file,
    load_run_config,
    load_study_config,
    set_path,
    shipped,
    validate,
)
from dtme_search.config.identity import canonical, fingerprint, run_fingerprint
from dtme_search.config.run import (
    AugmentConfig,
    DataConfig,
    ExpansionConfig,
    FixedPlan,
    LayerChoice,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TaskGroups,
    TrainConfig,
)
from dtme_search.config.study import Distribution, PrunerConfig, SamplerConfig, StudyConfig

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "Distribution",
    "ExpansionConfig",
    "FixedPlan",
    "LayerChoice",
    "ModelConfig",
    "PrunerConfig",
    "RunConfig",
    "SamplerConfig",
    "ScheduleConfig",
    "StudyConfig",
    "TaskConfig",
    "TaskGroups",
    "TrainConfig",
    "base_config",
    "canonical",
    "dump_yaml",
    "find_file",
    "fingerprint",
    "load_run_config",
    "load_study_config",
    "run_fingerprint",
    "set_path",
    "shipped",
    "validate",
]
