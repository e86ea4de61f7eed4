"""What the commands refuse: one line that names it, exit status 2, every file as it was.

Below each script, and flags that its rows share: more flags => words of the line, with | between => what is spoiled before,
a place and a fault of support/faults.py each. Flags have escapes like \\n.
"""

import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from support import faults
from support.places import ROOT
from support.refusals import wrong
from support.slim_resnet import slim_resnet50

from harness import before_loading, errors
from heads import backbone

OWNED = "--no-cuda --workers 0 --data_root photos --backbone my_network:make_normed --image_size 32"
FINE = f"{OWNED} --batch_size 8 --finetune"
LARGE = "--dataset custom --data_root large --pretrained crt.pth --no-cuda --workers 0"
FOLDER = "--dataset folder --data_root small --num_meta 1 --arch resnet8 --no-cuda"
TESTED = "--dataset custom --data_root large --no-cuda --workers 0 --loading_path"
RUN, COMPARED = "checkpoint/ours/0/", "checkpoint/ours/compare/"
RESUME = f"{RUN}name_resume.pth.tar"
REFUSALS = rf"""
# values that make no sense
MetaSAug_LDAM_train.py
    --imb 1 => --imb
    --see 1 => --see
    --imb_factor 0 => --imb_factor 0.0
    --imb_factor 2 => --imb_factor 2.0
    --num_meta 0 => --num_meta 0
    --batch-size 0 => --batch_size 0
    --test-batch-size -1 => --test_batch_size -1
    --epochs 0 => --epochs 0
    --meta_start -1 => --meta_start -1
    --lr 0 => --lr 0.0
    --lr inf => --lr inf | below 1e30
    --momentum 1 => --momentum 1.0
    --momentum 0 => --nesterov false
    --nesterov maybe => invalid truth value: 'maybe'
    --wd -1 => --weight_decay -1
    --lam nan => --lam nan
    --meta_lr -0.1 => --meta_lr -0.1
    --seed -1 => --seed -1
    --seed {2**64} => --seed {2**64}
    --print-freq 0 => --print_freq 0
    --save_name a/b => --save_name 'a/b'
    --save_name '' => --save_name ''
    --save_name 'a\nb' => --save_name 'a\nb' | printable
    --save_name=-a => --save_name '-a' | no - or . before
    --save_name .a => --save_name '.a' | no - or . before
    --save_name 'a ' => --save_name 'a ' | blanks
    --save_name \udcff => --save_name '\udcff' | printable
    --idx ../x => --idx '../x'
    --idx 'a\nb' => --idx 'a\nb'
    --save_every -1 => --save_every -1.0
    --resume '' => --resume ''
    --threads -1 => --threads -1
    --dataset mnist => mnist | cifar10
    --stage2 mixup => --stage2 | 'mixup' | reweight
    --stage2_lr 0 => --stage2_lr 0.0
    --meta_update adam => 'adam'
    --meta_step_size nan => --meta_step_size nan
    --virtual body => 'body'
    --balance sampler => 'sampler'
    --meta_images both => 'both'
    --num_heldout 5 => --num_heldout 5 holds nothing out unless --select_on is heldout
    --num_heldout 0 --select_on heldout => --num_heldout 0 is not valid
MetaSAug_test.py --checkpoint_path fits.pth.tar
    --imb_factor 0 => --imb_factor 0
    --num_meta 0 => --num_meta 0
    --test-batch-size 0 => --test_batch_size 0
    --logit_adjust nan => --logit_adjust nan is not valid
    --logit_adjust 1e300 => --logit_adjust 1e+300 is not
ImageNet_iNat/train.py
    --batch_size 0 => --batch_size 0
    --workers -1 => --workers -1
    --lr nan => --lr nan
    --timeou 0 => --timeou
    --cache_features -2 => --cache_features -2
    --timeout '' => argument --timeout: invalid float value: ''
    --timeout 0 => --timeout 0.0 is not valid: it must be from 1 to 1000000.0
    --timeout nan => --timeout nan is not valid: it must be from 1 to 1000000.0
    --timeout 1e300 => --timeout 1e+300 is not valid: it must be from 1 to 1000000.0
ImageNet_iNat/train.py {LARGE}
    --num_heldout 2 => --num_heldout 2 holds nothing out
    --virtual head => --virtual
    --val_fraction 1 => --val_fraction 1.0 is not valid: it must be at least 0 and below 1
    --val_fraction 0.2 --val_seed -1 => --val_seed -1 is not valid
    --val_fraction 0.2 --train_list a.txt --val_list b.txt => --val_fraction draws test images from folders: leave
    --val_fraction 0.2 --data_root split => split has split/val for tests: leave the flag out, or give
ImageNet_iNat/test.py {TESTED}
    x --workers -1 => --workers -1
    x --test_batch_size 0 => --test_batch_size 0
    x --logit_adjust nan => --logit_adjust nan is not
    crt.pth --logit_adjust 1 => --logit_adjust needs the training images of each class, which neither crt.pth nor
train_own.py --data_root photos
    --features f.npz => --features and --data_root do not go together
    --lr_drop 0 => --lr_drop 0.0 is not valid
    --val_features f.npz => --val_features goes with --features
    --mean 0.5,0.5 => --mean '0.5,0.5' is not valid: it must be three numbers
    --views -1 => --views -1 is not valid
    --meta_start -1 => --meta_start -1 is not valid
    --idx ../x => --idx '../x' is not valid
    --pretrained no.pth => there is no file no.pth
    --backbone my_network:nothing => 'my_network:nothing' cannot be imported
    --way metasaug --finetune => --finetune does not go with --way metasaug
train_own.py --no-cuda --features f.npz
    --backbone resnet18 => --features and --backbone do not go together
    --way best => --way: invalid choice: 'best'
    --way logistic --lr 0.1 => --lr does not go with --way logistic
    --way lda --C 1 => --C does not go with --way lda
    --way metasaug --stage2 isda => --stage2 does not go with --way metasaug
    --C 0 => --C 0.0 is not valid
    --way metasaug --balance none => --balance does not go with --way metasaug
    --finetune => --features and --finetune do not go together
    --way metasaug --wd 0.1 => --weight_decay and --C set the same
    --features nowhere.npz => nowhere.npz
train_own.py --no-cuda
     => nothing to train on: give --data_root, a folder with one subfolder per class, or --features
    --data_root nowhere => nowhere
train_own.py {OWNED}
    --micro_batch 4 => --micro_batch goes with --finetune
    --amp bf16 => --amp goes with --finetune
train_own.py {FINE}
    --views 2 => --finetune and --views do not go together
    --cache_dir x => --finetune and --cache_dir do not go together
    --micro_batch 0 => --micro_batch 0 is not valid: it must be at least 1
    --micro_batch 3 => --micro_batch 3 is too small for batch norm: take 4 or more
    --batch_size 1 => a batch of 1 images is too small for this network: it must have 2
scripts/compare_own.py --no-cuda --features f.npz
    --ways lda,best => --ways best is not valid: it must be one of logistic, balanced
    --lr 0.1 => --lr does not go with --way logistic
    --C 1 => --C is set by this script for each way: leave it out
    --save_name x => --save_name is set by this script
    --select_on heldout => --select_on does not go with --way logistic
scripts/compare_own.py {FINE}
     => does not go with --way logistic
scripts/compare_own.py --no-cuda --features f.npz
    --workdir w => w/checkpoint/ours/compare/runs.tmp cannot be written (Not a directory) => w touch
    => runs.log cannot be written (it is a folder => {COMPARED}runs.log mkdir
    => answer.json cannot be written (it is a folder => {COMPARED}answer.json mkdir
    => report/runs.tmp cannot be written => {COMPARED}report touch
    => folds cannot be written => {COMPARED}folds touch
# networks
MetaSAug_CE_train.py --dataset digits
    --arch nothing:made => --arch | nothing | package.module:function
    --arch tiny_networks:none => --arch | none | package.module
    --arch tiny_networks:no_network => --arch | list, not an nn.Module
    --arch tiny_networks:headless => --arch | no nn.Linear with 10 outputs
MetaSAug_CE_train.py --dataset digits --arch resnet8 --no-cuda --epochs 2
    --num_classes 7 => --num_classes 7 | 10
    --arch resnet2 => --arch | resnet2 | 6n
    --arch resnet32x => --arch | resnet32x | 6n
    --arch vgg => --arch | vgg | 6n
    --arch resnet33 => --arch | resnet33 | 6n
    --arch resnet1000000002 => --arch: 'resnet1000000002' is unknown | from 8 to 1202
    --stage1 flipped.pth.tar => flipped.pth.tar is damaged (its checksum differs)
    --stage1 fits.pth.tar --meta_start 1 => fits.pth.tar was trained with class_names None, this run has
    --resume none.pth.tar => --resume none.pth.tar: there is no such file
    --resume fits.pth.tar => --resume fits.pth.tar: there is no such file named
    --resume old_resume.pth.tar => old_resume.pth.tar cannot be used: its resume.record
MetaSAug_test.py
     => --checkpoint_path
    --checkpoint_path none => there is no checkpoint none
    --checkpoint_path text => text is no file of tensors and plain values
    --checkpoint_path code.pth => code.pth is no file of tensors and plain values | it holds posix.system
    --checkpoint_path cut.pth.tar => cut.pth.tar is damaged (it is truncated)
    --checkpoint_path flipped.pth.tar => flipped.pth.tar is damaged (its checksum differs)
    --checkpoint_path seven.pth.tar => 7 classes | 10
    --checkpoint_path fits.pth.tar --dataset cifar100 => --dataset digits, not cifar100
    --checkpoint_path fits.pth.tar --arch resnet20 => holds a resnet8, not a resnet20
    --checkpoint_path fits.pth.tar --imb_factor 0.5 => --imb_factor 0.1, not 0.5
    --checkpoint_path fits.pth.tar --logit_adjust 1 => needs the training images of each class
    --checkpoint_path short.pth.tar => its stage2_counts has 2 entries
    --checkpoint_path nan.pth.tar => nan.pth.tar cannot be used: linear.bias holds numbers
    --checkpoint_path deep.pth.tar => it says that it holds a resnet1000000002 | those of a resnet8
predict.py --no-cuda --checkpoint_path net/small.pth.tar
     => no image is given: name files, or folders of them
    --export onnx --out x.csv => no image is given: name files
    --export pickle => invalid choice: 'pickle'
    'net/photos/a b.jpg' --top 0 => --top 0 is not valid
    'net/photos/a b.jpg' --dataset ImageNet_LT => leave --dataset out
    phtos --out t.csv => phtos is missing
    pipe.png => pipe.png is not an image file => pipe.png mkfifo
    none => none holds no image in a format that can be read => none/a.txt touch
    net/rows.npz => rows.npz has 7 features a row, the network takes images
    'net/photos/a b.jpg' --out x.txt => --out x.txt is not valid: its name must end in .csv
    'net/photos/a b.jpg' --out gone/x.csv => gone/x.csv cannot be written
    --export onnx => small.onnx cannot be written
    'net/photos/a b.jpg' --out net/gone.csv --prior net/gone.csv.tmp => which this command reads
predict.py --no-cuda --checkpoint_path
    net/none.pth.tar net/photos => photos is no file of features, .npz or .safetensors
    net/two.pth.tar net/rows.npz => two.pth.tar cannot be used: its class_names has 2 entries, its weights are those of 3
    net/none.pth.tar net/wide.npz => wide.npz has 8 features a row, the network takes 7
    net/slim.pth.tar net/thin.png => thin.png is far too narrow
    net/slim.pth.tar 'net/photos/a b.jpg' --arch resnet32 => slim.pth.tar holds a head of a ResNet-50: leave --arch out
    net/slim.pth.tar 'net/photos/a b.jpg' --dataset ImageNet_LT => was trained with --dataset custom, not ImageNet_LT
    net/headless.pth.tar 'net/photos/a b.jpg' => headless.pth.tar does not tell its class count
    net/scalar.pth.tar 'net/photos/a b.jpg' => scalar.pth.tar does not tell its class count
    net/backbone.pth.tar 'net/photos/a b.jpg' => backbone.pth.tar holds no head: it is a backbone alone
    net/other.pth.tar 'net/photos/a b.jpg' => other.pth.tar holds the network my:net: give --arch my:net
    net/own.pth.tar 'net/photos/a b.jpg' => own.pth.tar holds the network my_network:make: give --arch my_network:make
    net/own.pth.tar 'net/photos/a b.jpg' --arch x:y => holds the network my_network:make, not x:y: give --arch my_network
    net/cifar.pth.tar 'net/photos/a b.jpg' => cifar.pth.tar cannot be used: it says that its data set is cifar10
    net/resume.pth.tar 'net/photos/a b.jpg' => take the one that ends in _last or _ckpt.pth.tar
    net/names.pth.tar 'net/photos/a b.jpg' => its class_names has 2 entries, its weights are those of 3 classes
    net/large.pth.tar 'net/photos/a b.jpg' => large.pth.tar cannot be used: the outputs of its network are not finite
    nan.pth.tar small/train/class1/1.png => nan.pth.tar cannot be used: linear.bias holds numbers
ImageNet_iNat/train.py {LARGE}
    --pretrained infinite.pth.tar => the head, cannot be used: bias holds numbers
    --pretrained none.pth => there is no checkpoint none.pth
    --pretrained seven_heads.pth.tar => seven_heads.pth.tar | 7 classes | 3 | --dataset
    --pretrained text => text is no file of tensors and plain values
    --resume old_resume.pth.tar => old_resume.pth.tar cannot be used: its resume.record
    --cache_features 1 --cache_dir text => text
    --lr 1e29 --batch_size 2 --save_every 0 => not finite in epoch 0, step 1
ImageNet_iNat/test.py --data_root large --no-cuda --workers 0 --loading_path
    fits.pth.tar => fits.pth.tar was trained on digits | MetaSAug_test.py
    head_resume.pth.tar => head_resume.pth.tar | interrupted run
    miscounted.pth.tar => miscounted.pth.tar | 5 classes
    unnamed.pth.tar => unnamed.pth.tar cannot be used: its dataset is of another kind
    listed.pth.tar => listed.pth.tar | --val_list
    infinite.pth.tar --dataset custom => the head, cannot be used: bias holds numbers that are not finite
# folders and files that are written
MetaSAug_CE_train.py --dataset digits --arch resnet8 --no-cuda --epochs 2
    --workdir text => text | cannot be written
    --workdir text/below => text/below | (Not a directory)
    --save_name {'n' * 231} => cannot be written (File name too long)
    --save_name {'é' * 116} => cannot be written (File name too long)
    --idx {'n' * 256} => cannot be written (File name too long)
    --workdir dangling => dangling/checkpoint | cannot be written => dangling dangle
    --workdir pipe => pipe/checkpoint | cannot be written => pipe mkfifo
    --resume auto => name_resume.pth.tar.previous is damaged => {RESUME} damage, {RESUME}.previous damage
    => name.lock cannot be written (Is a directory) => {RUN}name.lock mkdir
MetaSAug_CE_train.py {FOLDER}
    => earlier cannot be written => {RUN}earlier touch, {RUN}name_summary.json touch
    --lr 1e29 => not finite in epoch 0, step | nothing was saved yet
    => name_ckpt.pth.tar cannot be written (No space left on => {RUN}name_ckpt.pth.tar.tmp fill_disk
report.py
    list.json => list.json
    runs --out text/below => text/below cannot be written (Not a directory) => runs a_run
    runs --out pipe => pipe cannot be written (File exists) => runs a_run, pipe mkfifo
    runs --latex wrong => --latex => runs a_run
    runs --baseline nobody => --baseline nobody: no such group; there are “ => runs two_runs
    empty => empty holds no finished run => empty mkdir
    runs empty => empty holds no finished run => runs a_run, empty mkdir
    runs --out out => out/runs.csv exists already: give --force to replace it => runs a_run, out/runs.csv touch
    runs --out out => out cannot be written ( => runs a_run, out touch
    runs --out out => out/runs.csv cannot be written ( => runs a_run, out/runs.csv mkdir
ImageNet_iNat/test.py {TESTED}
    miscounted.pth.tar --out miscounted.pth.tar => would replace miscounted.pth.tar, which this command reads
    crt.pth --val_list good.txt --out good.txt => --out good.txt would replace good.txt, which this command reads
    crt.pth --out large/train/class1/0.png => large/train/class1/0.png is another file than a table of this
    crt.pth --out large => large cannot be written (it is a folder, a pipe or a device)
    crt.pth --out text/x.csv => text/x.csv cannot be written (Not a directory)
    crt.pth --out {'n' * 252} => cannot be written (File name too long)
    crt.pth --out mine.csv => mine.csv is another file than a table of this => mine.csv no_table
    crt.pth --out pipe => pipe cannot be written (it is a folder, a pipe or a => pipe mkfifo
# images and lists
MetaSAug_CE_train.py
    --dataset cifar10 => data/cifar-10-batches-py | --data_root
    --dataset folder --data_root nowhere => nowhere/train
MetaSAug_CE_train.py {FOLDER}
    => class1/1.png => small/train/class1/1.png cut
    => class1/1.png | cannot be read as an image | exceeds limit => small/train/class1/1.png bomb
train_own.py {FINE}
    => bad.png => photos/cat/bad.png touch
ImageNet_iNat/train.py {LARGE}
    => class1/1.png | cannot be read as an image | exceeds limit => large/train/class1/1.png bomb
    => class1/1.png is far too narrow (1 x 30000) => large/train/class1/1.png thin
    => large/train/class1/1.png (50 bytes) cannot be read as an image => large/train/class1/1.png cut
    => large/train/class1/new.png (0 bytes) cannot be read as an image => large/train/class1/new.png touch
    => class1 => large/train/class1 empty
    => no meta image in large/meta for these classes: 1 (class1) => large/meta/class1 empty
    --num_classes 4 => --num_classes 4 contradicts large/train, which has 3 classes: leave it out
    --data_root nowhere => nowhere cannot be read (No such file
    --train_list good.txt => --val_list
    --workdir text => text | cannot be written
ImageNet_iNat/train.py {LARGE} --num_meta 1 --val_list good.txt --train_list
    short.txt => short.txt line 2
    no_class_1.txt => no training image in no_class_1.txt for these classes: 1 (1)
    gone.txt => class1/gone.png is missing
    nowhere.txt => nowhere.txt | --train_list
    good.txt --num_classes 2000000000 => --num_classes 2000000000
ImageNet_iNat/data/prepare_lists.py
    iNaturalist17 => invalid choice
"""


