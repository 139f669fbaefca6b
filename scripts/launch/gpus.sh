# Which GPUs there are, which of them are taken, and whether they are well. Part of scripts/launch_8gpu.sh.
# shellcheck shell=bash disable=SC2154

readonly DRIVER_LEAST=550
# A driver in trouble may hang whoever asks it.
readonly SMI_WITHIN_S=30
# What a GPU may have in use that nobody computes on.
readonly IDLE_MIB_MAX=1024

has_smi() { command -v nvidia-smi >/dev/null; }

has_driver() { has_smi || [[ -e $root/proc/driver/nvidia/version ]]; }

# Answers of nvidia-smi, which says what is wrong on either of its outputs.
smi() {
    local answer code=0
    answer=$(timeout "$SMI_WITHIN_S" nvidia-smi "$@" 2>&1) || code=$?
    if ((code == 124)); then
        fail "nvidia-smi did not answer within $SMI_WITHIN_S s: the driver or a GPU is in trouble (see dmesg)"
    elif ((code != 0)); then
        fail "nvidia-smi fails: $(head -n 1 <<<"$answer"); DEVICE=cpu runs without GPUs"
    fi
    printf '%s\n' "$answer"
}

# Fills the arrays gpu_*, one element per GPU of the machine.
find_gpus() {
    driver_version=
    gpu_index=() gpu_uuid=() gpu_name=() gpu_total_mib=() gpu_used_mib=()
    gpu_persistence=() gpu_mig=() gpu_mode=() gpu_ecc=()
    if has_smi; then ask_smi; else ask_driver; fi
}

ask_smi() {
    local rows index uuid name total used persistence mig mode ecc
    local fields=driver_version,index,uuid,name,memory.total,memory.used,persistence_mode,mig.mode.current,compute_mode
    rows=$(smi --format=csv,noheader,nounits --query-gpu="$fields,ecc.errors.uncorrected.volatile.total")
    while IFS=, read -r driver index uuid name total used persistence mig mode ecc; do
        if [[ -z $index ]]; then continue; fi # an empty answer, or `No devices were found`
        gpu_index+=("$index") gpu_uuid+=("$uuid") gpu_name+=("$name")
        gpu_total_mib+=("$total") gpu_used_mib+=("$used")
        gpu_persistence+=("$persistence") gpu_mig+=("$mig") gpu_mode+=("$mode") gpu_ecc+=("$ecc")
        driver_version=$driver
    done <<<"${rows//, /,}"
}

# The driver's own files, which tell less.
ask_driver() {
    local folder told
    for folder in "$root"/proc/driver/nvidia/gpus/*/; do
        told=$(cat "$folder/information" 2>/dev/null) || continue
        gpu_index+=("${#gpu_index[@]}")
        gpu_uuid+=("$(sed -n 's/^GPU UUID:[[:space:]]*//p' <<<"$told")")
        gpu_name+=("$(sed -n 's/^Model:[[:space:]]*//p' <<<"$told")")
    done
    driver_version=$(grep -oE '[0-9]{3}\.[0-9]+(\.[0-9]+)?' "$root/proc/driver/nvidia/version" | sed -n 1p)
}

