"""Files of features: what is written comes back, in both formats; every mistake is one line."""

import json
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from support.refusals import wrong

from datasets.feature_files import ARRAY_ENDINGS, read_features
from harness.errors import UserError

SPLIT_WORDS = ("train", "meta", "val", "test")
in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def good():
    """Arrays of a good file."""
    labels = np.array([0, 2, 1, 1, 0])
    return {"features": np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32), "labels": labels}


def save_npz(path, arrays, compressed=False):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def save(path, arrays, texts=None):
    """Save arrays in the format of the file's ending."""
    if path.suffix == ".npz":
        return save_npz(path, arrays)
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    save_arrays(arrays, path, metadata=texts)
    return path


# What is written comes back

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4)
kinds = st.sampled_from(["i1", "u1", "i2", "i4", "i8", "u8"])


@st.composite
def contents(draw):
    """Features, labels, class names or None, split or None, names or None, all as plain lists but the features."""
    rows, width, classes = draw(st.integers(1, 30)), draw(st.integers(1, 5)), draw(st.integers(2, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    features = generator.standard_normal((rows, width)) * 10.0 ** draw(st.integers(-6, 4))
    labels = generator.integers(0, classes, rows).tolist()
    labels[0] = 0  # so that none takes them to count from 1
    names = draw(st.none() | st.lists(text, min_size=classes, max_size=classes, unique=True))
    split = draw(st.none() | st.lists(st.sampled_from(SPLIT_WORDS), min_size=rows, max_size=rows))
    called = draw(st.none() | st.lists(text, min_size=rows, max_size=rows))
    return features, labels, names, split, called


def check(table, features, labels, class_names, split, names):
    kind = np.float16 if features.dtype.itemsize == 2 else np.float32
    assert (table.features.dtype, table.features.flags.c_contiguous) == (kind, True)
    assert table.features.tolist() == [[float(kind(value)) for value in row] for row in features.tolist()]
    assert (table.targets.dtype, table.targets.tolist()) == (np.int64, labels)
    assert table.class_names == class_names
    assert (None if table.split is None else table.split.tolist()) == split
    assert table.names == names


@given(contents(), st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "g"]), st.data())
@in_a_folder
def test_an_npz_comes_back(tmp_path, content, kind, data):
    features, labels, class_names, split, names = content
    features = features.astype(kind, order=data.draw(st.sampled_from("CF")))
    words = data.draw(st.booleans())  # labels as words
    arrays = {"features": features, "labels": np.array(labels, data.draw(kinds)), "more": np.array([None])}
    if class_names:
        arrays["class_names"] = np.array(class_names)
    if words:
        called = class_names or [f"{k}é" for k in (11, 2, 1, 9, 10)]  # whose order is not that of the numbers
        labels = [called[label] for label in labels]
        arrays["labels"] = np.array(labels)
        class_names = class_names or sorted(set(labels))
        labels = [class_names.index(label) for label in labels]
    if split:
        arrays["split"] = np.array(split)
    if names:
        arrays[data.draw(st.sampled_from(["names", "paths"]))] = np.array(names)
    path = save_npz(tmp_path / "a.npz", arrays, data.draw(st.booleans()))
    check(read_features(path), features, labels, class_names, split, names)


@given(contents(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.data())
@in_a_folder
def test_a_safetensors_comes_back(tmp_path, content, kind, data):
    features, labels, class_names, split, names = content
    tensor = torch.from_numpy(features).to(kind)
    split = [part.replace("test", "val") for part in split] if split else None
    ids = names is None and data.draw(st.booleans())
    target = torch.tensor(labels, dtype=data.draw(st.sampled_from([torch.uint8, torch.int64])))
    tensors = {"features": tensor, "labels": target}
    texts = {"class_names": json.dumps(class_names)} if class_names else {"format": "pt", "split": "by me"}
    if split:
        tensors["split"] = torch.tensor([SPLIT_WORDS.index(part) for part in split], dtype=torch.int32)
    if names:
        texts[data.draw(st.sampled_from(["names", "paths"]))] = json.dumps(names)
    if ids:
        tensors["names"] = torch.arange(len(labels)) - 7
        names = [str(i - 7) for i in range(len(labels))]
    save_tensors(tensors, tmp_path / "a.safetensors", texts)
    table = read_features(tmp_path / "a.safetensors")
    check(table, (tensor.float() if kind == torch.bfloat16 else tensor).numpy(), labels, class_names, split, names)


def test_features_alone_are_enough_for_prediction(tmp_path):
    arrays = {"features": good()["features"]}
    for ending in ARRAY_ENDINGS:
        path = save(tmp_path / f"a{ending}", arrays)
        table = read_features(path, labelled=False)
        assert (table.targets, table.class_names, table.split, table.names, len(table)) == (None, None, None, None, 5)
        assert "its array labels is not there" in wrong(read_features, path)
        assert read_features(save(path, good()), labelled=False).targets.tolist() == [0, 2, 1, 1, 0]  # where there are some
        (tmp_path / f"a{ending}").rename(tmp_path / f"b{ending.upper()}")
        assert read_features(tmp_path / f"b{ending.upper()}").targets.tolist() == [0, 2, 1, 1, 0]


def test_the_digest_is_of_the_features(tmp_path):
    """Not of the format, compression or name; any change of the features changes it."""
    features = good()["features"]
    digest = read_features(save_npz(tmp_path / "a.npz", good())).digest
    assert read_features(save_npz(tmp_path / "b.npz", good(), compressed=True)).digest == digest
    assert read_features(save(tmp_path / "a.safetensors", good())).digest == digest
    other = features.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(9))
    for changed in (other, features.astype(np.float16), features[::-1]):
        assert read_features(save_npz(tmp_path / "c.npz", {**good(), "features": changed})).digest != digest