def rows(text):
    """The command, words and faults by place of each row of the table."""
    shared = ""
    for line in text.splitlines():
        if line.startswith(" "):
            flags, words, *spoiled = (part.strip() for part in line.split("=>"))
            command = f"{shared} {flags}".encode("latin-1", "backslashreplace").decode("unicode_escape")
            yield command, words.split(" | "), dict(each.split() for each in "".join(spoiled).split(", ") if each)
        elif line and not line.startswith("#"):
            shared = line


ROWS = [*rows(REFUSALS)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    faults.write_sound(root)
    return root


def signatures(*roots):
    """What tells whether somebody wrote to a file, without reading it."""
    stats = {path: path.stat() for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture
def refused_here(sound, monkeypatch, tmp_path):
    """Run a command as `python3 script ...` in this process, without what it does to that; the line that it must end in."""
    for path in sound.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr(errors, "run_main", lambda main: main())
    monkeypatch.setattr(before_loading, "prepare_process", lambda *_, **__: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(backbone, "resnet50", slim_resnet50)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/")  # nothing listens there
    monkeypatch.chdir(tmp_path)

    def call(command):
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        return wrong(runpy.run_path, str(ROOT / sys.argv[0]), run_name="__main__")

    return call


@pytest.mark.parametrize(("command", "words", "spoil"), ROWS, ids=range(len(ROWS)))
def test_a_fault_is_named_in_one_line_and_files_stay(sound, refused_here, tmp_path, command, words, spoil):
    for place, fault in spoil.items():
        top = tmp_path / place.split("/")[0]
        if top.is_symlink():  # a copy of what is spoiled
            top.unlink()
            shutil.copytree(sound / top.name, top)
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        getattr(faults, fault)(tmp_path / place)
    before = signatures(sound, tmp_path)
    line = refused_here(command)
    assert all(word in line for word in words), line
    after = signatures(sound, tmp_path)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if path.name.endswith((".pth.tar", ".tmp"))]


@pytest.mark.parametrize("script", sorted({command.split()[0] for command, *_ in ROWS}))
def test_the_line_is_the_only_one_and_the_status_2(refused, script):
    assert refused(script, "--nothing").startswith(f"{Path(script).name}: error: ")


@pytest.mark.parametrize(
    "command",
    [
        "MetaSAug_test.py --checkpoint_path",
        "predict.py 'net/photos/a b.jpg' --checkpoint_path",
        *(f"MetaSAug_CE_train.py {FOLDER} {flag}" for flag in ("--stage1", "--resume")),
        *(f"ImageNet_iNat/train.py {LARGE} {flag}" for flag in ("--pretrained", "--resume")),
        "ImageNet_iNat/test.py --loading_path",
    ],
)
def test_a_file_that_holds_code_leaves_no_trace(refused_here, tmp_path, monkeypatch, command):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    file = tmp_path / "code_resume.pth.tar"
    torch.save({"state_dict": Code()}, file)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    told = f"{file.name} is no file of tensors and plain values that torch.save wrote (it holds posix.mkdir)"
    assert told in refused_here(f"{command} {file}")
    assert not (tmp_path / "trace").exists()
    torch.load(file, weights_only=False)  # the control
    assert (tmp_path / "trace").exists()
