"""TaskPrompter (Ye & Xu, ICLR 2023), ViT variant: task prompts pass through all blocks beside the patches."""

from dtme_search.models.taskprompter.blocks import PromptBlock
from dtme_search.models.taskprompter.kind import (
    PrompterOptions,
    build_prompter,
    check_prompter,
    prompted_backbone,
)

__all__ = ["PromptBlock", "PrompterOptions", "build_prompter", "check_prompter", "prompted_backbone"]