# Mistakes


def with_value(value, row=2, kind=np.float32):
    features = good()["features"].astype(kind)
    features[row:, 1] = value
    return features


WRONG = {  # in both formats: what is changed -> what is said
    "features is not there: write it under that name": {"features": None, "embeddings": np.ones((5, 3))},
    "features is (5, 3, 1) of float64: write rows x features": {"features": np.ones((5, 3, 1))},
    "features is (5, 3) of int32": {"features": np.ones((5, 3), np.int32)},
    "features is (0, 3) of float32": {"features": np.ones((0, 3), np.float32), "labels": np.ones(0, int)},
    "features has values that are not finite as float32 in 3 of 5 rows, row 2, 3, 4": {"features": with_value(np.nan)},
    "not finite as float16 in 1 of 5 rows, row 4: correct": {"features": with_value(-np.inf, 4, np.float16)},
    "not finite as float32 in 2 of 5 rows, row 3, 4: correct": {"features": with_value(1e39, 3, np.float64)},
    "labels has 4 entries, but features has 5 rows": {"labels": np.array([0, 1, 0, 1])},
    "paths has 1 entries, but features has 5 rows": {"paths": np.zeros(1, int)},
    "labels is not one row of integers or of words": {"labels": np.zeros((5, 1), int)},
    "names is not one row of integers or of words": {"names": np.zeros(5)},
    "split is not one row of integers or of words": {"split": np.zeros(5, bool)},
    "labels has '-1' in row 3, '-2' in row 4: labels count from 0 and lie below 1000000": {
        "labels": np.array([0, 1, 2, -1, -2])
    },
    f"labels has '{2**64 - 1}' in row 1": {"labels": np.array([0, 2**64 - 1, 1, 1, 0], np.uint64)},
    "labels run from 1 to 3, but labels count from 0: subtract 1 from each": {"labels": np.array([1, 3, 2, 2, 1])},
    "split has '3' in row 4: write train, meta, val or test": {"split": np.array([0, 1, 2, 0, 3])},
}
ONLY_NPZ = {
    "features is (5, 3) of void16": {"features": np.ones((5, 3)).view("V2")[:, :3]},
    "(Object arrays cannot be loaded when allow_pickle=False): write it again, with words by dtype str": {
        "labels": np.array(list("aabbc"), object)
    },
    "labels has 'cow' in row 2: labels count from 0 and lie below 2, or are class_names": {
        "labels": np.array(["cat", "dog", "cow", "cat", "cat"]),
        "class_names": np.array(["cat", "dog"]),
    },
    "labels has '2' in row 1: labels count from 0 and lie below 2": {"class_names": np.array(["a", "b"])},
    "class_names is empty or names a class twice": {"class_names": np.array(["a", "b", "a"])},
    "split has 'dev' in row 1, 'dev' in row 4": {"split": np.array(["train", "dev", "val", "train", "dev"])},
}
CASES = [
    (ending, words, change)
    for ending, found in ((".npz", {**WRONG, **ONLY_NPZ}), (".safetensors", WRONG))
    for words, change in found.items()
]


@pytest.mark.parametrize(("ending", "words", "change"), CASES)
def test_what_is_wrong_with_an_array_is_said(tmp_path, ending, words, change):
    arrays = {name: array for name, array in {**good(), **change}.items() if array is not None}
    path = save(tmp_path / f"a{ending}", arrays)
    said = wrong(read_features, path)
    assert said.startswith(str(path))
    assert words in said
    assert read_features(save(path, good())).targets.tolist() == [0, 2, 1, 1, 0]  # the control


