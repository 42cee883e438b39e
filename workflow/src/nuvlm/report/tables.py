"""LaTeX tables: this run next to the published results."""

from collections.abc import Mapping, Sequence
from typing import Any

from nuvlm.models.table import title
from nuvlm.report.schema import SCORES
from nuvlm.report.wording import MISSING, interval, number, significant

COSTS = {"peak_memory_mb": "Memory (MB)", "ms_per_sample": "Time (ms)"}
ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex_tables(numbers: Mapping[str, Any]) -> str:
    """Write each published table whose condition the run has, for ``booktabs``; without truth only a comment.

    Args:
        numbers: content of report.json.
    """
    scores = numbers["scores"]
    published = numbers["published"]
    source = published["source"]
    lines = [
        f"% Written by NuVLM, run {numbers['run']}. Needs \\usepackage{{booktabs}}.",
        "% In brackets: 95 % bootstrap intervals from test events. Precision and recall are means over the classes.",
    ]
    main = next(iter(next(iter(scores.values()))))
    for table in published["tables"]:
        condition = table["condition"]
        shown = {model: of_model[condition] for model, of_model in scores.items() if condition in of_model}
        if not shown or not all(score["n"] for score in shown.values()):
            lines.append(f"% Table {table['number']}: no scores under {condition}.")
            continue
        rows = table["rows"]
        measured = any("ms_per_sample" in row for of_model in rows.values() for row in of_model)
        costs = COSTS if condition == main and measured else {}
        n = next(iter(shown.values()))["n"]
        versions = "; ".join(f"{version}: {origin}" for version, origin in source["versions"].items())
        caption = f"{table['title']}; this run: {n:,} test events. Published: {source['reference']}; {versions}."
        lines += [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escape(caption)}}}",
            f"  \\label{{tab:nuvlm-{table['number']}}}",
            f"  \\begin{{tabular}}{{ll{'l' * len(SCORES)}{'r' * len(costs)}}}",
            r"    \toprule",
            _row("Model", "", *SCORES.values(), *costs.values()),
            r"    \midrule",
        ]
        for model in [*shown, *(model for model in rows if model not in shown)]:
            name_of_model = title(model)
            if model in shown:
                score = shown[model]
                values = [f"{number(score[name])} {interval(score[f'{name}_interval'])}" for name in SCORES]
                spent = [significant(numbers["cost"][model][name]) for name in costs]
                lines.append(_row(name_of_model, "this run", *values, *spent))
                lines += _of_trainings(numbers["trainings"][model], condition, [""] * len(costs))
                name_of_model = ""
            for row in rows.get(model, []):
                values = [number(row.get(name), 2) for name in SCORES]
                spent = [significant(row.get(name)) for name in costs]
                lines.append(_row(name_of_model, f"published, {row['version']}", *values, *spent))
                name_of_model = ""
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _of_trainings(trainings: Mapping[str, Any], condition: str, spent: Sequence[str]) -> list[str]:
    """Rows of the mean and of the ensemble of several trainings."""
    several = trainings["conditions"].get(condition)
    if several is None:
        return []
    spreads = [several["scores"][name] for name in SCORES]
    means = [f"{number(of_score['mean'])} ± {number(of_score['deviation'])}" for of_score in spreads]
    together = several["ensemble"]
    ensemble = [f"{number(together[name])} {interval(together[f'{name}_interval'])}" for name in SCORES]
    return [
        _row("", f"mean of {trainings['n']} trainings", *means, *spent),
        _row("", f"ensemble of {trainings['n']}", *ensemble, *spent),
    ]


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    text = "".join(ESCAPED.get(sign, sign) for sign in text)
    return text.replace("\N{MINUS SIGN}", "$-$").replace("±", r"$\pm$").replace(MISSING, "--")


def _row(*cells: str) -> str:
    return "    " + " & ".join(map(escape, cells)) + r" \\"
