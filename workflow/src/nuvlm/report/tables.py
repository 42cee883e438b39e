"""The published tables with this run beside them, for LaTeX."""

from collections.abc import Mapping
from typing import Any

from nuvlm.models.table import title
from nuvlm.report.wording import MISSING, interval, number, significant

QUANTITIES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "auc": "AUC"}
COSTS = {"peak_memory_mb": "Memory (MB)", "ms_per_sample": "Time (ms)"}
ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex_tables(numbers: Mapping[str, Any]) -> str:
    """Every published table whose condition is one of this run, for ``booktabs``; a comment alone without truth.

    Args:
        numbers: of report.json.
    """
    scores = numbers["scores"]
    reference = numbers["published"]["source"]["reference"]
    lines = [
        f"% Written by NuVLM, run {numbers['run']}. Needs \\usepackage{{booktabs}}.",
        "% In brackets: 95 % bootstrap intervals. Precision and recall are means over the classes.",
    ]
    main = next(iter(next(iter(scores.values()))))
    for table in numbers["published"]["tables"]:
        condition = table["condition"]
        told = {model: of_model[condition] for model, of_model in scores.items() if condition in of_model}
        if not told or not all(score["n"] for score in told.values()):
            lines.append(f"% Table {table['number']}: nothing was scored under {condition}.")
            continue
        costs = COSTS if condition == main and any("ms_per_sample" in row for row in table["rows"].values()) else {}
        n = next(iter(told.values()))["n"]
        lines += [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{escape(table['title'])}; this run: {n:,} test events. Published: {escape(reference)}.}}",
            f"  \\label{{tab:nuvlm-{table['number']}}}",
            f"  \\begin{{tabular}}{{ll{'l' * len(QUANTITIES)}{'r' * len(costs)}}}",
            r"    \toprule",
            _row("Model", "", *QUANTITIES.values(), *costs.values()),
            r"    \midrule",
        ]
        for model, score in told.items():
            values = [f"{number(score[name])} {interval(score[f'{name}_interval'])}" for name in QUANTITIES]
            spent = [significant(numbers["cost"][model][name]) for name in costs]
            lines.append(_row(title(model), "this run", *values, *spent))
            row = table["rows"].get(model)
            if row:
                values = [number(row[name], 2) for name in QUANTITIES]
                lines.append(_row("", "published", *values, *(significant(row.get(name)) for name in costs)))
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text for LaTeX: its signs are printed, not obeyed."""
    text = "".join(ESCAPED.get(sign, sign) for sign in text)
    return text.replace("\N{MINUS SIGN}", "$-$").replace(MISSING, "--")


def _row(*cells: str) -> str:
    return "    " + " & ".join(map(escape, cells)) + r" \\"
