"""Frozen configs: ``RunConfig`` for one run, ``StudyConfig`` for one search, YAML in and out."""

from dtme_search.config.combine import CombineConfig
from dtme_search.config.description import FolderDescription, FolderGroups, FolderTask, load_description
from dtme_search.config.dotted import set_path
from dtme_search.config.files import (
    StudySource,
    apply_overrides,
    base_config,
    find_file,
    load_run_config,
    load_study_config,
    shipped,
)
from dtme_search.config.identity import canonical, finetuning, fingerprint, run_fingerprint
from dtme_search.config.image_task import ImageTask
from dtme_search.config.messages import validate
from dtme_search.config.parts import find_part
from dtme_search.config.paths import check_path, check_value
from dtme_search.config.recipes import BaselineRecipes
from dtme_search.config.run import (
    AugmentConfig,
    Count,
    DataConfig,
    ExpansionConfig,
    FixedPlan,
    FolderConfig,
    LayerChoice,
    ModelConfig,
    NyudConfig,
    RunConfig,
    ScenesConfig,
    TaskConfig,
    TaskGroups,
    TaskonomyConfig,
    TrainConfig,
)
from dtme_search.config.schedule import ADAPTIVE, FIXED, FinetuneConfig, ScheduleConfig
from dtme_search.config.section import NoOptions, Section
from dtme_search.config.study import (
    Distribution,
    InferenceConfig,
    PrunerConfig,
    SamplerConfig,
    Scalar,
    StudyConfig,
)
from dtme_search.config.yaml_text import dump_yaml

__all__ = [
    "ADAPTIVE",
    "FIXED",
    "AugmentConfig",
    "BaselineRecipes",
    "CombineConfig",
    "Count",
    "DataConfig",
    "Distribution",
    "ExpansionConfig",
    "FinetuneConfig",
    "FixedPlan",
    "FolderConfig",
    "FolderDescription",
    "FolderGroups",
    "FolderTask",
    "ImageTask",
    "InferenceConfig",
    "LayerChoice",
    "ModelConfig",
    "NoOptions",
    "NyudConfig",
    "PrunerConfig",
    "RunConfig",
    "SamplerConfig",
    "Scalar",
    "ScenesConfig",
    "ScheduleConfig",
    "Section",
    "StudyConfig",
    "StudySource",
    "TaskConfig",
    "TaskGroups",
    "TaskonomyConfig",
    "TrainConfig",
    "apply_overrides",
    "base_config",
    "canonical",
    "check_path",
    "check_value",
    "dump_yaml",
    "find_file",
    "find_part",
    "finetuning",
    "fingerprint",
    "load_description",
    "load_run_config",
    "load_study_config",
    "run_fingerprint",
    "set_path",
    "shipped",
    "validate",
]
