"""The table of a paper: methods by imbalance ratio, a block for each data set, for LaTeX with the package booktabs."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.metrics import PER_CLASS_MEAN
from harness.text import printable
from reporting.comparisons import figure_of_run
from reporting.finished_runs import FinishedRun, grouped, long_tails
from reporting.group_names import SAY_ALONE
from reporting.rankings import better_than_all, main_figure

Measure = Literal["accuracy", "error"]
ABSENT = "--"  # a dash
ESCAPED = {
    **{letter: f"\\{letter}" for letter in "_&%$#{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "[": "{[}",  # after the end of a line [ and * are of its command
    "]": "{]}",
    "*": "{*}",
}
# What prints these letters in mathematics, for pdfLaTeX prints none of them in text.
GREEK = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "ϵ": r"\epsilon", "ζ": r"\zeta",
    "η": r"\eta", "θ": r"\theta", "ϑ": r"\vartheta", "ι": r"\iota", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu",
    "µ": r"\mu", "ν": r"\nu", "ξ": r"\xi", "ο": "o", "π": r"\pi", "ρ": r"\rho", "ς": r"\varsigma", "σ": r"\sigma",
    "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi", "ϕ": r"\phi", "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega",
    "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda", "Ξ": r"\Xi", "Π": r"\Pi", "Σ": r"\Sigma",
    "Υ": r"\Upsilon", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
    **{letter: rf"\mathrm{{{latin}}}" for letter, latin in zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True)},
}  # fmt: skip
SIGNS = {
    "±": r"\pm", "×": r"\times", "·": r"\cdot", "÷": r"\div", "−": "-", "≤": r"\le", "≥": r"\ge", "≠": r"\ne",
    "≈": r"\approx", "→": r"\to", "←": r"\leftarrow", "∞": r"\infty", "∑": r"\sum", "∇": r"\nabla", "∈": r"\in",
    "°": r"^\circ", "²": "^2", "³": "^3",
}  # fmt: skip
ESCAPED.update({letter: f"${command}$" for letter, command in {**GREEK, **SIGNS}.items()})
ESCAPED.update({
    letter: f"\\text{name}{{}}" for letter, name in {
        "–": "endash", "—": "emdash", "…": "ellipsis", "‘": "quoteleft", "’": "quoteright", "“": "quotedblleft",
        "”": "quotedblright",
    }.items()
})  # fmt: skip
LAST_LATIN = "\u024f"  # later letters are none that pdfLaTeX prints
LIGATURES = ("--", "''", ",,")


@dataclass
class DataSetBlock:
    """A data set: for each imb_factor, or None, the groups of runs by the flags that they share, without imb_factor."""

    title: str
    columns: dict[float | None, dict[str, list[FinishedRun]]] = field(default_factory=dict)
    bold: dict[float | None, str | None] = field(default_factory=dict)  # the row that is better than every other, if any
    figures: dict[float | None, str] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)  # of each row, in the columns


def escaped_latex(text: str) -> str:
    """Return a text as LaTeX prints it letter by letter; Greek in mathematics; other scripts pass through."""
    escaped = "".join(ESCAPED.get(letter, letter) for letter in printable(text))
    for pair in LIGATURES:
        escaped = re.sub(f"{pair[0]}(?={pair[0]})", f"{pair[0]}{{}}", escaped)
    return escaped


def row_of(group: Sequence[FinishedRun]) -> str:
    """Return what the groups of one method have in common at all ratios."""
    return json.dumps({key: value for key, value in group[0].flags.items() if key != "imb_factor"}, sort_keys=True)


def find_blocks(runs: Iterable[FinishedRun]) -> list[DataSetBlock]:
    """Return the data sets in order, the rows of each in the order of the runs."""
    blocks: list[DataSetBlock] = []
    for title, own in long_tails(runs).items():
        flags, groups = own[0].flags, grouped(own)
        dataset, factor = str(flags.get("dataset")), flags.get("imb_factor")
        block = next((one for one in blocks if one.title == dataset and factor not in one.columns), None)
        if block is None:
            block = DataSetBlock(title if any(one.title == dataset for one in blocks) else dataset)
            blocks.append(block)
        key = main_figure(groups)
        best, column = better_than_all(groups, key), dict[str, list[FinishedRun]]()
        for name, group in groups.items():
            row, number = row_of(group), 1
            while row in column:  # a second run of the same seed, or the same flags with other images
                number += 1
                row = f"{row_of(group)} ({number})"
            column[row] = group
            block.names.setdefault(row, set()).add(name)
            if name == best:
                block.bold[factor] = row
        block.columns[factor], block.figures[factor] = column, key
    return blocks


def row_names(block: DataSetBlock) -> dict[str, str]:
    """Return the name of each row: that of its group where it is one at all ratios, else the flags that tell rows apart."""
    names = {row: next(iter(found)) for row, found in block.names.items() if len(found) == 1}
    if len(names) == len(block.names) == len({*names.values()}) and len(names) > 1:
        return names
    flags = {row: next(column[row][0].flags for column in block.columns.values() if row in column) for row in block.names}
    known = {key: None for own in flags.values() for key in own if key != "imb_factor"}  # in order
    telling = [key for key in known if len({str(own[key]) for own in flags.values() if key in own}) > 1]
    found: dict[str, str] = {}
    for row, own in flags.items():
        keys = [key for key in telling if key in own] or [key for key in ("loss", "stage2") if own.get(key)]
        words = " ".join(str(own[key]) if key in SAY_ALONE else f"{key} {own[key]}" for key in keys)
        number = sum(name == words or name.startswith(f"{words} (") for name in found.values())
        found[row] = f"{words} ({number + 1})" if number else words
    return found


def cell(runs: Sequence[FinishedRun], key: str, measure: Measure, bold: bool) -> str:
    """Return mean and standard deviation (n − 1) of the last epoch, the mean alone of one run."""
    values = [value for run in runs if not math.isnan(value := figure_of_run(run, key))]
    if not values:
        return ABSENT
    mean = statistics.fmean(values)
    shown = f"{100 - mean if measure == 'error' else mean:.1f}"
    spread = f"_{{\\pm {statistics.stdev(values):.1f}}}" if len(values) > 1 else ""
    return f"$\\mathbf{{{shown}}}{spread}$" if bold else f"${shown}{spread}$"


def block_lines(block: DataSetBlock, order: Sequence[float | None], measure: Measure) -> list[str]:
    """Return the lines of a data set: its name over all columns, then its rows."""
    over_classes = PER_CLASS_MEAN in block.figures.values()
    remark = ", mean over classes" if over_classes else ""
    lines = [rf"\multicolumn{{{len(order) + 1}}}{{l}}{{\emph{{{escaped_latex(block.title)}{remark}}}}} \\"]
    for row, name in row_names(block).items():
        cells = []
        for factor in order:
            runs = block.columns.get(factor, {}).get(row)
            bold = block.bold.get(factor) == row
            cells.append(ABSENT if runs is None else cell(runs, block.figures[factor], measure, bold))
        lines.append(" & ".join([escaped_latex(name), *cells]) + r" \\")
    return lines


def seeds_words(blocks: Sequence[DataSetBlock]) -> str:
    """Return n, by cell where it is not one for all."""
    sizes = [(f"{block.title}, {row_names(block)[row]}" + ("" if factor is None else f", {1 / factor:g}"), len(group))
             for block in blocks for factor, column in block.columns.items() for row, group in column.items()]  # fmt: skip
    if len({size for _, size in sizes}) < 2:
        return f"n = {sizes[0][1] if sizes else 0}"
    most = max(size for _, size in sizes)
    fewer = "; ".join(f"{escaped_latex(name)}: {size}" for name, size in sizes if size < most)
    return f"n = {most}, but {fewer}"


def latex_table(runs: Iterable[FinishedRun], measure: Measure = "accuracy") -> str:
    """Return the table of the last epoch in per cent; bold is what is better than every other row beyond chance.

    The accuracy is the mean over classes where a test set is uneven.
    """
    blocks = find_blocks(runs)
    factors = {factor for block in blocks for factor in block.columns}
    order = [*sorted(factor for factor in factors if factor is not None), *([None] if None in factors else [])]
    ratios = [f"{1 / factor:g}" if factor is not None else "natural" for factor in order]
    figures = rf"top-1 {measure} in \%"
    head = f"method & {figures}" if order == [None] else f"{figures}, by imbalance ratio & {' & '.join(ratios)}"
    rows = [line for block in blocks for line in (r"\midrule", *block_lines(block, order, measure))]
    beyond = any(letter > LAST_LATIN for line in rows for letter in line)
    lines = [
        f"% Top-1 {measure} in per cent, last epoch: mean and standard deviation (n - 1) over seeds, {seeds_words(blocks)}.",
        "% Bold: better than every other row of its block and column beyond chance, each by its 95 % interval: paired over",
        "% common seeds (Student's t), by bootstrap over the test images where there are none. Needs booktabs.",
        *["% Names have letters that pdfLaTeX does not print: use XeLaTeX or LuaLaTeX, with a font that has them."] * beyond,
        rf"\begin{{tabular}}{{l{'c' * len(order)}}}",
        r"\toprule",
        rf"{head} \\",
        *rows,
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
