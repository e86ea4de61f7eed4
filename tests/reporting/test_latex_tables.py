"""The table of a paper, read back as LaTeX would read it."""

import re
import statistics
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_runs import made_run

from harness.text import printable
from reporting.latex_tables import escaped_latex, latex_table

PRINTED = {  # what stands in a text, and what LaTeX prints for it
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textasciigrave{}": "`",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"{\char34}": '"', "{[}": "[", "{]}": "]", "{*}": "*",
    **{f"\\{letter}": letter for letter in "_&%$#{}"}, "{}": "",
    r"$\lambda$": "λ", r"$\Sigma$": "Σ", r"$\pm$": "±", r"$\mathrm{A}$": "Α", r"$o$": "ο", r"\textendash{}": "–",
}  # fmt: skip
TOKEN = re.compile("|".join(map(re.escape, sorted(PRINTED, key=len, reverse=True))) + "|.", re.DOTALL)


def printed(text):
    """What LaTeX prints; a letter with a meaning of its own that stands alone is refused."""
    found = []
    for token in TOKEN.findall(text):
        assert token in PRINTED or token not in '\\_&%$#{}~^`<>|"[]*', token
        found.append(PRINTED.get(token, token))
    return "".join(found)


def rows_of(table):
    """The cells of each row; braces are balanced in each, and a row of one cell spans all columns."""
    assert table.endswith("\\bottomrule\n\\end{tabular}\n")
    lines = [line for line in table.splitlines() if not line.startswith("%")]
    (columns,) = re.fullmatch(r"\\begin\{tabular\}\{l(c+)\}", lines[0]).groups()
    rows = []
    for line in lines[1:-1]:
        if line in (r"\toprule", r"\midrule", r"\bottomrule"):
            continue
        assert line.endswith(r" \\")
        bare = re.sub(r"\\[{}&%\\]", "", line)
        assert bare.count("{") == bare.count("}")
        depth = 0
        for letter in bare:
            depth += (letter == "{") - (letter == "}")
            assert depth >= 0
        assert not re.match(r"\s*[\[*]", line)  # would be of the end of the line before
        cells = re.split(r"(?<!\\) & ", line[:-3])
        spans = re.match(r"\\multicolumn\{(\d+)\}\{l\}\{\\emph\{(.*)\}\}$", line[:-3])
        assert int(spans[1]) == len(columns) + 1 if spans else len(cells) == len(columns) + 1
        rows.append([printed(spans[2])] if spans else cells)
    return rows


def cifar(values, **flags):
    """A run a seed, of accuracies by seed; imb_factor and stage 2 are flags."""
    name = " ".join(str(flags.get(key)) for key in ("dataset", "stage2", "imb_factor", "lam"))
    return [made_run(f"{name} {seed}", seed, figures={"acc1": value}, **flags) for seed, value in values.items()]


def test_ratios_are_columns_methods_rows_and_what_is_beyond_chance_is_bold():
    runs = []
    for factor, base in ((0.01, 40.0), (0.1, 60.0), (0.005, 30.0)):  # out of order; other class sizes at each
        shared = {"imb_factor": factor, "counts": (500, 60, round(500 * factor))}
        runs += cifar({1: base, 2: base + 1, 3: base + 0.2}, stage2="isda", **shared)
        runs += cifar({1: base + 5, 2: base + 5.9, 3: base + 5.3}, stage2="metasaug", **shared)
    runs += cifar({1: 9.0, 2: 8.0, 3: 50.0}, stage2="metasaug", imb_factor=0.1, dataset="cifar100", counts=(500, 60, 50))
    runs += cifar({1: 9.5, 2: 8.2, 3: 40.0}, stage2="isda", imb_factor=0.1, dataset="cifar100", counts=(500, 60, 50))
    table = latex_table(runs)
    head, *rows = rows_of(table)
    assert head == [r"top-1 accuracy in \%, by imbalance ratio", "200", "100", "10"]
    deviations = [statistics.stdev(values) for values in ([0, 1, 0.2], [0, 0.9, 0.3])]
    isda, metasaug = (f"_{{\\pm {deviation:.1f}}}$" for deviation in deviations)
    assert rows[:3] == [
        ["cifar10"],
        ["isda", f"$30.4{isda}", f"$40.4{isda}", f"$60.4{isda}"],
        ["metasaug", *(f"$\\mathbf{{{value}}}{metasaug}" for value in ("35.4", "45.4", "65.4"))],
    ]
    noise = [statistics.stdev(values) for values in ([9, 8, 50], [9.5, 8.2, 40])]
    assert rows[3:] == [
        ["cifar100"],
        ["metasaug", "--", "--", f"$22.3_{{\\pm {noise[0]:.1f}}}$"],
        ["isda", "--", "--", f"$19.2_{{\\pm {noise[1]:.1f}}}$"],
    ]
    assert "over seeds, n = 3." in table
    errors = rows_of(latex_table(runs, "error"))
    assert errors[0][0] == r"top-1 error in \%, by imbalance ratio"
    assert errors[2] == ["isda", f"$69.6{isda}", f"$59.6{isda}", f"$39.6{isda}"]
    assert errors[3][1] == f"$\\mathbf{{64.6}}{metasaug}"
    assert latex_table(runs, "error").startswith("% Top-1 error in per cent")


def test_one_run_has_no_deviation_and_n_is_said_where_it_is_not_one():
    runs = [*cifar({1: 40.0}, stage2="none"), *cifar({1: 50.0, 2: 52.0}, stage2="isda")]
    table = latex_table(runs)
    assert rows_of(table)[2:] == [["none", "$40.0$"], ["isda", "$51.0_{\\pm 1.4}$"]]
    assert "over seeds, n = 2, but cifar10, none, 100: 1." in table


def test_sets_without_a_ratio_have_one_column():
    own = {"imb_factor": None, "dataset": "custom", "data_root": "/photos/my_birds & co", "counts": (9, 8, 7)}
    runs = [*cifar({1: 40.0}, stage2="none", **own), *cifar({1: 50.0}, stage2="isda", **own)]
    assert rows_of(latex_table(runs))[:2] == [["method", r"top-1 accuracy in \%"], ["custom my_birds & co"]]
    assert rows_of(latex_table(runs, "error"))[0] == ["method", r"top-1 error in \%"]
    head, *rows = rows_of(latex_table([*runs, *cifar({1: 10.0}, stage2="isda")]))
    assert head == [r"top-1 accuracy in \%, by imbalance ratio", "100", "natural"]
    assert [row[1:] for row in rows] == [[], ["--", "$40.0$"], ["--", "$50.0$"], [], ["$10.0$", "--"]]


def test_sets_of_one_name_and_other_class_sizes_are_blocks_of_their_own():
    runs = [*cifar({1: 40.0}, counts=(9, 8, 7)), *cifar({1: 50.0}, counts=(9, 8, 7, 6))]
    titles = [row[0] for row in rows_of(latex_table(runs)) if len(row) == 1]
    assert len(titles) == 2
    assert titles[0] == "cifar10"
    assert "4 classes" in titles[1]


def test_uneven_test_sets_show_the_mean_over_classes():
    run = made_run("a", 1, (9, 8), tested=([0] * 90 + [1] * 10, [0] * 100))
    other = made_run("b", 1, (9, 8), tested=([0] * 90 + [1] * 10, [1] * 100), stage2="isda")
    table = rows_of(latex_table([run, other]))
    assert table[1:] == [["cifar10, mean over classes"], ["a", "$50.0$"], ["b", "$50.0$"]]


def test_rows_are_named_by_flags_where_the_names_of_runs_differ_from_ratio_to_ratio():
    runs = [run for factor in (0.1, 0.01) for stage2 in ("isda", "none") for lam in (0.5, 0.75)
            for run in cifar({1: 40.0}, stage2=stage2, imb_factor=factor, lam=lam)]  # fmt: skip
    names = [row[0] for row in rows_of(latex_table(runs))[2:]]
    assert names == ["isda lam 0.5", "isda lam 0.75", "none", "none (2)"]


@given(st.text(st.sampled_from("ab_&%$#{}~^\\`'\",-<>|[]* \n日ז🦜λΣ±Αο–"), max_size=12))
def test_any_text_is_printed_letter_by_letter(text):
    escaped = escaped_latex(text)
    assert printed(escaped) == printable(text)
    assert not re.search(r"--|''|,,", escaped)


@pytest.mark.parametrize("name", ["[0.5]", "*", "a & b_1 100% $x$ #2 {c} ~ ^ \\", "日本語", "a\\\\", "%", "x\ny"])
def test_names_of_runs_may_be_anything(name):
    table = rows_of(latex_table([*cifar({1: 1.0}, stage2="none"), made_run(name, 1, figures={"acc1": 2.0})]))
    assert printed(table[-1][0]) == printable(name)


def with_name(name):
    return latex_table([*cifar({1: 1.0}, stage2="none"), made_run(name, 1, figures={"acc1": 2.0})])


def test_greek_is_for_pdflatex_and_other_scripts_ask_for_another_one():
    greek = with_name("λ = 0.5 ± 0.1, Σ")
    assert r"$\lambda$ = 0.5 $\pm$ 0.1, $\Sigma$ & $2.0$ \\" in greek.splitlines()
    assert greek.isascii()
    assert "XeLaTeX" not in greek
    assert "XeLaTeX" not in with_name("café")
    other = with_name("日本")
    assert "% Names have letters that pdfLaTeX does not print: use XeLaTeX or LuaLaTeX" in other
    assert escaped_latex("αωΓΩ") == r"$\alpha$$\omega$$\Gamma$$\Omega$"
    alphabet = "".join(chr(k) for k in range(0x391, 0x3CA) if " WITH " not in unicodedata.name(chr(k), " WITH "))
    assert escaped_latex(alphabet).isascii()
    assert len({escaped_latex(letter) for letter in alphabet}) == len(alphabet)
