# What any machine needs, with GPUs or without: a port, cores, limits, shared memory. Part of scripts/launch_8gpu.sh.
# shellcheck shell=bash disable=SC2154

readonly OPEN_FILES_WANTED=65536
# The queues take a few megabytes of /dev/shm, more with very long contexts; NCCL takes far more where GPUs can't reach
# each other directly.
readonly SHM_WANTED_MB=64
readonly SHM_WANTED_BY_NCCL_MB=1024

check_port() {
    local port=$1
    if [[ $port != 0 ]] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "port $port is in use already; choose another with PORT=… or --port"
    fi
}

tell_cores() {
    local ranks=$1 cores
    cores=$(nproc)
    say "$cores cores, $(awk '/^MemAvailable/ { printf "%.1f", $2 / 1048576 }' /proc/meminfo) GiB of memory available"
    if ((cores >= ranks)); then return; fi
    if [[ $chosen_device == cpu ]]; then
        warn "fewer cores than ranks: it will work, and be slow; fewer ranks would be faster"
    else
        warn "fewer cores than ranks: each rank keeps a core busy with starting kernels, so GPUs will wait"
    fi
}

# Each client is an open file. NCCL registers memory with network cards, which counts as locked.
raise_limits() {
    local hard limit=$OPEN_FILES_WANTED
    hard=$(ulimit -Hn)
    if [[ $hard != unlimited ]] && ((hard < limit)); then limit=$hard; fi
    ulimit -n "$limit" 2>/dev/null || true
    ulimit -l "$(ulimit -Hl)" 2>/dev/null || true
    say "limits: $(ulimit -n) open files, $(ulimit -l | sed 's/[0-9]$/& KiB/') of locked memory"
}

check_shared_memory() {
    local free_mb wanted_mb=$SHM_WANTED_MB
    if [[ $chosen_device == cuda ]]; then wanted_mb=$SHM_WANTED_BY_NCCL_MB; fi
    free_mb=$(df --output=avail --block-size=1M "$root/dev/shm" 2>/dev/null | tail -n 1 | tr -d ' ') || return 0
    [[ $free_mb =~ ^[0-9]+$ ]] || return 0
    if ((free_mb < wanted_mb)); then
        warn "/dev/shm has only $free_mb MB free; if the start fails, enlarge it (in Docker: --shm-size 1g)"
    fi
}
