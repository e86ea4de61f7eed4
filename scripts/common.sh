# Read by the other scripts: trainings that are skipped when finished and resumed when not, and the λ of each cell.

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

# lam_of DATASET LOSS IMB_FACTOR: print the cell's λ: that of the file LAM_TABLE, if there is one, else of results/lam.csv.
lam_of() {
  if [ -n "${LAM_TABLE:-}" ] && [ ! -f "$LAM_TABLE" ]; then
    echo "error: LAM_TABLE $LAM_TABLE is not there: name a file of the form of results/lam.csv" >&2
    return 2
  fi
  cat ${LAM_TABLE:+"$LAM_TABLE"} "$code/results/lam.csv" |
    awk -F, -v dataset="$1" -v loss="$2" -v factor="$3" \
      '$1 == dataset && $2 == loss && $3 + 0 == factor + 0 { print $4; found = 1; exit } END { exit !found }'
}
