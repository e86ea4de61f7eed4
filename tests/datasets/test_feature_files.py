"""Files of features: what is written comes back, in both formats; every mistake is one line."""

import json
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.refusals import attempt, wrong

from datasets.feature_files import ARRAY_ENDINGS, SPLIT_WORDS, read_features

LABELS = np.array([0, 2, 1, 1, 0])
GOOD = {"features": np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32), "labels": LABELS}


def save(path, arrays, texts=None, compressed=False):
    """Save arrays or tensors in the format of the file's ending, and return its path."""
    if path.suffix.lower() == ".npz":
        with path.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)
    else:
        save_file({name: torch.as_tensor(array).contiguous() for name, array in arrays.items()}, path, texts)
    return path


KINDS = ["<f2", "<f4", "<f8", ">f2", ">f4", "g", torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_comes_back(tmp_path, kind):
    classes, names, split = ["b", "a b", "é"], [f"row {k}" for k in range(5)], ["train", "val", "meta", "train", "val"]
    if isinstance(kind, str):
        made = GOOD["features"].astype(kind, order="F")
        words = {"class_names": classes, "paths": names, "split": split, "more": [None]}
        path = save(tmp_path / "a.npz", {"features": made, "labels": LABELS.astype("u1"), **words})
    else:
        tensor = torch.from_numpy(GOOD["features"]).to(kind)
        texts = {"class_names": json.dumps(classes), "names": json.dumps(names), "split": "by me"}
        arrays = {"features": tensor, "labels": LABELS, "split": [SPLIT_WORDS.index(word) for word in split]}
        path, made = save(tmp_path / "a.safetensors", arrays, texts), tensor.double().numpy()
    table = read_features(path)
    halves = kind in ("<f2", ">f2", torch.float16)
    assert (table.features.dtype, table.features.flags.c_contiguous) == (np.float16 if halves else np.float32, True)
    assert table.features.tolist() == made.astype(table.features.dtype).tolist()
    assert (table.targets.tolist(), table.targets.dtype, table.class_names) == (LABELS.tolist(), np.int64, classes)
    assert (table.split.tolist(), table.names) == (split, names)


WORDS = ["11", "2é", "1", "1", "11"]
LABELLED = [  # what is changed, in both formats or in .npz alone: the targets and the names of the classes
    ({"labels": [1, 3, 3, 1, 1]}, [1, 3, 3, 1, 1], list("0123")),
    ({"labels": [1, 3, 2, 2, 1], "class_names": list("abcd")}, [1, 3, 2, 2, 1], list("abcd")),
    ({"labels": WORDS}, [1, 2, 0, 0, 1], ["1", "11", "2é"]),  # in the order of the alphabet
    ({"labels": WORDS, "class_names": ["2é", "1", "11"]}, [2, 0, 1, 1, 2], ["2é", "1", "11"]),
]


@pytest.mark.parametrize(("change", "targets", "class_names"), LABELLED)
def test_labels_that_leave_classes_out_or_are_words(tmp_path, change, targets, class_names):
    """Labels count from 1 only where they leave out 0 and no other, and nothing says how many classes there are."""
    table = read_features(save(tmp_path / "a.npz", GOOD | change))
    assert (table.targets.tolist(), table.class_names) == (targets, class_names)


@pytest.mark.parametrize("ending", ARRAY_ENDINGS)
def test_the_features_alone_have_a_digest_and_are_enough_for_prediction(tmp_path, ending):
    path = save(tmp_path / f"a{ending.upper()}", {"features": GOOD["features"], "names": np.arange(2, 7)})
    table = read_features(path)
    assert (table.targets, table.class_names, table.split, table.names) == (None, [], None, list("23456"))
    other = read_features(save(tmp_path / "b.npz", GOOD, compressed=True))
    assert (other.digest, other.targets.tolist()) == (table.digest, LABELS.tolist())  # labels where there are some
    changed = np.nextafter(GOOD["features"], np.float32(9))
    for one in (changed, GOOD["features"].astype(np.float16)):
        assert read_features(save(path, {"features": one})).digest != table.digest


def features(value, row=2, kind=np.float32):
    """Features with a value in all rows from one on."""
    made = GOOD["features"].astype(kind)
    made[row:, 1] = value
    return {"features": made}


BOTH = [  # what is changed, what is said
    ({"features": np.ones((5, 3, 1))}, "features is (5, 3, 1) of float64: write rows x features"),
    ({"features": np.ones((0, 3)), "labels": LABELS[:0]}, "features is (0, 3) of float64"),
    (features(np.nan), "features has values that are not finite as float32 in 3 of 5 rows, row 2, 3, 4"),
    (features(1e39, 3, np.float64), "not finite as float32 in 2 of 5 rows, row 3, 4: correct"),
    ({"labels": LABELS[:4]}, "labels is (4,) of int64: write 5 integers or words in one row"),
    ({"labels": LABELS[:, None]}, "labels is (5, 1) of int64: write 5 integers"),
    ({"names": np.zeros(5)}, "names is (5,) of float64: write 5 integers or words in one row"),
    ({"labels": LABELS - 1}, "labels has '-1' in row 0, '-1' in row 4: labels count from 0 and lie below 1000000"),
    ({"labels": LABELS.astype(np.uint64) - np.uint64(1)}, f"labels has '{2**64 - 1}' in row 0"),
    ({"labels": LABELS + 1}, "labels run from 1 to 3, but labels count from 0: subtract 1 from each"),
    ({"split": LABELS + 1}, "split has '3' in row 1: write train, meta, val or test"),
]
ONLY_NPZ = [
    ({"features": np.ones((5, 3)).view("V2")[:, :3]}, "features is (5, 3) of void16"),
    ({"labels": LABELS.astype(object)}, "(Object arrays cannot be loaded when allow_pickle=False): write it"),
    ({"labels": WORDS, "class_names": ["1", "11"]}, "labels has '2é' in row 1: labels count from 0 and lie"),
    ({"class_names": ["a", "b"]}, "labels has '2' in row 1: labels count from 0 and lie below 2"),
    ({"class_names": ["a", "b", "a"]}, "class_names is empty or names a class twice"),
]
CASES = [*((ending, *case) for ending in ARRAY_ENDINGS for case in BOTH), *((".npz", *case) for case in ONLY_NPZ)]


@pytest.mark.parametrize(("ending", "change", "words"), CASES)
def test_what_is_wrong_with_an_array_is_said(tmp_path, ending, change, words):
    said = wrong(read_features, save(tmp_path / f"a{ending}", GOOD | change))
    assert said.startswith(f"{tmp_path}/a{ending}")
    assert words in said


def test_what_is_no_file_of_features_is_named(tmp_path):
    np.save(tmp_path / "a.npy", LABELS)
    (tmp_path / "folder.npz").mkdir()
    for name in ("a.npy", "folder.npz", "no.npz"):
        assert f"{name} is no file that ends in .npz or .safetensors" in wrong(read_features, tmp_path / name)
    for ending in ARRAY_ENDINGS:
        assert "its array features is not there" in wrong(read_features, save(tmp_path / f"a{ending}", {"labels": LABELS}))
        for content in (b"", (tmp_path / "a.npy").read_bytes(), b"\x80\x04N."):
            (tmp_path / f"b{ending}").write_bytes(content)
            assert f"cannot be read as {ending} (" in wrong(read_features, tmp_path / f"b{ending}")
    for words in ("", '"ab"', "[1.5]", '{"a": 1}', "[[1], 2]", "[" * 10**5):
        assert str(tmp_path) in wrong(read_features, save(tmp_path / "a.safetensors", GOOD, {"class_names": words}))


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
HEADERS = [
    HEADER % ("'<f4'", "(1000000000, 100000)"), HEADER % ("'<U500000000'", "(5,)"), HEADER % ("'<f4'", f"({10**30}, 3)"),
    HEADER % ("'<f4'", "(True, 3)"), "(" * 5000, "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", ["features.npy", "labels.npy"])
@pytest.mark.parametrize("header", HEADERS)
def test_an_array_that_is_not_what_it_says_is_damaged(tmp_path, name, header):
    """Though the checksum of the archive is right: terabytes, or a header that is no Python."""
    words = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + bytes(64)
    with ZipFile(save(tmp_path / "a.npz", GOOD)) as whole, ZipFile(tmp_path / "b.npz", "w") as archive:
        for member in whole.namelist():
            archive.writestr(member, words if member == name else whole.read(member))
    assert "cannot be read as .npz (" in wrong(read_features, tmp_path / "b.npz")


def test_a_header_that_speaks_of_less_does_not_hide_a_wrong_checksum(tmp_path):
    path = save(tmp_path / "a.npz", GOOD)
    path.write_bytes(path.read_bytes().replace(b"(5, 3)", b"(5, 2)"))
    assert "the checksum of features.npy is wrong" in wrong(read_features, path)


@given(st.sampled_from(ARRAY_ENDINGS), st.booleans(), st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_a_damaged_file_is_never_taken_for_another(tmp_path, ending, compressed, cut, place, value):
    """Whatever a byte is changed to, wherever the file is cut: one line, or in an .npz, which has checksums, the same."""
    path = save(tmp_path / f"a{ending}", GOOD | {"split": LABELS % 3}, {"class_names": '["a", "b", "c"]'}, compressed)
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] if cut else whole[:at] + bytes([value]) + whole[at + 1 :])
    found = attempt(read_features, path)
    assert found is None or not cut
    if found and ending == ".npz":
        assert found.features.tolist() == GOOD["features"].tolist()
        assert found.targets is None or found.targets.tolist() == LABELS.tolist()  # a name is damaged: training refuses it
