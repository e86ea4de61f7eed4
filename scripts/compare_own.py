#!/usr/bin/env python3
"""Say which way suits your images, or features: logistic regression, discriminant analysis, ISDA or MetaSAug.

  python3 scripts/compare_own.py --data_root photographs --backbone efficientnet_b0
  python3 scripts/compare_own.py --features embeddings.npz
This is `scripts/sweep.py own`; --ways names some of the ways, and further flags are those of train_own.py. Each way's
constants are chosen by folds over the training images, and so is the way: the simplest, unless one is significantly better.
Test images are read at the end, by the heads of all ways, and choose nothing. The same command resumes a comparison that was
stopped, and several processes, also of machines that share the folder, can do it together.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="heads.run_flags:CompareFlags")

from harness.errors import run_main
from scripts.sweep import main

if __name__ == "__main__":
    run_main(lambda: main(["own", *sys.argv[1:]]))
