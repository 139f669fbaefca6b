#!/usr/bin/env bash
# For whoever has a GPU for ten minutes: does the backend compute as it should there? Writes one report, gpu-check.json.
#
#   scripts/gpu_check.sh [REPORT.json]
#
#   SHARDWIRE=PATH   the binary to check (default: target/release/shardwire, built if cargo is there)
#   MODEL=…          what to serve (default: the default model, fetched once)
#   TOKENS=256       how many tokens to have made
#   SPEED=real       how large what is measured is: real, or small to try this script
#   CUDA_VISIBLE_DEVICES chooses GPUs; every visible one is checked, and with several a model is served on two as well.
#
# What it does: every operation against its plain reference on every GPU, with f32 and bf16 activations, and with several
# GPUs what they do together; how fast each of them is (`shardwire selftest --speed`); a model served over HTTP, with steps
# recorded as graphs and without, on one GPU and on two, whose greedy tokens must be the same; and NVIDIA's compute-sanitizer
# over the selftest, where it is installed.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
report=${1:-gpu-check.json}
binary=${SHARDWIRE:-$repository/target/release/shardwire}
tokens=${TOKENS:-256}
speed=${SPEED:-real}
work=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

say() { printf '%s\n' "gpu_check: $*" >&2; }
fail() { say "$*"; exit 2; }

# A text as a JSON string.
quoted() {
    sed -e 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g' -e 's/[[:cntrl:]]//g' |
        awk 'BEGIN { printf "\"" } { printf "%s%s", between, $0; between = "\\n" } END { printf "\"" }'
}

# step NAME COMMAND…: its outcome and the end of what it said become a part of the report.
steps=()
failed=0
step() {
    local name=$1 began ended code=0
    shift
    say "$name"
    began=$(date +%s.%N)
    "$@" >"$work/said" 2>&1 || code=$?
    ended=$(date +%s.%N)
    if ((code != 0)); then
        failed=$((failed + 1))
        tail -n 5 "$work/said" >&2
    fi
    steps+=("$(printf '    {"step": "%s", "ok": %s, "seconds": %s, "said": %s}' "$name" "$( ((code == 0)) && echo true || echo false)" \
        "$(awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.2f", b - a }')" "$(tail -n 40 "$work/said" | quoted)")")
}

build() {
    [[ -x $binary ]] && return
    [[ -z ${SHARDWIRE:-} ]] || fail "SHARDWIRE=$SHARDWIRE is not an executable file"
    command -v cargo >/dev/null || fail "$binary is not built, and cargo is not there to build it (https://rustup.rs)"
    say "building (once, a few minutes)"
    (cd "$repository" && cargo build --release --locked --bin shardwire) || fail "the build failed"
}

# serve NAME FLAGS…: serves, has tokens made greedily, and leaves them in $work/NAME.tokens.
serve() {
    local name=$1 url='' began ended made
    shift
    "$binary" serve --device cuda --host 127.0.0.1 --port 0 --log-dir "$work/$name.log" "${model[@]}" "$@" \
        >"$work/$name.out" 2>"$work/$name.err" &
    server=$!
    while [[ -z $url ]]; do
        kill -0 "$server" 2>/dev/null || { server=; tail -n 5 "$work/$name.err"; return 1; }
        url=$(sed -n 's/^Shardwire is ready: \([^ ]*\).*/\1/p' "$work/$name.out")
        sleep 0.1
    done
    # Once to warm up: kernels are compiled, steps recorded.
    ask "$url" >/dev/null
    began=$(date +%s.%N)
    ask "$url" >"$work/$name.json"
    ended=$(date +%s.%N)
    curl -sf "$url/ranks" || true
    kill "$server"
    wait "$server" || true
    server=
    sed 's/.*"completion_token_ids":\[\([0-9,]*\)\].*/\1/' "$work/$name.json" >"$work/$name.tokens"
    made=$(tr ',' '\n' <"$work/$name.tokens" | grep -c .)
    awk -v n="$made" -v a="$began" -v b="$ended" 'BEGIN { printf "\n%d tokens, one stream, prompt included: %.1f tokens/s\n", n, n / (b - a) }'
    ((made == tokens))
}

ask() {
    curl -sf "$1/v1/completions" -H 'content-type: application/json' --data \
        '{"prompt": [1, 2, 3, 4, 5, 6, 7, 8], "max_tokens": '"$tokens"', "temperature": 0, "ignore_eos": true, "return_token_ids": true}'
}

same_tokens() { cmp "$work/$1.tokens" "$work/$2.tokens"; }

sanitize() {
    SHARDWIRE_GUARD_MEMORY=1 timeout 300 compute-sanitizer --tool "$1" --error-exitcode 9 "$binary" selftest --device cuda
}

command -v curl >/dev/null || fail "curl is not there"
build
model=()
[[ -z ${MODEL:-} ]] || model=(--model "$MODEL")
step "machine" "$binary" collect-env
step "every operation on every GPU, and how fast" "$binary" selftest --device cuda --speed="$speed"
gpus=$(grep -o 'cuda:[0-9]*' "$work/said" | sort -u | wc -l)
step "a model served, steps recorded" serve recorded
step "a model served, kernel by kernel" serve eager --enforce-eager
step "recorded steps make the same tokens" same_tokens recorded eager
if ((gpus > 1)); then
    step "a model served on two GPUs" serve two --tensor-parallel-size 2
    step "a model served on two GPUs by NCCL alone" serve nccl --tensor-parallel-size 2 --disable-custom-all-reduce
fi
if command -v compute-sanitizer >/dev/null; then
    step "compute-sanitizer: memory" sanitize memcheck
    step "compute-sanitizer: races in shared memory" sanitize racecheck
else
    say "compute-sanitizer is not installed: left out"
fi
{
    printf '{\n  "version": %s,\n  "gpus": %d,\n  "failed": %d,\n  "steps": [\n' "$("$binary" --version | quoted)" "$gpus" "$failed"
    for ((i = 0; i < ${#steps[@]}; i++)); do printf '%s%s\n' "${steps[i]}" "$( ((i + 1 < ${#steps[@]})) && echo ,)"; done
    printf '  ]\n}\n'
} >"$report"
say "$((${#steps[@]})) steps, $failed failed; the report is $report"
((failed == 0))
