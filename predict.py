#!/usr/bin/env python3
"""Name what is on image files or in rows of features, with a checkpoint of a training script or a released one.

  python3 predict.py --checkpoint_path checkpoint/ours/0/name_ckpt.pth.tar photo.jpg folder
  python3 predict.py --checkpoint_path ImageNet_iNat/checkpoint/ours/custom/name_ckpt.pth.tar folder --out predictions.csv
  python3 predict.py --checkpoint_path ImageNet_iNat/checkpoint/ours/custom/name_ckpt.pth.tar --export onnx

The first prints a line an image, tabs between: the file, then the most probable classes and their probabilities in per cent.
The second writes a table with a row for each input, those of features first. Folders are read at any depth. Files that
cannot be read have an `error` in the table and are named at the end, and the exit status is 1, or 2 if none can be read.
Images may have any size and format that Pillow reads. Networks of the CIFAR scripts take them resized to 32x32, as in
training; heads of ImageNet_iNat take their middle, 224x224, after the short side is made 256. The third writes
name_ckpt.onnx beside the checkpoint, which needs none of this code and takes pixels of any size, or features
(docs/own_data.md).
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="harness.command_flags:PredictFlags")

import sys
from itertools import chain
from pathlib import Path

import torch

from datasets.pictures import Seen, done_notes
from harness.command_flags import PredictFlags
from harness.devices import choose_device
from harness.errors import UserError, run_main
from harness.files import beside, check_output
from harness.flag_parser import parse_flags
from harness.text import say
from inference.classifiers import classifier
from inference.exports import export_classifier
from inference.predictions import (
    check_out,
    check_read,
    predictions,
    print_rows,
    read_files,
    read_inputs,
    read_rows,
    write_rows,
)
from inference.priors import prior_shift


def main() -> None:
    """Load the network, print or write what it says of the inputs, export it."""
    args = parse_flags(PredictFlags)
    if not args.images and (args.out or not args.export):
        raise UserError("no image is given: name files, or folders of them")
    path = Path(args.checkpoint_path)
    network = classifier(path, args.arch, args.dataset, args.pretrained)
    device = choose_device(args.gpu, args.no_cuda)
    network.model.to(device).to(memory_format=torch.channels_last)
    shift, notes = torch.zeros(len(network.names)), [*network.notes]
    if args.prior is not None:
        shift, line = prior_shift(args.prior, network.names, network.state, path)
        notes.append(line)
    tables, files, left_out = read_inputs(args.images, network)
    if args.out is not None:
        check_out(args.out, [path, args.prior, *args.images])
    exported = beside(path, ".onnx")
    if args.export:
        check_output(exported)  # now, not when all inputs are read
    top, seen = min(args.top, len(network.names)), list[Seen]()
    images = read_files(files, network, shown=args.out is not None or not sys.stdout.isatty())
    batches = chain(*map(read_rows, tables), images)
    rows = predictions(network, batches, shift.to(device), top, path, seen)
    if args.out is None:
        print_rows(rows)
    else:
        write_rows(rows, args.out, top)
        say(f"wrote {args.out}: {len(seen)} {'row' if len(seen) == 1 else 'rows'}")
    say(*(f"note: {note}" for note in (*notes, *left_out, *done_notes(seen))), file=sys.stderr)
    if args.export:
        say(export_classifier(network, exported, shift, args.prior))
    check_read(seen, status=1)


if __name__ == "__main__":
    run_main(main)
