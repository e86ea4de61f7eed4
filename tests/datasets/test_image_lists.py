"""Files of image lists and official jsons: every form that is read, every mistake that is named."""

import json

import numpy as np
import pytest
from support.image_lists import write
from support.refusals import wrong

from datasets.image_lists import read_inaturalist17, read_list

A, B, OF_A = {"id": 1, "file_name": "b/2.jpg"}, {"id": 2, "file_name": "c 1"}, {"image_id": 1, "category_id": 2}


def official(images, annotations):
    return json.dumps({"images": images, "annotations": annotations})


GOOD = [  # the annotations are in another order than the images
    (read_list, "\ufeffa/1 b.jpg 0\r\n a b\t 2\nx/../é\u2028.png 1\n./in.jpg -0\n\n \r\n",
     ["a/1 b.jpg", " a b", "é\u2028.png", "in.jpg"], [0, 2, 1, 0]),
    (read_inaturalist17, official([A, B], [{"image_id": 2, "category_id": 0}, OF_A]), ["b/2.jpg", "c 1"], [2, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("read", "content", "paths", "targets"), GOOD)
def test_a_list_is_read(tmp_path, read, content, paths, targets):
    file = write(tmp_path / "l", content)
    data = read(file, tmp_path, 4)
    assert (data.paths, data.targets.tolist(), data.targets.dtype) == (paths, targets, np.int64)
    assert (data.root, data.class_names, data.source) == (tmp_path, list("0123"), str(file))
    assert len(read(file, tmp_path, None).class_names) == max(targets) + 1  # the largest label decides


LABELS = "labels count from 0 and lie in [0, 3)"
STRANGE = ["a.jpg", "", "a.jpg,1", "a.jpg x1", "a.jpg 1.0", "a.jpg 1_0", "a.jpg ١", "a.jpg " + "9" * 30]
NO_JSON, NONE = "is not an official JSON with annotations, or is damaged", "an image has no annotation with a category_id"
BAD = [
    (read_list, "a 0\n" + "\n".join([*STRANGE, "a 0"]), ", ".join(f"{k}: {line!r}" for k, line in enumerate(STRANGE, 2))),
    (read_list, "a 0\n" + "b\n" * 23, " 21: 'b' and 3 more; a list has one image a line, 'relative/path label'"),
    (read_list, "a 0\nb 3\nb -1", f"l line 2: label 3, 3: label -1; {LABELS}"),
    (read_list, "", "l line 1: ''; a list has one image a line"), (read_list, "\udcff 1", "l cannot be read as text"),
    (read_inaturalist17, official([A], [OF_A | {"category_id": 3}]), f"image 1: label 3; {LABELS}"),
    *((read_inaturalist17, text, NO_JSON) for text in (
        "{", "[" * 100_000, "[]", official([A, B], [OF_A]),
        official([A], [OF_A | {"image_id": 5}]), official([A | {"file_name": "\ud800"}], [OF_A]),
    )),
    (read_inaturalist17, official([A | {"file_name": 7}], [OF_A]), "Expected `str`, got `int` - at `$.images[0].file_name`"),
    (read_inaturalist17, official([A], [OF_A | {"category_id": True}]), "Expected `int`, got `bool`"),
    *((read_inaturalist17, text, NONE) for text in (
        official([], []), official([A], [OF_A, OF_A]), official([A, A], [OF_A, OF_A | {"image_id": 2}]),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("read", "content", "words"), BAD, ids=range(len(BAD)))
def test_all_that_is_wrong_is_named_in_one_line(tmp_path, read, content, words):
    said = wrong(read, write(tmp_path / "l", content), tmp_path, 3)
    assert said.startswith(f"{tmp_path}/l")
    assert words in said


def test_a_file_that_is_none_and_labels_of_another_kind_are_named(tmp_path):
    assert f"{tmp_path}/no is not there: do this" in wrong(read_list, tmp_path / "no", tmp_path, 3, "do this")
    assert "cannot be read as text" in wrong(read_list, tmp_path, tmp_path, 3)
    said = wrong(read_list, write(tmp_path / "l", "a 4\nb 48210393"), tmp_path, None)
    assert "line 2: label 48210393; labels count from 0" in said