sees_gpus() { ((${#gpu_index[@]} > 0)) && [[ -n ${CUDA_VISIBLE_DEVICES-all} ]]; }

check_driver() {
    if [[ $driver_version =~ ^[0-9]+ ]] && ((BASH_REMATCH[0] < DRIVER_LEAST)); then
        fail "the driver has version $driver_version; $DRIVER_LEAST is the least"
    fi
    say "driver ${driver_version:-unknown}"
    has_smi || warn "nvidia-smi is not there: memory, users and health of the GPUs and their links are not checked"
}

# Chooses so many GPUs: those of CUDA_VISIBLE_DEVICES, else the first that are idle. `chosen` has their places in gpu_*.
choose_gpus() {
    local wanted=$1 found
    check_driver
    find_users
    chosen=()
    found=${#gpu_index[@]}
    if [[ -n ${CUDA_VISIBLE_DEVICES+given} ]]; then
        choose_named
        found=${#chosen[@]}
        chosen=("${chosen[@]:0:wanted}")
    else
        choose_idle "$wanted"
    fi
    if ((found < wanted)); then
        local remedy="DEVICE=cpu"
        ((found == 0)) || remedy="GPUS=$found, or DEVICE=cpu"
        fail "$wanted ranks want $wanted GPUs, and $found are visible; $remedy"
    fi
    # So that a GPU's number means the same to CUDA as to nvidia-smi.
    set_variable CUDA_DEVICE_ORDER PCI_BUS_ID
    if ((${#gpu_index[@]} > wanted)) && [[ -z ${CUDA_VISIBLE_DEVICES+given} ]]; then
        local numbers
        numbers=$(list_chosen ,)
        set_variable CUDA_VISIBLE_DEVICES "$numbers"
    fi
    check_kind
    check_idle
    check_health
}

# The variable has this value from now on, unless the user gave it one.
set_variable() {
    [[ -z ${!1+given} ]] || return 0
    export "$1=$2"
    variables+=("$1=$2")
}

list_chosen() {
    local at list=
    for at in "${chosen[@]}"; do list+="${gpu_index[at]}$1"; done
    printf '%s' "${list%"$1"}"
}

choose_named() {
    local name at found
    for name in ${CUDA_VISIBLE_DEVICES//,/ }; do
        [[ $name != MIG-* ]] || fail "CUDA_VISIBLE_DEVICES names $name, a part of a GPU; ranks want whole ones"
        found=
        for at in "${!gpu_index[@]}"; do
            if [[ ${gpu_index[at]} == "$name" || ($name == GPU-* && ${gpu_uuid[at]} == "$name"*) ]]; then found=$at; fi
        done
        [[ -n $found ]] || fail "CUDA_VISIBLE_DEVICES names GPU $name, and there is none such"
        chosen+=("$found")
    done
}

# The first idle ones; without enough of them the first of all, so that who is in the way is told.
choose_idle() {
    local wanted=$1 at
    for at in "${!gpu_index[@]}"; do
        [[ -n ${gpu_users[at]} ]] || chosen+=("$at")
    done
    ((${#chosen[@]} >= wanted)) || chosen=("${!gpu_index[@]}")
    chosen=("${chosen[@]:0:wanted}")
}

# Who uses each GPU, in `gpu_users`: processes, or memory taken by somebody who isn't seen (in another container).
find_users() {
    local at uuid pid name used apps
    gpu_users=()
    for at in "${!gpu_index[@]}"; do gpu_users[at]=; done
    has_smi || return 0
    apps=$(smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits)
    while IFS=, read -r uuid pid name used; do
        for at in "${!gpu_index[@]}"; do
            [[ ${gpu_uuid[at]} != "$uuid" ]] || gpu_users[at]+="${gpu_users[at]:+, }process $pid ($name, $used MiB)"
        done
    done <<<"${apps//, /,}"
    for at in "${!gpu_index[@]}"; do
        if [[ -z ${gpu_users[at]} && ${gpu_used_mib[at]} =~ ^[0-9]+$ ]] && ((gpu_used_mib[at] > IDLE_MIB_MAX)); then
            gpu_users[at]="${gpu_used_mib[at]} MiB of its memory are taken"
        fi
    done
}

check_kind() {
    local at first=${chosen[0]}
    for at in "${chosen[@]}"; do
        if [[ ${gpu_name[at]} != "${gpu_name[first]}" || ${gpu_total_mib[at]:-} != "${gpu_total_mib[first]:-}" ]]; then
            refuse "GPU ${gpu_index[first]} is a ${gpu_name[first]}, GPU ${gpu_index[at]} a ${gpu_name[at]}: all would \
wait for the slowest and have the memory of the smallest; CUDA_VISIBLE_DEVICES chooses others"
            break
        fi
    done
    local memory=${gpu_total_mib[first]:-}
    if [[ $memory =~ ^[0-9]+$ ]]; then memory=", $memory MiB each"; else memory=; fi
    say "GPUs $(list_chosen ' '): ${gpu_name[first]}$memory"
}

check_idle() {
    local at
    for at in "${chosen[@]}"; do
        [[ -z ${gpu_users[at]} ]] || refuse "GPU ${gpu_index[at]} is in use: ${gpu_users[at]}"
    done
}

# What nvidia-smi knows of GPUs that will not work, or not well.
check_health() {
    has_smi || return 0
    local at gpu xid state
    for at in "${chosen[@]}"; do
        gpu=${gpu_index[at]}
        [[ ${gpu_mig[at]} != Enabled ]] || refuse "GPU $gpu is divided (MIG); nvidia-smi -i $gpu -mig 0 makes it whole"
        [[ ${gpu_mode[at]} != Prohibited ]] || refuse "GPU $gpu is closed to work; nvidia-smi -i $gpu -c 0 opens it"
        if [[ ${gpu_ecc[at]} =~ ^[1-9][0-9]*$ ]]; then
            warn "GPU $gpu had ${gpu_ecc[at]} memory errors that could not be corrected; reset it, or leave it out"
        fi
    done
    if [[ ${gpu_persistence[chosen[0]]} == Disabled ]]; then
        warn "persistence mode is off: the driver lets go of idle GPUs, so that starts take longer; nvidia-smi -pm 1"
    fi
    # On machines with NVSwitch: until the fabric is there, CUDA answers that the system is not ready.
    state=$(smi -q 2>/dev/null |
        awk -F': *' '/^ *Fabric *$/ { is_next = 1 } is_next && /^ *State *:/ { print $2; is_next = 0 }') || state=
    if [[ $state == *"In Progress"* || $state == *"Not Started"* ]]; then
        refuse "the NVSwitch fabric is not up (${state%%$'\n'*}); systemctl status nvidia-fabricmanager"
    fi
    xid=$(dmesg 2>/dev/null | grep 'NVRM: Xid' | tail -n 1) || true
    [[ -z $xid ]] || warn "the kernel's log has errors of GPUs, the last one: $xid"
}
