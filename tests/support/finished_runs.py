"""The files of finished runs, without a training: what report.py reads."""

import json

import numpy as np

FLAGS = {"dataset": "cifar10", "imb_factor": 0.01, "stage2": "metasaug", "lam": 0.75, "meta_lr": 0.1, "epochs": 200,
         "arch": "resnet32", "batch_size": 100, "meta_start": 160, "seed": 1, "save_name": "x", "resume": None, "lr": 0.1,
         "num_meta": 10, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}  # fmt: skip


def write_run(
    folder,
    name,
    seed=1,
    loss="LDAM",
    accuracy=80.0,
    log=True,
    counts=(500, 60, 8),
    data=None,
    class_names=None,
    **flags,
):
    """Write the files of a run of a few classes; without `log` those that most figures are drawn of are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    size = len(counts)
    outcome = {"epoch": flags.get("epochs", 200) - 1, "acc1": accuracy, "many": 90.0, "medium": 70.0, "few": None,
               "macro_f1": 66.6, "ece": 4.0, "per_class": [90.0, *[70.0] * (size - 2), None]}  # fmt: skip
    if log:
        outcome |= {"trace_estimated": [2.0] * size, "trace_learned": [2.1] * size}
    summary = {"loss": loss, "flags": {**FLAGS, "seed": seed, "save_name": name, **flags}, "cls_num_list": [*counts],
               **({"data": data} if data else {}), "class_names": class_names or [*map(str, range(size))],
               "best": {**outcome, "acc1": accuracy + 1, "epoch": 180}, "last": outcome}  # fmt: skip
    (folder / f"{name}_summary.json").write_text(json.dumps(summary))
    if log:
        lines = [{"epoch": e, "train_loss": 2.0 / (e + 1), "test_acc1": 10.0 * e, "meta_loss": None} for e in range(3)]
        (folder / f"{name}_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.savez(folder / f"{name}_last_predictions.npz", target=np.array([0, 0, 1, 2]), predicted=np.array([0, 1, 1, 0]),
                 confidence=np.ones(4))  # fmt: skip
