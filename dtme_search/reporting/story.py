"""The findings of a study, in plain sentences made from its numbers: what helped, how much, how sure."""

from __future__ import annotations

import pandas as pd

from dtme_search.config import ModelConfig, RunConfig
from dtme_search.reporting.effects import Effect, effects, p_in_words
from dtme_search.reporting.measures import searched_table
from dtme_search.reporting.separation import separation_sentence
from dtme_search.reporting.study_data import StudyData
from dtme_search.reporting.tables import against
from dtme_search.search import confirmations, lead_of
from dtme_search.words import cell, doubted, heading

_LARGEST_OF_MANY = 5
"""Number of trials from which on selecting the best by one seed deserves a warning [ours]."""


def story(data: StudyData) -> list[str]:
    """Sentences about the result, the most important first."""
    if data.best is None:
        why = "No trial is finished" if data.complete.empty else "No finished trial is within the limits"
        return [f"{counts(data)} {why}, so there is no result yet."]
    told = [
        counts(data),
        _best(data, data.best),
        _searched(data, data.best),
        _against_unexpanded(data, data.best),
        _tasks(data, data.best),
        _price(data.best),
        _helped(data),
        separation_sentence(data),
        _conflicts(data),
        data.study.savings().sentence(),
        _doubts(data),
    ]
    return [text for text in told if text]


def counts(data: StudyData) -> str:
    """How many trials there are of each kind."""
    if data.trials.empty:
        return f"The study has no trials yet; {data.config.trials} are planned."
    found = data.kinds.replace({"front": "complete"}).value_counts()
    listed = ", ".join(f"{count} {_KIND_WORDS.get(str(kind), kind)}" for kind, count in found.items())
    return f"Of {data.config.trials} planned trials there are {listed}."


def subject(data: StudyData) -> str:
    """One sentence on what is searched, on which data, with which network."""
    config = data.run_config
    first = next(iter(data.runs.values()), None)
    searched = ", ".join(f"`{path}`" for path in data.config.search)
    if config is None or first is None:
        return f"Searched: {searched}."
    totals = [run.total_steps for run in data.runs.values() if run.total_steps is not None]
    steps = " to ".join(str(total) for total in dict.fromkeys((min(totals), max(totals)))) if totals else "no"
    seeds = sorted({run.seed for run in data.runs.values() if run.seed is not None})
    return (
        f"Every trial trains {_network(data, config)} on {_tasks_of(data)} of "
        f"`{config.data.name}` at "
        f"{config.data.image_size[0]}x{config.data.image_size[1]} for {steps} steps "
        f"({_plural(len(seeds), 'seed')}) and is measured on the {_split(first.split)} at "
        f"{_size_of_metrics(config)}. Searched: "
        f"{searched}. "
        f"Objectives: {objectives(data)}."
    )


def _tasks_of(data: StudyData) -> str:
    """Tasks of all trials; those that only some have are marked."""
    found = [RunConfig.model_validate_json(run.config).tasks for run in data.runs.values() if run.config]
    tasks = dict.fromkeys(task for each in found for task in each)
    return ", ".join(
        task if all(task in each for each in found) else f"{task} (in some trials)" for task in tasks
    )


def _network(data: StudyData, config: RunConfig) -> str:
    """Backbone, and its decoder if that is neither the simple one nor searched."""
    usual, model = ModelConfig(), config.model
    parts = [
        f"`{value}`"
        for name, value in (("architecture", model.architecture), ("decoder", model.decoder))
        if value != getattr(usual, name) and f"model.{name}" not in data.config.search
    ]
    return " with ".join((f"`{model.backbone}`", *parts[:1]))


def _size_of_metrics(config: RunConfig) -> str:
    return "the labels' own size" if config.data.score_at == "label" else "that size"


def objectives(data: StudyData) -> str:
    """Objectives and limits in words."""
    wanted = " and ".join(f"{verb} {heading(name)}" for name, verb in data.config.objectives.items())
    limits = ", ".join(f"{heading(name)} at most {limit:g}" for name, limit in data.config.limits.items())
    return f"{wanted}; limits: {limits}" if limits else wanted


