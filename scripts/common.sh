# Read by the other scripts, with the project's folder in $code: the interpreter, trainings that are skipped when finished and
# resumed when not, the λ of each cell, and the part of the work that one machine of several has.

# PYTHON is the interpreter: what the caller says, else that of .venv, which `make demo` and `make test` fill, else python3.
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x "$code/.venv/bin/python" ] || PYTHON=$code/.venv/bin/python
fi

# value_of FLAG DEFAULT WORD...: print the value of a flag among the words, the default without one.
value_of() {
  flag=$1 found=$2
  shift 2
  take=false
  for word in "$@"; do
    if $take; then found=$word; take=false; fi
    case $word in "$flag") take=true ;; "$flag"=*) found=${word#*=} ;; esac
  done
  printf '%s\n' "$found"
}

# train LOSS IDX SAVE_NAME FLAG...: one training in $workdir/checkpoint/ours/IDX. The training script itself says that it is
# finished, or refuses other flags than it was made with; but it would carry a shorter one on, whose stage 2 began too early.
train() {
  loss=$1 idx=$2 save=$3
  shift 3
  summary=$workdir/checkpoint/ours/$idx/${save}_summary.json
  epochs=$(value_of --epochs 200 "$@")
  if [ -f "$summary" ] && ! grep -q "^ *\"epochs\": $epochs,*\$" "$summary"; then
    echo "error: $save is finished with another length than --epochs $epochs: name another --workdir" >&2
    return 2
  fi
  echo "== $save"
  "$PYTHON" "$code/MetaSAug_${loss}_train.py" --idx "$idx" --save_name "$save" --resume auto "$@"
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

# own_flags "FLAG..." WORD...: refuse the flags, which the script sets itself, among the words, and those of `train`; dashes
# and underscores alike.
own_flags() {
  flags="$1 --idx --save-name --resume"
  shift
  for word in "$@"; do
    spelled=$(printf '%s' "$word" | tr _ -)
    for flag in $flags; do
      case $spelled in "$flag" | "$flag"=*) echo "error: this script sets $flag itself: leave it out" >&2 && return 2 ;; esac
    done
  done
}

# read_shard WORD...: $shard and $shards are I and N of leading words `--shard I/N`, 1 and 1 without; $taken counts these words.
read_shard() {
  part=1/1 taken=0
  case ${1:-} in
    --shard) part=${2:-} taken=$(($# > 1 ? 2 : 1)) ;;
    --shard=*) part=${1#*=} taken=1 ;;
  esac
  shift $taken
  shard=${part%/*} shards=${part#*/}
  case $part in 0* | */0* | /* | */ | */*/* | *[!0-9/]*) shards=0 ;; */*) ;; *) shards=0 ;; esac
  if [ "$shards" -lt 1 ] || [ "$shard" -gt "$shards" ]; then
    echo "error: --shard $part makes no sense: write I/N for the I-th of N parts" >&2
    return 2
  fi
  for word in "$@"; do
    case $word in --shard | --shard=*) echo "error: --shard I/N goes before the flags of the trainings" >&2 && return 2 ;; esac
  done
}

# in_shard NUMBER: whether the NUMBER-th piece of work, from 1 on, is in this part.
in_shard() {
  [ $(($1 % shards)) -eq $((shard % shards)) ]
}

# check_seeds SEED...: refuse what is no seed, and one that is named twice, which two parts might train at once. $seed_count is
# how many there are.
check_seeds() {
  checked=" " seed_count=$#
  for seed in "$@"; do
    case $seed in *[!0-9]* | 0?*) echo "error: SEEDS has $seed: a seed is a number of 0 or more" >&2 && return 2 ;; esac
    case $checked in *" $seed "*) echo "error: SEEDS has $seed twice" >&2 && return 2 ;; esac
    checked="$checked$seed "
  done
}
