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

# lam_of DATASET LOSS IMB_FACTOR: print the cell's λ: that of the file LAM_TABLE, if it has one, else of results/lam.csv.
lam_of() {
  for table in "${LAM_TABLE:-}" "$code/results/lam.csv"; do
    [ -n "$table" ] || continue
    lam=$(awk -F, -v dataset="$1" -v loss="$2" -v factor="$3" '
      { sub(/\r$/, "") }
      NR == 1 && !/^dataset,loss,imb_factor,lam/ { exit 2 }
      $1 == dataset && $2 == loss && $3 + 0 == factor + 0 { print $4 == "" ? "nothing" : $4; exit }' "$table" 2>/dev/null) || {
      echo "error: $table cannot be read as a table of λ: its first line is to be dataset,loss,imb_factor,lam,source" >&2
      return 2
    }
    case $lam in
      "") ;;
      *[!0-9.e-]*) echo "error: $table has λ $lam for $1 $2 $3: a number is needed" >&2 && return 2 ;;
      *) printf '%s\n' "$lam" && return ;;
    esac
  done
  echo "error: no table has a λ for $1 $2 $3" >&2
  return 2
}

# own_flags "FLAG..." WORD...: refuse the flags, which the script sets itself, among the words; dashes and underscores alike.
own_flags() {
  flags=$1
  shift
  for word in "$@"; do
    spelled=$(printf '%s' "$word" | tr _ -)
    for flag in $flags; do
      case $spelled in "$flag" | "$flag"=*) echo "error: this script sets $flag itself: leave it out" >&2 && return 2 ;; esac
    done
  done
}

# same_lam SAVE_NAME LAM: refuse a finished run of another λ than the table now says.
same_lam() {
  summary=$runs/${1}_summary.json
  [ -n "${LAM_TABLE:-}" ] && [ -s "$summary" ] || return 0
  trained=$(sed -n 's/^ *"lam": \([0-9.e-]*\),*$/\1/p' "$summary")
  awk -v a="$trained" -v b="$2" 'BEGIN { exit !(a + 0 == b + 0) }' || {
    echo "error: $1 was trained with λ $trained, $LAM_TABLE says $2: name another --workdir" >&2
    return 2
  }
}
