"""The README and the pages are true: code runs, commands and flags exist, tables are those of the parsers."""

import re
import shlex
import subprocess
import sys
from functools import partial

import pytest
from support.data import write_image
from support.own import write_features, write_photos
from support.places import ROOT

import head_flags
from covariance_rules import RULES
from harness import training_flags
from harness.command_flags import LARGE_NAMES, CifarTestFlags, PredictFlags
from harness.flag_parser import declared, parse_flags
from heads.feature_scale import TRANSFORMS
from heads.own_flags import parse_own
from heads.run_flags import PRETRAINED, HeadWords
from heads.ways import RECIPE, WAYS
from scripts.flags_page import page

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
LARGE = ROOT / "ImageNet_iNat"
PARSERS = {
    **dict.fromkeys(("MetaSAug_LDAM_train.py", "MetaSAug_CE_train.py"), training_flags.parse_training),
    "train_own.py": parse_own, "MetaSAug_test.py": partial(parse_flags, CifarTestFlags),
    "ImageNet_iNat/train.py": head_flags.parse_training, "ImageNet_iNat/test.py": head_flags.parse_test,
}  # fmt: skip


def blocks_of(text):
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


BLOCKS = blocks_of(README)


def commands(blocks=BLOCKS):
    for language, block in blocks:
        if language == "":
            yield from (shlex.split(line) for line in block.splitlines() if line.startswith(("python3 ", "sh ", "make ")))


OWN_DATA = blocks_of(PAGES["own_data.md"])


def quickly(words):
    """A command of the page as the test runs it: few epochs, and for a network that is downloaded the small one there is."""
    words = [*words]
    for flag, value in (("--backbone", ["--backbone", "tiny:make", "--image_size", "32"]), ("--pretrained", [])):
        if flag in words:
            at = words.index(flag)
            words[at : at + 2] = value
    if "new_photographs" in words or "--export" in words:
        words += ["--arch", "tiny:make"]
    if words[1].endswith("_train.py"):
        words += ["--epochs", "2", "--no-cuda", *(["--arch", "resnet8"] if "--arch" not in words else [])]
    if words[1].endswith("_own.py"):
        words += ["--no-cuda", "--workers", "0"]
        words += ["--ways", "nearest_mean"] if words[1].endswith("compare_own.py") else ["--epochs", "2", "--num_meta", "2"]
    return words


def test_own_images_as_written(run, tmp_path):
    for split, number in (("train", 16), ("test", 3)):
        for k, name in enumerate(("cat", "dog", "owl")):
            for i in range(number - 2 * k * (split == "train")):
                write_image(tmp_path / "my_images" / split / name / f"{i}.png", 10 * k + i % 3)
    write_photos(tmp_path)
    (tmp_path / "my_network.py").rename(tmp_path / "tiny.py")
    (tmp_path / "photos").rename(tmp_path / "photographs")
    (tmp_path / "new_photographs").symlink_to("photographs")
    write_features(tmp_path / "embeddings.npz", [20, 12, 5])
    network, _ = (block for language, block in OWN_DATA if language == "python" and "num_classes" in block)
    (tmp_path / "my_network.py").write_text(network)
    outs = [run(*quickly(words)[1:]).stdout for words in commands(OWN_DATA)]
    assert any("wrote report_mine/report.html" in out and "| run | last (1)" in out for out in outs)
    assert [out for out in outs if "wrote predictions.csv: 32 rows" in out]
    assert [out for out in outs if out.startswith("wrote checkpoint/ours/own/head_last.onnx: logits of made-up inputs")]
    assert [out for out in outs if re.search(r"To train it on all the images: python3 \S*train_own\.py ", out)]
    assert outs[-1].startswith("my_images/test/cat/0.png\t")


def test_own_network_as_written(tmp_path):
    _, block = (block for language, block in OWN_DATA if language == "python" and "num_classes" in block)
    use = """
images, labels = torch.randn(9, 3, 32, 32), torch.arange(9) % 3
before = torchvision.models.resnet18(num_classes=3).state_dict()
trained = train([(images, labels)] * 2, [(images[:6], labels[:6])] * 2, [40, 9, 3], epochs=2)
assert trained.state_dict().keys() == before.keys()
assert all(bool(torch.isfinite(w).all()) for w in trained.parameters())
"""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}\n{use}"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert len(re.findall(r"^epoch \d: loss [\d.]+, meta loss [\d.]+$", result.stdout, re.M)) == 2


def test_commands_name_scripts_and_flags_that_exist():
    seen = [(ROOT, words) for text in (README, *PAGES.values()) for words in commands(blocks_of(text))]
    seen += [(LARGE, words) for words in commands(blocks_of((LARGE / "README.md").read_text()))]
    assert len(seen) >= 23
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    for room, words in seen:
        if words[0] == "make":
            assert words[1] in targets
            continue
        at = next(k for k, word in enumerate(words) if word.endswith((".py", ".sh")))
        assert (room / words[at]).is_file(), words
        parse = PARSERS.get((room / words[at]).relative_to(ROOT).as_posix())
        if parse and not {"stripes", "scale"} & {*words}:  # docs/extending.md makes these
            parse(words[at + 1 :])


def test_the_page_of_flags_is_made_of_their_declarations():
    assert PAGES["flags.md"] == page() + "\n", "python3 scripts/flags_page.py > docs/flags.md"


def test_choices_of_the_flags_are_those_of_what_they_choose():
    """They are declared where nothing that takes long is loaded."""
    flags = {one.name: one.metadata["settings"] for of in (HeadWords, PredictFlags) for one in declared(of)}
    sources = {"meta_update": RULES, "way": [*WAYS, RECIPE], "transform": TRANSFORMS, "dataset": LARGE_NAMES}
    for name, source in sources.items():
        assert [*flags[name]["choices"]] == [*source], name
    assert tuple(PRETRAINED) == LARGE_NAMES


SCRIPTS = [path for room in ("", "scripts", "ImageNet_iNat") for path in (ROOT / room).glob("*.py")]
HELPED = [path for path in SCRIPTS if "help_of=" in path.read_text()]
LOADED = """
import runpy, sys
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
finally:
    assert {"torch", "numpy", "PIL"}.isdisjoint(sys.modules)
"""


@pytest.mark.parametrize("script", HELPED, ids=[path.name for path in HELPED])
def test_help_comes_at_once(script):
    result = subprocess.run([sys.executable, "-c", LOADED, script, "--help"], capture_output=True, text=True, check=True)
    assert "\ndata:\n" in result.stdout or script.name == "compare_own.py"


def test_readme_is_short():
    assert len(README.split()) <= 1200


def test_nothing_is_left_to_fill_in_and_links_lead_somewhere():
    pages = [ROOT / "README.md", LARGE / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "results").glob("*.md")]
    for path in pages:
        text = path.read_text()
        assert "@" + "@" not in re.sub(r"```diff.*?```", "", text, flags=re.S), path
        assert "TABLE" not in text, path
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (path.parent / target).exists(), target
    for name in PAGES:
        assert f"docs/{name}" in README, name


def test_the_layout_names_what_stands_in_the_root():
    layout = PAGES["extending.md"][PAGES["extending.md"].index("## Layout") :]
    for path in ROOT.glob("*.py"):
        assert f"`{path.name}`" in layout, path.name
    for folder in re.findall(r"`(\w+)/`", layout):
        assert (ROOT / folder).is_dir(), folder


def test_the_tests_that_hold_a_promise_exist():
    page = PAGES["reliability.md"]
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert named <= there
    assert all((ROOT / file).is_file() for file in re.findall(r"`(tests/[\w/]+\.py)`", page))
