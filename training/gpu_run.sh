#!/usr/bin/env bash
#
#   bash training/gpu_run.sh setup                          wheels and sounds into place, nothing more
#   bash training/gpu_run.sh check SECONDS                  speeds of mixer and networks, one step of each
#   bash training/gpu_run.sh STAGE SECONDS [FIT_MINUTES] [NAME=VALUE ...]
#
# STAGE is listener-clips, listener, codec, editor or planner: training/configs/STAGE-gpu.yaml into $HOME_DIR/runs/STAGE-gpu.
# SECONDS is this call's limit: training is told to stop (SIGTERM: it saves, evaluates, writes the model) 45 s before.
# FIT_MINUTES is how long the stage shall take over all its calls; the learning rate decays over that. "-" keeps the plan.
# What was carried stays in $HOME_DIR while the machine is held; see training/GPU.md.
set -uo pipefail
started=$(date +%s)
stage=${1:?stage}
limit=${2:-60}
fit=${3:--}
shift $(( $# > 3 ? 3 : $# ))
root=$(pwd)
home=${HOME_DIR:-/root/smartdj}
out=${OUT:-$root/out}
carry=${CARRY:-.gpu}
python=${PYTHON:-python3}
mkdir -p "$home/site" "$home/runs" "$out"
export PYTHONPATH="$root:$home/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export SMARTDJ_CLIPS="$home/clips" SMARTDJ_CACHE="$home/cache" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True TORCHINDUCTOR_CACHE_DIR="$home/inductor"

if compgen -G "$carry/wheels/*.whl" > /dev/null && [ ! -e "$home/wheels-done" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$home/site" \
    "$carry"/wheels/*.whl && touch "$home/wheels-done" || exit 3
fi
for folder in "$carry" .gpu-run; do
  [ -d "$folder" ] && { "$python" -m training.gpu_pack unpack "$folder" "$home" --jobs "$(nproc)" || exit 4; }
done
[ -e "$home/clips/clips.json" ] || unset SMARTDJ_CLIPS
[ -e runs ] || ln -s "$home/runs" runs
echo "ready after $(( $(date +%s) - started )) s: $(ls "$home" "$home/runs" | tr '\n' ' ')"
[ "$stage" = setup ] && exit 0
if [ "$stage" = check ]; then
  timeout "$limit" "$python" -m training.gpu_check 2>&1 | tee "$out/check.txt"
  exit "${PIPESTATUS[0]}"
fi

module=${stage%-clips}
run="$home/runs/$stage-gpu"
mkdir -p "$run"
arguments=(--config "training/configs/$stage-gpu.yaml" --out "$run" --device "${DEVICE:-cuda}")
[ "$fit" != "-" ] && arguments+=(--fit-minutes "$fit")
[ "$#" -gt 0 ] && arguments+=(--set "$@")
left=$(( limit - ($(date +%s) - started) - ${RESERVE:-45} ))
timeout --preserve-status --kill-after="$(( ${RESERVE:-45} * 2 / 3 ))" "$(( left > 5 ? left : 5 ))" \
  "$python" -m "training.$module" "${arguments[@]}" 2>&1 | tee "$out/$stage.txt"
code=${PIPESTATUS[0]}
# Whatever happened, what is on the disk comes back: at most 8 files a call, so a first stage may be left there (MEGABYTES=0).
[ "${MEGABYTES:-60}" = 0 ] || "$python" -m training.gpu_pack split "$run" "$out" --megabytes "${MEGABYTES:-60}"
tail -n 3 "$run/log.jsonl" 2> /dev/null
echo "$stage: exit $code after $(( $(date +%s) - started )) s"
exit "$code"