def _best(data: StudyData, best: pd.Series) -> str:
    goal = next(iter(data.config.objectives))
    by = heading(goal)
    if best["delta_m_mean"] == best["delta_m_mean"]:
        by = f"{by} over new seeds"
    elif goal == "delta_m_percent" and pd.notna(best.get("expected_delta_m")):
        by = f"{by} expected over seeds ({best['expected_delta_m']:+.2f} %)"
    grown = f" (layers {best['layers']}" if set(best["layers"]) != {"."} else " (a network that never grew"
    start = f"{grown}{_grown_when(best['start'])})" if data.could_grow else ""
    text = f"The best feasible trial by {by} is **trial {best['trial']}**{start}: "
    if goal != "delta_m_percent" and goal in best:
        text += f"{heading(goal)} **{cell(goal, float(best[goal]))}**, "
    text += f"delta_m **{best['delta_m_percent']:+.2f} %** against {against(data.runs[best['trial']])}. "
    over_base = data.runs[best["trial"]].delta_m_base_percent
    if over_base is not None:
        text += f"Against the baselines of the base config, of one architecture, it is {over_base:+.2f} %. "
    seeds = best.get("num_seeds")
    if seeds is not None and seeds >= 1:
        spread = best["delta_m_std"]
        deviation = f" ± {spread:.2f}" if spread == spread else ""
        return text + (
            f"Trained again with {_plural(int(seeds), 'new seed')} it reached "
            f"**{best['delta_m_mean']:+.2f}{deviation} %**; expect this value, not the one from the search."
        )
    if len(data.feasible) >= _LARGEST_OF_MANY:
        return text + (
            f"It is the largest of {len(data.feasible)} values of one seed each, so luck is part of it: "
            "further seeds will most likely give less."
        )
    return text + "This is one seed."


def _grown_when(start: float) -> str:
    if start != start:
        return ""
    return f", grown after {start:.0%} of the training" if start else ", grown from the start"


def _against_unexpanded(data: StudyData, best: pd.Series) -> str:
    if not data.could_grow:
        return ""
    never = data.unexpanded.dropna(subset=["delta_m_percent"])
    if never.empty:
        return "No unexpanded network was trained in this study, so the effect of growth is unknown."
    reference = _reference(best, never)
    if reference["trial"] == best["trial"]:
        grew = len(data.feasible) > len(never)
        return "No grown network is better than the unexpanded one here." if grew else "No network grew here."
    difference = best["delta_m_percent"] - reference["delta_m_percent"]
    seed = _same_seed(data, best, reference)
    text = (
        f"That is {difference:+.2f} points relative to the network of {seed} that never grew "
        f"(trial {reference['trial']}, {reference['delta_m_percent']:+.2f} %)"
    )
    known = confirmations(data.study)
    first, second = (known.get(row["trial"]) for row in (best, reference))
    lead = (first and first.paired) or (lead_of(first, second) if first and second else None)
    if lead is None:
        return f"{text}; without two new seeds of both, **how much of it is chance is unknown**."
    verdict = (
        "is more than the noise between seeds" if abs(lead.points) > 2 * lead.standard_error else
        "**cannot be distinguished from the noise between seeds**"
    )  # fmt: skip
    return (
        f"{text}; compared seed by seed over the new seeds it is {lead.points:+.2f} with a standard error of "
        f"{lead.standard_error:.2f}: it {verdict}."
    )


def _same_seed(data: StudyData, best: pd.Series, reference: pd.Series) -> str:
    seeds = {data.runs[int(row["trial"])].seed for row in (best, reference)}
    return "the same seed" if len(seeds) == 1 else "another seed"


def _reference(best: pd.Series, never: pd.DataFrame) -> pd.Series:
    """The unexpanded trial that the best one is paired with, otherwise the best unexpanded one."""
    partner = best.get("paired_trial")
    paired = never[never["trial"] == partner]
    return (paired if len(paired) else never.sort_values("delta_m_percent")).iloc[-1]


def _tasks(data: StudyData, best: pd.Series) -> str:
    gains = {task: best.get(f"gain_{task}_percent") for task in data.tasks}
    known = {task: float(gain) for task, gain in gains.items() if gain is not None and gain == gain}
    if not known:
        return ""
    config = data.runs[int(best["trial"])].config
    if config is None or len(RunConfig.model_validate_json(config).tasks) == 1:
        return ""  # nothing was shared
    better = [f"{task} {gain:+.1f} %" for task, gain in known.items() if gain > 0]
    worse = [f"{task} {gain:+.1f} %" for task, gain in known.items() if gain <= 0]
    parts = [f"{', '.join(better)} {_agreeing(better, 'gain')} from sharing the network"] if better else []
    parts += [f"{', '.join(worse)} {_agreeing(worse, 'do')} not"] if worse else []
    each = "each against its own" if len(known) > 1 else "against its"
    return f"In that trial {'; '.join(parts)}, {each} single-task baseline."