def test_labels_that_leave_out_more_than_class_0_do_not_count_from_1(tmp_path):
    """A class without rows is fine, class 0 too, where the file says how many there are or leaves out others as well."""
    for labels in ([1, 3, 3, 1, 1], [1] * 5, [2, 3, 4, 5, 6], [9, 9, 0, 0, 0]):
        assert read_features(save(tmp_path / "a.npz", {**good(), "labels": np.array(labels)})).targets.tolist() == labels
    named = {**good(), "labels": np.array([1, 3, 2, 2, 1]), "class_names": np.array(list("abcd"))}
    assert read_features(save(tmp_path / "a.npz", named)).targets.tolist() == [1, 3, 2, 2, 1]


@pytest.mark.parametrize("text", ["", "[", '"ab"', "[1.5]", "[true]", "[null]", '{"a": 1}', "[[1], 2]", "[" * 10**5])
def test_metadata_that_is_no_list_of_words_is_named(tmp_path, text):
    path = save(tmp_path / "a.safetensors", good(), {"class_names": text})
    assert str(path) in wrong(read_features, path)


def test_what_is_no_file_of_features_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "folder.npz").mkdir()
    for name in ("a.npy", "folder.npz", "no.npz"):
        assert f"{name} is no file that ends in .npz or .safetensors" in wrong(read_features, tmp_path / name)
    for ending in ARRAY_ENDINGS:
        for content in (b"", b"x", (tmp_path / "a.npy").read_bytes(), b"\x80\x04N."):
            (tmp_path / f"b{ending}").write_bytes(content)
            assert f"cannot be read as {ending} (" in wrong(read_features, tmp_path / f"b{ending}")
    save_npz(tmp_path / "empty.npz", {})
    assert "its array features is not there" in wrong(read_features, tmp_path / "empty.npz")


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
HEADERS = [
    HEADER % ("'<f4'", "(1000000000, 100000)"), HEADER % ("'<U500000000'", "(5,)"), HEADER % ("'<f4'", f"({10**30}, 3)"),
    HEADER % ("'<f4'", "(True, 3)"), HEADER % ("'<f4'", "(5, 3"), "(" * 5000, "'''", "-" * 9000 + "1", "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", ["features", "labels"])
@pytest.mark.parametrize("header", [None, *HEADERS])
def test_an_array_that_is_not_what_it_says_is_damaged(tmp_path, name, header):
    """Though the checksum of the archive is right: fewer bytes (None), terabytes, a header that is no Python."""

    def changed(content):
        if header is None:
            return content[:-1]
        return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + bytes(64)

    save_npz(tmp_path / "a.npz", good())
    for path, wanted in ((tmp_path / "same.npz", None), (tmp_path / "b.npz", f"{name}.npy")):
        with ZipFile(tmp_path / "a.npz") as whole, ZipFile(path, "w") as archive:
            for member in whole.namelist():
                archive.writestr(member, changed(whole.read(member)) if member == wanted else whole.read(member))
    assert "cannot be read as .npz (" in wrong(read_features, tmp_path / "b.npz")
    assert len(read_features(tmp_path / "same.npz")) == 5  # the control


def test_a_header_that_speaks_of_less_does_not_hide_a_wrong_checksum(tmp_path):
    path = save_npz(tmp_path / "a.npz", good())
    path.write_bytes(path.read_bytes().replace(b"(5, 3)", b"(5, 2)"))
    assert "the checksum of features.npy is wrong" in wrong(read_features, path)


@given(st.data())
@settings(in_a_folder, max_examples=200)
def test_a_damaged_file_is_never_taken_for_another(tmp_path, data):
    """Whatever a byte is changed to, wherever the file is cut: one line, or the same content.

    A safetensors has no checksum: what is still a sound file is read.
    """
    arrays = {**good(), "split": np.array(["train", "val", "meta", "train", "val"]), "class_names": np.array(list("abc"))}
    path = save_npz(tmp_path / "a.npz", arrays, data.draw(st.booleans()))
    numbers = {**good(), "split": np.array([0, 2, 1, 0, 2])}
    other = save(tmp_path / "a.safetensors", numbers, {"class_names": '["a", "b", "c"]'})
    for file in (path, other):
        whole, cut = file.read_bytes(), data.draw(st.booleans())
        place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
        file.write_bytes(whole[:place] if cut else whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            found = read_features(file)
        except UserError as error:
            said = str(error).splitlines()
        else:
            said = []
        assert len(said) == 1 or not cut
        if not said and file is path:
            assert found.features.tolist() == arrays["features"].tolist()
            assert found.targets.tolist() == arrays["labels"].tolist()
