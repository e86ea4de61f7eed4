"""Trainings that compute features into one folder: stopped, killed, two at a time, on one process or two."""

from signal import SIGINT, SIGTERM

import pytest
from support.compare import distance
from support.data import write_image
from support.own import BACKBONE, SOURCE, saved
from support.ranks import begin, places, together

TRAIN = ["train_own.py", "--data_root", "photos", "--backbone", BACKBONE, "--image_size", "32", "--no-cuda",
         "--workers", "0", "--way", "nearest_mean", "--transform", "none", "--cache_dir"]  # fmt: skip
OURS = "checkpoint/ours/own"
ROW = r"features of the images set, view 0  \["


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 600 images, links to a few, of which the features make four shards; and a network."""
    made = tmp_path_factory.mktemp("photos")
    (made / "my_network.py").write_text(SOURCE)
    for k in range(8):
        write_image(made / f"{k}.png", k)
    for k in range(2):
        (made / "photos" / f"class{k}").mkdir(parents=True)
        for i in range(300):
            (made / "photos" / f"class{k}" / f"{i}.png").symlink_to(made / f"{4 * k + i % 4}.png")
    return made


@pytest.fixture(scope="module")
def whole(folder, run_in):
    """The shards that a run computes which nothing stops, and its head."""
    run_in(*TRAIN, "whole", "--save_name", "whole", cwd=folder)
    shards = shards_in(folder / "whole")
    assert (len(shards), sum(map(len, shards.values()))) == (4, 2 * 24 * 600)
    return shards, head_of(folder, "whole")


def shards_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*/*.f16"))}


def head_of(folder, name):
    return saved(folder / OURS / f"{name}_last.pth.tar")["state_dict"]


@pytest.mark.parametrize(("world", "fault"), [(1, "open *.f16.* 3"), (2, "os.rename *.f16.* 2")])  # opened also to sync
def test_a_kill_costs_one_shard_of_each_process(run_in, start, folder, whole, world, fault, tmp_path):
    """As the second shard is written; of two processes the first is killed, and the second says so and stops."""
    ranks = together(start, world, *TRAIN, tmp_path, cwd=folder, each=[{"FAULT": f"{fault} SIGKILL"}, {}][:world])
    assert [status for status, _, _ in ranks] == [137, 2][:world]
    assert all("another process is gone" in err for _, _, err in ranks[1:])
    kept = shards_in(tmp_path)
    assert 1 <= len(kept) <= 3
    out = run_in(*TRAIN, tmp_path, "--save_name", "cut", cwd=folder).stdout
    assert f"{sum(map(len, kept.values())) // 48} of 600 were computed before" in out
    assert (shards_in(tmp_path), distance(head_of(folder, "cut"), whole[1])) == (whole[0], 0)


@pytest.mark.parametrize(("number", "world"), [(SIGTERM, 1), (SIGINT, 2)])
def test_a_run_that_is_stopped_says_how_to_go_on(run_in, start, after_line, folder, whole, number, world, tmp_path):
    ranks = begin(start, world, *TRAIN, tmp_path, cwd=folder, CLOCK="1e7")
    after_line(ranks[0], 3, ROW)
    for rank in ranks:
        rank.send_signal(number)
    for rank in ranks:
        _, err = rank.communicate()
        why = f"stopped by {number.name} while computing features and choosing hyperparameters; finished work is kept"
        assert (rank.returncode, err) == (128 + number, f"train_own.py: {why}; to resume, give the same command again\n")
    run_in(*TRAIN, tmp_path, "--save_name", "cut", cwd=folder)
    assert (shards_in(tmp_path), distance(head_of(folder, "cut"), whole[1])) == (whole[0], 0)


def test_two_runs_at_once_one_of_them_on_two_processes_make_the_same_files(start, folder, whole, tmp_path):
    runs = [start(*TRAIN, tmp_path, "--save_name", "one", cwd=folder),
            *begin(start, 2, *TRAIN, tmp_path, "--save_name", "two", cwd=folder)]  # fmt: skip
    outs = [run.communicate() for run in runs]
    assert [(run.returncode, err) for run, (_, err) in zip(runs, outs, strict=True)] == [(0, "")] * 3
    assert shards_in(tmp_path) == whole[0]
    assert all(distance(head_of(folder, name), whole[1]) == 0 for name in ("one", "two"))


def test_a_folder_that_processes_do_not_share_is_named_before_features_are_computed(start, folder, tmp_path):
    ranks = []
    for rank, variables in enumerate(places(2)):
        place = tmp_path / str(rank)
        place.mkdir()
        for name in ("photos", "my_network.py"):
            (place / name).symlink_to(folder / name)
        ranks.append(start(*TRAIN, "cache", cwd=place, **variables))
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "rank 1: cache/images_0_" in errors[0]
    assert "is not there: --cache_dir must be a folder that all processes share" in errors[0]
    assert shards_in(tmp_path) == {}
