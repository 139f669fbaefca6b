#!/usr/bin/env bash
# Serves one model on the eight GPUs of this machine: --tensor-parallel-size 8.
#
#   scripts/launch_8gpu.sh --model DIR|FILE.gguf [any other flag of `shardwire serve`]
#
#   DEVICE=auto|cuda|cpu   where the ranks run (default: auto, the best that this machine and this build have)
#   HOST=0.0.0.0 PORT=8188 where to listen
#   SHARDWIRE=PATH         the binary to run instead of target/release/shardwire
#   CUDA_VISIBLE_DEVICES   which GPUs, if there are more than eight
#
# DEVICE=cpu runs the same eight processes, queues and collectives on the processor.
set -euo pipefail

readonly RANKS=8
readonly OPEN_FILES_WANTED=65536
readonly SHM_WANTED_MB=64

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
binary=${SHARDWIRE:-$repository/target/release/shardwire}
host=${HOST:-0.0.0.0}
port=${PORT:-8188}

say() { printf '%s\n' "launch_8gpu: $*" >&2; }
fail() { say "$*"; exit 2; }

# The value of the last `--flag VALUE` or `--flag=VALUE` among the arguments, else the default: the server's own flags
# win over the environment.
value_of() {
    local flag=$1 value=$2
    shift 2
    while (($#)); do
        case $1 in
            "$flag") value=${2:-} ;;
            "$flag"=*) value=${1#*=} ;;
        esac
        shift
    done
    printf '%s' "$value"
}

is_given() {
    local flag=$1 argument
    shift
    for argument in "$@"; do
        if [[ $argument == "$flag" || $argument == "$flag="* ]]; then return 0; fi
    done
    return 1
}

gpu_count() {
    command -v nvidia-smi >/dev/null || { echo 0; return; }
    if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
        awk -F, '{ print NF }' <<<"$CUDA_VISIBLE_DEVICES"
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
    fi
}

choose_device() {
    local device
    device=$(value_of --device "${DEVICE:-auto}" "$@")
    case $device in
        auto | cpu | cuda) echo "$device" ;;
        *) fail "DEVICE=$device: it must be cuda, cpu or auto" ;;
    esac
}

# Only tells what is there: whether that is enough is the server's to say.
tell_gpus() {
    local gpus line
    gpus=$(gpu_count)
    if ((gpus == 0)); then
        say "no GPU is visible (nvidia-smi); DEVICE=cpu runs without"
    elif ((gpus < RANKS)); then
        say "$RANKS ranks want $RANKS GPUs, and $gpus are visible"
    fi
    nvidia-smi --query-gpu=index,name,memory.total,memory.free --format=csv,noheader 2>/dev/null | while IFS= read -r line; do
        say "GPU $line"
    done || true
}

tell_cores() {
    local cores
    cores=$(nproc)
    say "$cores cores, $(awk '/^MemAvailable/ { printf "%d", $2 / 1024 }' /proc/meminfo) MB of memory available"
    ((cores >= RANKS)) || say "fewer cores than ranks: it will work, and be slow; fewer ranks would be faster"
}

# The queues live in /dev/shm: a few megabytes, more with very long contexts.
check_shared_memory() {
    local free_mb
    free_mb=$(df --output=avail --block-size=1M /dev/shm 2>/dev/null | tail -n 1 | tr -d ' ') || return 0
    [[ $free_mb =~ ^[0-9]+$ ]] || return 0
    ((free_mb >= SHM_WANTED_MB)) || say "/dev/shm has only $free_mb MB free; if the start fails, enlarge it (in Docker: --shm-size 1g)"
}

# Each client is an open file.
raise_open_files() {
    local hard limit
    hard=$(ulimit -Hn)
    limit=$OPEN_FILES_WANTED
    if [[ $hard != unlimited ]] && ((hard < limit)); then limit=$hard; fi
    ulimit -n "$limit" 2>/dev/null || true
    say "at most $(ulimit -n) open files"
}

check_port() {
    local port=$1
    if [[ $port != 0 ]] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "port $port is in use already; choose another with PORT=… or --port"
    fi
}

build() {
    [[ -x $binary ]] && return
    [[ -z ${SHARDWIRE:-} ]] || fail "SHARDWIRE=$SHARDWIRE is not an executable file"
    command -v cargo >/dev/null || fail "$binary is not built, and cargo is not there to build it (https://rustup.rs)"
    say "building (once, a few minutes)"
    (cd "$repository" && cargo build --release --locked --bin shardwire) || fail "the build failed"
}

main() {
    [[ $(uname -s) == Linux ]] || fail "only Linux is supported"
    local device
    device=$(choose_device "$@")
    host=$(value_of --host "$host" "$@")
    port=$(value_of --port "$port" "$@")
    if [[ $device != cpu ]]; then tell_gpus; fi
    tell_cores
    check_shared_memory
    raise_open_files
    check_port "$port"
    build
    say "$RANKS ranks on $device, listening at $host:$port, model $(value_of --model 'the default one' "$@")"
    local flags=(--tensor-parallel-size "$RANKS")
    is_given --device "$@" || flags+=(--device "$device")
    is_given --host "$@" || flags+=(--host "$host")
    is_given --port "$@" || flags+=(--port "$port")
    exec "$binary" serve "${flags[@]}" "$@"
}

main "$@"
