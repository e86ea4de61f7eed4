"""The README is true: its code runs, its commands name scripts and flags that exist, its tables are the published ones."""

import re
import shlex
import subprocess
import sys

from conftest import ROOT
from test_imagenet_cli import write_image

import head_options
import options

README = (ROOT / "README.md").read_text()
LARGE = ROOT / "ImageNet_iNat"
LARGE_README = (LARGE / "README.md").read_text()


def blocks_of(text):
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


BLOCKS = blocks_of(README)


def commands(blocks=BLOCKS):
    for language, block in blocks:
        if language == "":
            yield from (shlex.split(line) for line in block.splitlines() if line.startswith(("python3 ", "sh ", "make ")))


OWN_DATA = blocks_of((ROOT / "docs" / "own_data.md").read_text())


def test_own_images_with_our_network_as_written(run, tmp_path):
    for split, number in (("train", 16), ("test", 3)):
        for k, name in enumerate(("cat", "dog", "owl")):
            for i in range(number - 2 * k * (split == "train")):
                write_image(tmp_path / "my_images" / split / name / f"{i}.png", 10 * k + i % 3)
    for words in commands(OWN_DATA):
        quick = ["--epochs", "2", "--arch", "resnet8", "--no-cuda"] if words[1].endswith("_train.py") else []
        out = run(*words[1:], *quick).stdout
    assert "wrote report/report.html" in out
    assert "| run | last (1)" in out


def test_own_network_as_written(tmp_path):
    (block,) = [block for language, block in OWN_DATA if language == "python"]
    use = """
images, labels = torch.randn(9, 3, 32, 32), torch.arange(9) % 3
before = torchvision.models.resnet18(num_classes=3).state_dict()
trained = train([(images, labels)] * 2, [(images[:6], labels[:6])] * 2, [40, 9, 3], epochs=2)
assert trained.state_dict().keys() == {f"model.{name}" for name in before}
assert all(bool(torch.isfinite(w).all()) for w in trained.parameters())
"""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}\n{use}"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert len(re.findall(r"^epoch \d: loss [\d.]+, meta loss [\d.]+$", result.stdout, re.M)) == 2


def test_python_blocks_run(tmp_path):
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_commands_name_scripts_and_flags_that_exist():
    seen = list(commands())
    assert len(seen) >= 7
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    for words in seen:
        if words[0] == "make":
            assert words[1] in targets
            continue
        assert (ROOT / words[1]).is_file(), words
        if words[1].endswith("_train.py"):
            options.parse_training("", words[2:])
        elif words[1] == "MetaSAug_test.py":
            options.parse_test("", words[2:])


def test_commands_of_imagenet_inat_name_scripts_and_flags_that_exist():
    seen = list(commands(blocks_of(LARGE_README)))
    assert len(seen) >= 8
    for words in seen:
        script = next(i for i, word in enumerate(words) if word.endswith((".py", ".sh")))
        assert (LARGE / words[script]).is_file(), words
        if words[script] == "train.py":
            head_options.parse_training("", words[script + 1 :])
        elif words[script] == "test.py":
            head_options.parse_test("", words[script + 1 :])


def test_every_flag_of_imagenet_inat_is_in_its_table():
    table = "".join(line for line in LARGE_README.splitlines() if line.startswith("| `--"))
    for kind in (head_options.HeadFlags, head_options.GroupFlags):
        for field in kind.__dataclass_fields__:
            assert f"--{field}" in table or f"--{field.replace('_', '-')}" in table, field


def test_every_training_flag_is_in_the_table(capsys):
    table = "".join(line for line in README.splitlines() if line.startswith("| `--"))
    for field in options.TrainingFlags.__dataclass_fields__.keys() - {"meta_start_given"}:
        assert f"--{field}" in table or f"--{field.replace('_', '-')}" in table, field


def test_published_errors():
    rows = re.findall(r"^\| (LDAM|CE) \| CIFAR-(10+)-LT \| (.*) \|$", README, re.M)
    errors = {(loss, classes): [float(v) for v in values.split(" | ")] for loss, classes, values in rows}
    assert errors == {
        ("LDAM", "10"): [22.65, 19.34, 15.66, 11.90, 10.32],
        ("CE", "10"): [23.11, 19.46, 15.97, 12.36, 10.56],
        ("LDAM", "100"): [56.91, 51.99, 47.73, 42.47, 38.72],
        ("CE", "100"): [60.06, 53.13, 48.10, 42.15, 38.27],
    }


def test_nothing_is_left_to_fill_in():
    for path in (ROOT / "README.md", LARGE / "README.md", *(ROOT / "results").glob("*.md")):
        text = path.read_text()
        assert "@" + "@" not in text, path
        assert "TABLE" not in text.replace("LAM_TABLE", ""), path
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (path.parent / target).exists(), target


def test_every_room_is_in_the_layout():
    layout = README[README.index("## Layout") :]
    for path in [*ROOT.glob("*.py"), *LARGE.glob("*.py")]:
        assert f"`{path.name}`" in layout, path.name
    for folder in re.findall(r"`(\w+)/`", layout):
        assert (ROOT / folder).is_dir(), folder
