#!/usr/bin/env python3
"""Test a checkpoint of ImageNet_iNat: a released one, one that train.py wrote, or the cRT one that training begins with.

  python3 test.py --dataset ImageNet_LT --data_root ../ImageNet --loading_path checkpoint/ours/ImageNet_LT/..._ckpt.pth.tar

prints "Dataset: ImageNet_LT  Accuracy: 47.67  Error: 52.33  Top-5: ..." (accuracy and error of the publication), tabs
between, then the mean accuracy over many-, medium- and few-shot classes, and writes a CSV file with a line for each class.
With --logit_adjust TAU the figures are those of logits adjusted for the long tail (arXiv 2007.07314, eq. 9).
"""

import csv
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the method and the harness, right after this folder

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="heads.run_flags:GroupFlags,LargeTestFlags")

from torch import nn

import head_flags
from datasets.image_check import check_readable
from datasets.image_lists import ImageList
from datasets.large_sets import read_test, training_counts
from harness.checkpoint import load_checkpoint
from harness.command_flags import LARGE_NAMES
from harness.errors import UserError, run_main
from harness.evaluation import Predictions, adjustment_notes, evaluate, prior_counts
from harness.files import beside, check_is_table, check_output, replacing
from harness.metrics import percent, shot_of, shots_line
from harness.process_group import Group, process_group
from harness.progress import progress
from harness.text import WRITTEN_OUT, say
from heads.backbone import fingerprint, load_network
from heads.batches import ListedImages, LiveViews, extractor
from heads.preparation import preparation_of
from heads.run_flags import LargeTestFlags, parse_group
from loss import logit_adjustment

HEADING = ("class", "name", "training images", "shot", "accuracy")  # of the table of classes


def main() -> None:
    """Load, evaluate, print, write."""
    found = parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        args = group.agree(head_flags.parse_test, LargeTestFlags.facts)
        test_set(args, group)


def test_set(args: LargeTestFlags, group: Group) -> None:
    """Test the checkpoint that the flags name."""
    path = Path(args.loading_path)
    out = Path(args.out) if args.out else beside(path, "_classes.csv")
    subject = group.agree(lambda: read_subject(args, path, out), Subject.facts)
    check_readable([subject.images], group, testing=True)
    backbone, head = subject.backbone.to(group.device), subject.head.to(group.device)
    images = ListedImages(subject.images, preparation_of(subject.dataset))
    batches = LiveViews(images, extractor(backbone), args.workers).in_order(args.test_batch_size, group)
    total = group.batches(len(subject.images), args.test_batch_size)
    shown = progress(batches, total, "testing", shown=group.main, file=sys.stderr)
    tested = evaluate(head, shown, group)
    tested.check(path)
    if group.main:
        report(subject, tested, out)


@dataclass(frozen=True)
class Subject:
    """What is tested, on what.

    `counts` are the training images of each class, None where nothing says them.
    """

    dataset: str
    images: ImageList
    counts: list[int] | None
    backbone: nn.Module
    head: nn.Linear
    notes: list[str]

    def facts(self) -> dict[str, object]:
        """Return what must be the same on all processes."""
        weights = {"backbone weights": fingerprint(self.backbone), "head weights": fingerprint(self.head)}
        return {"test list": self.images.digest(), **weights}


def read_subject(args: LargeTestFlags, path: Path, out: Path) -> Subject:
    """Read the checkpoint and the list of test images; none of them may be `out`."""
    check_output(out, inputs=(path, args.train_list, args.val_list, args.meta_list))  # now, not when all images are read
    check_is_table(out, ",".join(HEADING))
    state = load_checkpoint(path)
    if "resume" in state:
        raise UserError(f"{path} is the state of an interrupted run: test the one that ends in _last or _ckpt.pth.tar")
    dataset, trained = state.get("dataset", args.dataset or LARGE_NAMES[0]), state.get("flags", {})
    if dataset not in LARGE_NAMES:
        raise UserError(f"{path} was trained on {dataset}: test it with MetaSAug_test.py")
    if args.dataset not in (None, dataset):
        raise UserError(f"the checkpoint was trained with --dataset {dataset}, not {args.dataset}: leave the flag out")
    if dataset == "custom" and args.val_list is None and any(trained.get(key) for key in ("val_list", "val_fraction")):
        raise UserError(f"{path} was trained from lists: give that of its test images by --val_list (with --val_fraction "
                        f"{trained.get('save_name')}_val.txt beside the checkpoint)")  # fmt: skip
    root, matrix = Path(args.data_root or f"../{dataset}"), state["state_dict"].get("fc.weight")
    classes = args.num_classes or (len(matrix) if matrix is not None and matrix.dim() else None)
    images = read_test(dataset, root, classes, args.val_list, state.get("class_names"))
    assert images.content  # a list of which no image is there is named now
    check_output(out, inputs=[images.source, *(images.root / image for image in images.paths)])
    count = len(images.class_names)
    if args.val_list is not None and len(state.get("class_names", ())) == count:
        images = replace(images, class_names=state["class_names"])
    backbone, head = load_network(state, count, path)
    counts = state.get("cls_num_list") or training_counts(dataset, root, count, args.train_list)
    if counts and len(counts) != count:
        raise UserError(f"{path} counts the images of {len(counts)} classes: the list has {count}")
    notes = adjustment_notes(args.logit_adjust, state)
    if args.logit_adjust:
        head.bias.data -= logit_adjustment(prior_counts(state, counts, path), args.logit_adjust)
    if state.get("test_list", images.digest()) != images.digest():
        notes.append("note: this is not the test set drawn by the run: some of these images may have been used for training")
    return Subject(dataset, images, counts, backbone, head, notes)


def report(subject: Subject, tested: Predictions, out: Path) -> None:
    """Print the accuracies and write those per class."""
    names, counts = subject.images.class_names, subject.counts
    accuracy = tested.accuracy(counts or [0] * len(names))
    fields = [f"Dataset: {subject.dataset}", f"Accuracy: {accuracy.overall:.2f}", f"Error: {100 - accuracy.overall:.2f}"]
    fields.append(f"Top-5: {tested.top5:.2f}")
    say([*fields, *([f"Mean over classes: {accuracy.mean_over_classes:.2f}"] if accuracy.uneven else [])], *subject.notes)
    if counts:
        say(f"Accuracy per shot: {shots_line(accuracy.per_shot)}")
    else:
        say("note: no shot groups, because neither the checkpoint nor a training list gives the number of images per class")
    with replacing(out) as part, open(part, "w", newline="", encoding="utf-8", errors=WRITTEN_OUT) as file:
        writer = csv.writer(file)
        writer.writerow(HEADING)
        for k, (name, value) in enumerate(zip(names, accuracy.per_class, strict=True)):
            trained = (counts[k], shot_of(counts[k])) if counts else ("", "")
            writer.writerow((k, name, *trained, percent(value)))
    say(f"wrote {out}")


if __name__ == "__main__":
    run_main(main)
