#!/usr/bin/env bash
# Serves one model on the eight GPUs of this machine: --tensor-parallel-size 8. Before that it looks at the machine,
# says what it found and chose, a line each, and refuses what would fail later or be far slower than it should.
#
#   scripts/launch_8gpu.sh [--dry-run] --model DIR|FILE.gguf|OWNER/NAME [any other flag of `shardwire serve`]
#
#   --dry-run              checks, prints the command on standard output, starts nothing and fetches nothing
#   GPUS=8                 how many GPUs, and so ranks; the same as --tensor-parallel-size
#   DEVICE=auto|cuda|cpu   where the ranks run (auto: on GPUs where there is a driver for them, else on the processor)
#   HOST=0.0.0.0 PORT=8188 where to listen
#   CUDA_VISIBLE_DEVICES   which GPUs; otherwise the first that nobody uses
#   FORCE=1                only warns where it would refuse by its own judgement
#   SHARDWIRE=PATH         the binary to run instead of target/release/shardwire
#
# DEVICE=cpu runs the same eight processes, queues and collectives on the processor.
set -euo pipefail

repository=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
binary=${SHARDWIRE:-$repository/target/release/shardwire}
# The system's files are looked up below this folder; for tests.
root=${LAUNCH_ROOT:-}

say() { printf '%s\n' "launch_8gpu: $*" >&2; }
warn() { say "warning: $*"; }
fail() { say "$*"; exit 2; }

# What could work all the same, against expectation.
refuse() {
    [[ ${FORCE:-0} == 1 ]] || fail "$* (FORCE=1 tries it all the same)"
    warn "$*"
}

# shellcheck source=scripts/launch/flags.sh
source "$repository/scripts/launch/flags.sh"
# shellcheck source=scripts/launch/machine.sh
source "$repository/scripts/launch/machine.sh"
# shellcheck source=scripts/launch/gpus.sh
source "$repository/scripts/launch/gpus.sh"
# shellcheck source=scripts/launch/links.sh
source "$repository/scripts/launch/links.sh"
# shellcheck source=scripts/launch/model.sh
source "$repository/scripts/launch/model.sh"

# Where the ranks run, in `chosen_device`. `auto` is decided here: the server by itself would compute on the processor
# where there are GPUs that can't be used.
choose_device() {
    chosen_device=$1
    [[ $chosen_device == @(auto|cuda|cpu) ]] || fail "DEVICE=$chosen_device: it must be cuda, cpu or auto"
    if [[ $chosen_device == cpu ]]; then return; fi
    if has_driver; then
        find_gpus
        if [[ $chosen_device == cuda ]] || sees_gpus; then
            chosen_device=cuda
            return
        fi
        say "no GPU is visible: computing on the processor"
    elif [[ $chosen_device == cuda ]]; then
        fail "there is no NVIDIA driver (nvidia-smi, /proc/driver/nvidia); DEVICE=cpu runs without"
    else
        say "there is no NVIDIA driver: computing on the processor"
    fi
    chosen_device=cpu
}

build() {
    [[ -x $binary ]] && return
    [[ -z ${SHARDWIRE:-} ]] || fail "SHARDWIRE=$SHARDWIRE is not an executable file"
    [[ $is_dry == false ]] || return 0
    command -v cargo >/dev/null || fail "$binary is not built, and cargo is not there to build it (https://rustup.rs)"
    say "building (once, a few minutes)"
    (cd "$repository" && cargo build --release --locked --bin shardwire) || fail "the build failed"
}

# The command as somebody could type it, the variables that this script has set in front.
print_command() {
    local word line=
    for word in "${variables[@]}" "$@"; do line+="$(printf '%q' "$word") "; done
    printf '%s\n' "${line% }"
}

main() {
    [[ $(uname -s) == Linux ]] || fail "only Linux is supported"
    is_dry=false
    variables=()
    read_flags "$@"
    local ranks host port
    ranks=$(value_of --tensor-parallel-size "${GPUS:-8}")
    [[ $ranks =~ ^([1-9]|[1-5][0-9]|6[0-4])$ ]] || fail "GPUS=$ranks: it must be a number from 1 to 64"
    host=$(value_of --host "${HOST:-0.0.0.0}")
    port=$(value_of --port "${PORT:-8188}")
    choose_device "$(value_of --device "${DEVICE:-auto}")"
    check_port "$port"
    tell_cores "$ranks"
    raise_limits
    if [[ $chosen_device == cuda ]]; then
        choose_gpus "$ranks"
        check_links
        set_nccl
    fi
    check_shared_memory
    build
    check_model "$ranks"
    say "$ranks ranks on $chosen_device, listening at $host:$port, model $(value_of --model 'the default one')"
    local command=("$binary" serve "${flags[@]}")
    is_given --tensor-parallel-size || command+=(--tensor-parallel-size "$ranks")
    [[ $(value_of --device '') == "$chosen_device" ]] || command+=(--device "$chosen_device")
    is_given --host || command+=(--host "$host")
    is_given --port || command+=(--port "$port")
    if [[ $is_dry == true ]]; then
        print_command "${command[@]}"
    else
        exec "${command[@]}"
    fi
}

main "$@"