def _agreeing(subjects: list[str], verb: str) -> str:
    return verb if len(subjects) > 1 else {"gain": "gains", "do": "does"}[verb]


def _searched(data: StudyData, best: pd.Series) -> str:
    """Values of the best trial that no other sentence mentions."""
    _, rows = searched_table(data.study, data.trials, [int(best["trial"])])
    listed = ", ".join(f"`{path}` {value}" for path, value in rows)
    return f"Its searched values: {listed}." if listed else ""


def _price(best: pd.Series) -> str:
    ratio = best["step_cost_ratio"]
    if not best["param_overhead_percent"]:
        return ""
    text = (
        f"It adds {best['param_overhead_percent']:.3f} % parameters; each step costs as much as "
        f"{ratio:.2f} unexpanded steps"
    )
    if ratio <= 1.05:
        return f"{text}."
    return f"{text}, so at equal compute the unexpanded network could train {100 * (ratio - 1):.0f} % longer."


def _helped(data: StudyData) -> str:
    found = effects(data)
    if not found:
        return "There are too few trials of each choice to say which of them helped."
    sure = [effect for effect in found if effect.is_distinguishable]
    if not sure:
        return (
            f"**None of the {len(found)} comparable choices is associated with delta_m beyond "
            f"chance** (rank tests over {found[0].num_trials} trials, corrected for their number; the "
            "closest is "
            f"`{found[0].parameter}`, {p_in_words(found[0].p_value)})."
        )
    rest = len(found) - len(sure)
    others = f" {_plural(rest, 'other choice')} cannot be distinguished from chance." if rest else ""
    return f"Associated with a better delta_m: {'; '.join(map(effect_words, sure[:5]))}.{others}"


def effect_words(effect: Effect) -> str:
    """An effect as part of a sentence."""
    if effect.best in ("more", "less"):
        thirds = f"upper against lower third {effect.difference:+.2f} points"
        how = f"{effect.best} of `{effect.parameter}` ({thirds}"
    else:
        how = (
            f"`{effect.parameter}` {effect.best} rather than {effect.worst} ({effect.difference:+.2f} points"
        )
    return f"{how}, {p_in_words(effect.p_value)})"


def _conflicts(data: StudyData) -> str:
    if data.conflicts.empty:
        return ""
    by_layer = data.conflicts.groupby("layer")[["range_percent", "null_percent"]].mean()
    parts = []
    for space in ("range", "null"):
        rates = by_layer[f"{space}_percent"]
        if rates.max() - rates.min() < 0.05:
            parts.append(f"in the {space} space {rates.mean():.1f} % at every layer")
            continue
        parts.append(
            f"in the {space} space from {rates.min():.1f} % (layer {rates.idxmin()}) to {rates.max():.1f} % "
            f"(layer {rates.idxmax()})"
        )
    return (
        f"Tasks conflict at a similar share of tokens everywhere: {' and '.join(parts)}."
        if _is_flat(by_layer)
        else f"The share of tokens at which tasks conflict varies: {'; '.join(parts)}."
    )


def _is_flat(by_layer: pd.DataFrame) -> bool:
    return bool((by_layer.max() - by_layer.min()).max() < 1.0)


def _doubts(data: StudyData) -> str:
    doubtful = data.complete[data.complete["dead_tasks"] != ""]
    if doubtful.empty:
        return ""
    tasks = sorted({task for tasks in doubtful["dead_tasks"] for task in tasks.split(",")})
    return (
        f"**{_plural(len(doubtful), 'trial')} of {len(data.complete)} should not be trusted**: "
        f"{doubted(tasks)} a guess that ignores the image, in the baseline or in the trial."
    )


_KIND_WORDS = {
    "infeasible": "above a limit",
    "taken over": "reused from equal work",
}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _split(split: str | None) -> str:
    return "hold-out" if split == "holdout" else f"{split or 'hold-out'} split"
