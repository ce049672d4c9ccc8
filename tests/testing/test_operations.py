"""What authors of operations are told: each mistake by its method and rule."""

import pytest
import torch
from torch import nn

from dtme_search.models.operations import LayerOperation, OperationKind
from dtme_search.testing import BrokenRule, check_operation


class Shift(LayerOperation):
    """A vector per group that is added to the tokens; right."""

    def __init__(self, site):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(site.num_groups, site.embed_dim))

    def enter(self, tokens, groups):
        vectors = torch.cat((self.vectors, torch.zeros_like(self.vectors[:1])))
        return tokens + vectors[groups][:, None, None]


class Added(LayerOperation):
    """A token per group beside the others; right."""

    in_block = lengthens = True

    def __init__(self, site):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(site.num_groups, site.embed_dim))

    def enter(self, tokens, groups):
        own = self.tokens[groups][:, None, None].expand(-1, tokens.shape[1], -1, -1)
        return torch.cat((tokens, own), 2)


class Everywhere(Shift):
    def enter(self, tokens, groups):
        return tokens + self.vectors[groups.clamp(max=1)][:, None, None]


class Mixing(Shift):
    def enter(self, tokens, groups):
        return super().enter(tokens, groups) + tokens.mean(0, keepdim=True)


class Idle(Shift):
    def enter(self, tokens, groups):
        return tokens


class Flat(Shift):
    def enter(self, tokens, groups):
        return super().enter(tokens, groups).flatten(0, 1)


class Longer(Shift):
    def enter(self, tokens, groups):
        return torch.cat((tokens, tokens), 2)


class Nothing(Shift):
    def enter(self, tokens, groups):
        pass


class Unused(Shift):
    def __init__(self, site):
        super().__init__(site)
        self.further = nn.Parameter(torch.zeros(site.num_groups, site.embed_dim))


class Outside(Added):
    in_block = False


class Staying(Shift):
    in_block = True

    def __init__(self, site):
        super().__init__(site)
        self.inner = [site.block.mlp["fc2"]]

    def enter(self, tokens, groups):
        with torch.no_grad():
            self.inner[0].bias += 1
        return super().enter(tokens, groups)


class Folding(Shift):
    folds = True

    def fold(self, block, group):
        pass


class NotFolding(Shift):
    folds = True


class Sticking(Shift):
    in_block = True

    def leave(self):
        raise KeyError("gone")


def kind(operation, num_parameters=lambda embed_dim, linears, options: embed_dim, **further):
    return OperationKind(operation, operation, num_parameters, **further)


@pytest.mark.parametrize("operation", [Shift, Added])
def test_right_operations_pass(operation):
    check_operation(kind(operation))


@pytest.mark.parametrize(
    ("operation", "rule"),
    [
        (Everywhere, r"enter must leave streams of group G, which stands for no group, as they are"),
        (Mixing, r"enter must act on each stream by itself"),
        (Idle, r"enter must change the tokens of a group whose parameters are not zero"),
        (Flat, r"enter must give tokens of shape \[3, 2, 5, 16\], got \[6, 5, 16\]"),
        (Longer, r"enter must give tokens of shape \[3, 2, 5, 16\], got \[3, 2, 10, 16\]"),
        (Nothing, r"enter must give tokens of shape \[3, 2, 5, 16\], got NoneType"),
        (Unused, r"num_parameters must count the parameters of one group: 2 have 64, got 32 for them"),
        (Outside, r"in_block must be true as well where lengthens is"),
        (Staying, r"leave must leave the block as it was|enter must act on each stream"),
        (Folding, r"fold must give a block that computes what group 0 did"),
        (NotFolding, r"fold must not fail, got NotImplementedError"),
        (Sticking, r"leave must not fail, got KeyError: 'gone'"),
        (nn.Identity, r"kind must be a class derived from LayerOperation"),
    ],
)
def test_a_mistake_is_named(operation, rule):
    with pytest.raises(BrokenRule, match=rf"^operation 'mine': ({rule}).*See docs/plugins\.md\.$") as caught:
        check_operation(kind(operation), name="mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (
            OperationKind(Shift, lambda _: nn.Identity(), lambda *_: 16),
            "build must give a Shift",
        ),
        (OperationKind(Shift, lambda _: 1 / 0, lambda *_: 16), "build must not fail, got ZeroDivisionError"),
        (kind(Shift, lambda *_: 1.5), "num_parameters must give a number, got 1.5"),
        (kind(Shift, lambda embed_dim: embed_dim), "num_parameters must not fail, got TypeError"),
        (kind(Shift, misfit=lambda *_: None), "misfit must give a sentence or nothing, got None"),
    ],
)
def test_a_mistake_around_the_module_is_named(made, rule):
    with pytest.raises(BrokenRule, match=rf"^operation 'mine': {rule}.*See docs/plugins\.md\.$"):
        check_operation(made, name="mine")
