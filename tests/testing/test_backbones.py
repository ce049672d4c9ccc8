"""What authors of backbones are told: each mistake by its method and rule."""

import pytest
import torch
from torch import nn

from dtme_search.config import ModelConfig
from dtme_search.errors import ConfigError
from dtme_search.models import build_model, describe_backbone, patch_size_of
from dtme_search.models.own_backbone import BackboneKind
from dtme_search.tasks import depth
from dtme_search.testing import BrokenRule, check_backbone


class Mixer(nn.Module):
    """A block without attention; right."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, tokens):
        return tokens + self.mlp(tokens + tokens.mean(1, keepdim=True))


class Plain(nn.Module):
    """Patches and two blocks; right."""

    patch_size = 8

    def __init__(self, setting):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.blocks = nn.ModuleList(Mixer(12) for _ in range(2))
        self.norm = nn.LayerNorm(12)

    def embed(self, images):
        return self.patches(images).flatten(2).transpose(1, 2)


class Gridded(Plain):
    def embed(self, images):
        return self.patches(images)


class Prefixed(Plain):
    num_prefix_tokens = 1


class Halved(Plain):
    patch_size = 8.5


class Blockless(Plain):
    def __init__(self, setting):
        super().__init__(setting)
        self.blocks = nn.ModuleList()


class Normless(Plain):
    def __init__(self, setting):
        super().__init__(setting)
        self.norm = None


class Shrinking(Plain):
    def __init__(self, setting):
        super().__init__(setting)
        self.blocks[1] = nn.Linear(12, 6)


class Sized(Plain):
    def __init__(self, setting):
        super().__init__(setting)
        self.blocks[0] = nn.Conv1d(96, 96, 1)


class Leaking(Plain):
    def embed(self, images):
        return super().embed(images) + images.mean() * torch.arange(12)


class Unused(Plain):
    def __init__(self, setting):
        super().__init__(setting)
        self.further = nn.Linear(2, 2)


class Failing(Plain):
    def embed(self, images):
        return self.patch(images)


def test_a_right_backbone_passes():
    check_backbone(BackboneKind(Plain))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda setting: 1 / 0, r"build must not fail, got ZeroDivisionError"),
        (lambda setting: None, r"build must give a module, got NoneType"),
        (Blockless, r"blocks must be a ModuleList with at least one block"),
        (Normless, r"norm must be a method of what build gives, a Normless"),
        (Halved, r"patch_size must be a whole number of 1 or more, got 8.5"),
        (Gridded, r"embed must give tokens of shape \(1, 96, P\), one for each patch, got \(1, 12, 8, 12\)"),
        (Prefixed, r"embed must give tokens of shape \(1, 97, P\).* got \(1, 96, 12\)"),
        (Failing, r"embed must not fail, got AttributeError"),
        (Shrinking, r"blocks.1 must give tokens of the shape that they get, \(1, 97, 12\), got \(1, 97, 6\)"),
        (Sized, r"blocks.0 must not fail, got RuntimeError"),
        (Leaking, r"embed and blocks must treat each image by itself"),
        (Unused, r"embed and blocks must use every parameter: further\.weight gets no finite gradient"),
    ],
)
def test_a_mistake_is_named(build, rule):
    expected = rf"^backbone 'mine': {rule}.*See docs/plugins\.md\.$"
    with pytest.raises(BrokenRule, match=expected) as caught:
        check_backbone(BackboneKind(build), name="mine")
    assert "\n" not in str(caught.value)


class TestInAModel:
    SOURCE = """
from dtme_search.config import Section
from dtme_search.models.own_backbone import BackboneKind
import torch
from torch import nn

class Options(Section):
    depth: int = 2

class Plain(nn.Module):
    patch_size = 8

    def __init__(self, setting):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(setting.options.depth))
        self.norm = nn.LayerNorm(12)

    def embed(self, images):
        return self.patches(images).flatten(2).transpose(1, 2)

PLUGINS = {"backbones": {"mine": BackboneKind(Plain, Options)}}
"""

    @pytest.fixture
    def file(self, tmp_path) -> str:
        path = tmp_path / "parts.py"
        path.write_text(self.SOURCE)
        path.chmod(0o600)
        return str(path)

    def test_it_is_described_and_built(self, file):
        config = ModelConfig(backbone="mine")
        info = describe_backbone(config, (32, 48), [file])
        assert (info.num_layers, info.embed_dim, info.grid) == (2, 12, (4, 6))
        assert patch_size_of(config, [file]) == 8
        random = torch.random.get_rng_state()
        model = build_model(config, {"depth": depth()}, (32, 48), seed=0, plugins=[file])
        assert torch.equal(random, torch.random.get_rng_state())
        assert model.eval()(torch.zeros(2, 3, 32, 48))["depth"].shape == (2, 1, 32, 48)
        again = build_model(config, {"depth": depth()}, (32, 48), seed=0, plugins=[file])
        assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"backbone_options": {"deph": 3}},
                r"model\.backbone_options: deph is unknown\. Did you mean 'depth'",
            ),
            ({"pretrained": True}, r"model\.pretrained and model\.checkpoint must be left out with 'mine'"),
            ({"architecture": "taskprompter"}, r"model\.architecture must be vit with 'mine'"),
        ],
    )
    def test_what_it_cannot_have_is_told(self, file, fields, message):
        with pytest.raises(ConfigError, match=message):
            describe_backbone(ModelConfig(backbone="mine", **fields), (32, 48), [file])
        with pytest.raises(
            ConfigError, match=r"data\.image_size must be a multiple of the patch size 8 of mine"
        ):
            describe_backbone(ModelConfig(backbone="mine"), (30, 48), [file])
