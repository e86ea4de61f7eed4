# Read by ablation.sh and reproduce_cifar.sh: trainings that are skipped when finished and resumed when not.

# workdir_of FLAG...: print the value of --workdir among the flags, "." without one.
workdir_of() {
  found=.
  take=false
  for word in "$@"; do
    if $take; then found=$word; take=false; fi
    case $word in --workdir) take=true ;; --workdir=*) found=${word#*=} ;; esac
  done
  printf '%s\n' "$found"
}

# train LOSS IDX SAVE_NAME FLAG...: one training in $workdir/checkpoint/ours/IDX, unless its summary is there.
train() {
  loss=$1 idx=$2 save=$3
  shift 3
  if [ -f "$workdir/checkpoint/ours/$idx/${save}_summary.json" ]; then
    echo "== $save is finished"
  else
    echo "== $save"
    ${PYTHON:-python3} "$code/MetaSAug_${loss}_train.py" --idx "$idx" --save_name "$save" --resume auto "$@"
  fi
}
