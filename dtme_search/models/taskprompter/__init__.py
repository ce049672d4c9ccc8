"""TaskPrompter (Ye & Xu, ICLR 2023), ViT variant: task prompts go beside the patches through all blocks."""

from dtme_search.models.taskprompter.blocks import PromptBlock, PromptScores, TaskPrompts, windows_per_side
from dtme_search.models.taskprompter.decoder import LevelDecoder, PromptedMap, PrompterDecoder, PrompterHead

__all__ = [
    "LevelDecoder",
    "PromptBlock",
    "PromptScores",
    "PromptedMap",
    "PrompterDecoder",
    "PrompterHead",
    "TaskPrompts",
    "windows_per_side",
]
