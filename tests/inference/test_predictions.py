"""predict.py: lines and tables of images and rows of features, by networks of every script."""

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support.classifiers import FILES, MORE, NAMES, TRANSFORMED, pixels_of, slow_logits
from support.refusals import wrong

from inference.predictions import check_out

HEADING = "path,class 1,probability 1,class 2,probability 2,class 3,probability 3"


def read_table(path):
    """The names of the classes and their probabilities, by order, and the error, of each input."""
    with open(path, newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    assert heading == [*HEADING.split(","), "error"]
    assert all(re.fullmatch(r"[01]\.\d{4}", word) for row in rows if not row[-1] for word in row[2:-1:2])
    pairs = [[(name, float(p)) for name, p in zip(row[1:-1:2], row[2:-1:2], strict=True) if name] for row in rows]
    return [(row[0], found, row[-1]) for row, found in zip(rows, pairs, strict=True)]


def check_best(best, logits, names=NAMES):
    wanted = logits.softmax(0)
    assert [name for name, _ in best] == [names[k] for k in wanted.argsort(descending=True)]
    assert [p for _, p in best] == pytest.approx(sorted(wanted.tolist(), reverse=True), abs=6e-5)


@pytest.mark.parametrize("which", ["small.pth.tar", "own.pth.tar", "slim.pth.tar", "released.pth.tar"])
def test_a_table_has_a_row_for_each_image_in_order(run_in, folder, which):
    """Also for those that cannot be read; lines for the others alone."""
    names = ["class 0", "class 1", "class 2"] if which == "released.pth.tar" else NAMES
    command = f"predict.py bad.jpg photos gone.jpg '{FILES[0]}' --checkpoint_path {which} --no-cuda {MORE.get(which, '')}"
    result = run_in(f"{command} --out t.csv", cwd=folder, status=1)  # another case's is replaced
    assert result.stdout == "wrote t.csv: 6 rows\n"
    bad, gone, last = result.stderr.splitlines()
    assert bad.startswith("bad.jpg (8 bytes) cannot be read as an image")
    assert last == "predict.py: error: 2 of 6 images cannot be read, see above"
    rows = read_table(folder / "t.csv")
    assert [row[0] for row in rows] == ["bad.jpg", *FILES, "gone.jpg", FILES[0]]
    assert [row[1:] for row in (rows[0], rows[4])] == [([], bad), ([], gone)]
    logits = [slow_logits(which, pixels_of(which, folder / file)) for file in FILES]
    for (_, best, error), expected in zip(rows[1:4], logits, strict=True):
        check_best(best, expected, names)
        assert error == ""
    assert rows[5] == rows[1]
    assert min(float((logits[0] - other).abs().max()) for other in logits[1:]) > 1e-2  # the control
    lines = run_in(f"{command} --top 2", cwd=folder, status=1).stdout
    for line, (name, best, _) in zip(lines.splitlines(), [*rows[1:4], rows[5]], strict=True):
        assert line == "\t".join([name, *(f"{found} {100 * p:.2f}" for found, p in best[:2])])


def test_where_nothing_can_be_read_an_earlier_table_stays(run, folder, tmp_path):
    (tmp_path / "t.csv").write_text(f"{HEADING}\na.jpg,owl,1,x,0,y,0\n")
    result = run(f"predict.py --checkpoint_path {folder}/small.pth.tar --no-cuda --out t.csv gone.png too.png", status=2)
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 3)
    assert (tmp_path / "t.csv").read_text().endswith("a.jpg,owl,1,x,0,y,0\n")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("which", TRANSFORMED)
def test_rows_of_features(run_in, folder, which):
    np.savez(folder / "unnamed.npz", features=np.ones((1, 7), np.float32))
    command = f"predict.py --checkpoint_path {which} --no-cuda --out r.csv rows.npz unnamed.npz"
    assert run_in(command, cwd=folder).stdout == "wrote r.csv: 6 rows\n"
    features = torch.tensor(np.concatenate([np.load(folder / "rows.npz")["features"], np.ones((1, 7))])).double()
    head = torch.load(folder / which, weights_only=True)["state_dict"]
    logits = TRANSFORMED[which](features) @ head["fc.weight"].double().T + head["fc.bias"].double()
    found = read_table(folder / "r.csv")
    assert [row[0] for row in found] == [*(f"row ä{k}" for k in range(5)), "unnamed.npz row 0"]
    for (_, best, error), expected in zip(found, logits, strict=True):
        check_best(best, expected)
        assert error == ""


def test_features_of_a_network_come_before_images(run_in, folder):
    np.savez(folder / "own.npz", features=np.ones((2, 24), np.float32))
    more = f"{MORE['own.pth.tar']} --out m.csv '{FILES[0]}' own.npz {FILES[1]}"
    run_in(f"predict.py --checkpoint_path own.pth.tar {more}", cwd=folder)
    assert [row[0] for row in read_table(folder / "m.csv")] == ["own.npz row 0", "own.npz row 1", *FILES[:2]]


def test_folders_are_read_in_depth_and_what_is_left_out_is_said(run, refused, folder, tmp_path, nest):
    for name in ("a.png", "deep/b.jpg", "deep/\x1b[31m.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA" if name == "a.png" else "RGB", (50, 40)).save(tmp_path / "in" / name)
    for name in ("in/notes.txt", "in/deep/IMG_1.nef"):
        (tmp_path / name).touch()
    command = f"predict.py --checkpoint_path {folder}/small.pth.tar --no-cuda"
    result = run(f"{command} in")
    named = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert named == ["in/a.png", "in/deep/\\x1b[31m.png", "in/deep/b.jpg"]
    assert result.stderr.splitlines() == [
        "note: in: files left out: 1 .txt, 1 .nef",
        "note: images with transparent parts, which were laid on white: 1",
    ]
    nest(tmp_path, 200 * "d", 25)
    assert "cannot be read (File name too long): make it readable, or move it away" in refused(f"{command} {200 * 'd'}")


@pytest.mark.slow
def test_a_released_head_is_taken_for_one_of_the_set_with_so_many_classes(run_in, folder, tmp_path):
    state = torch.load(folder / "released.pth.tar", weights_only=True)
    state["state_dict"]["classifier"] = {"fc.weight": torch.randn(8142, 2048), "fc.bias": torch.zeros(8142)}
    torch.save(state, tmp_path / "x.pth.tar")
    command = f"predict.py --checkpoint_path {tmp_path}/x.pth.tar --no-cuda '{FILES[0]}'"
    sets = ("", "--dataset iNaturalist18", "--dataset ImageNet_LT")
    plain, said, other = (run_in(f"{command} {one}", cwd=folder) for one in sets)
    assert plain.stdout == said.stdout != other.stdout
    assert "by its 8142 classes it is taken for iNaturalist18, see --dataset\n" in plain.stderr


OURS = (HEADING, f"{HEADING},error\na.png,,,,,,,gone", "path,class 1,probability 1", "")
OTHERS = ("path,label", f"id,{HEADING}", "a.png,1", f"{HEADING}s", "\n" + HEADING)


@pytest.mark.parametrize("text", [*OURS, *OTHERS])
def test_only_a_table_of_predictions_is_replaced(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    if text in OURS:
        check_out(path, [])
    else:
        assert wrong(check_out, path, []) == f"--out {path} is another file than a table of this command: name another"
