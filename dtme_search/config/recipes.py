"""With what the single-task baselines of a run are trained, and how a delta_m against them is described."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dtme_search.config.section import Section

Value = bool | int | float | str | None


class BaselineRecipes(Section):
    """How the single-task baselines of a run are trained; set by a study, see its ``baselines``."""

    rule: Literal["same", "base", "tuned"] = "same"
    """same: as the run itself. base: as the study's base config. tuned: the best of several recipes."""
    tried: Annotated[int, Field(ge=1)] | None = None
    """tuned: recipes that were tried for each task."""
    recipes: dict[str, dict[str, Value]] = {}
    """base, tuned: task -> dotted path -> value, where the baseline of the task differs from this run."""

    def in_words(self) -> str:
        """What a delta_m is against, to be read after "against".

        Example:
            >>> BaselineRecipes().in_words()
            'single-task baselines of the same recipe'
            >>> BaselineRecipes(rule="tuned", tried=8).in_words()
            'single-task baselines tuned over 8 recipes each'
            >>> BaselineRecipes(rule="base", recipes={"depth": {"train.lr": 0.1}}).in_words()
            "single-task baselines of the base recipe (train.lr 0.1), not of the trial's own"
        """
        if self.rule == "same":
            return "single-task baselines of the same recipe"
        if self.rule == "tuned":
            return f"single-task baselines tuned over {self.tried} recipes each"
        values = {path: value for recipe in self.recipes.values() for path, value in recipe.items()}
        listed = ", ".join(f"{path} {'empty' if value is None else value}" for path, value in values.items())
        return f"single-task baselines of the base recipe ({listed}), not of the trial's own"
