# Whether the model fits, and how long its files will take. Part of scripts/launch_8gpu.sh.
# shellcheck shell=bash disable=SC2154

# The least context that a launch is for, unless --max-model-len says another.
readonly CONTEXT_LEAST=4096
# Of a GPU's memory, for activations, for the driver and for NCCL; as the server reckons.
readonly RESERVED_PERCENT=4
# Flags of `serve` that decide what a model takes.
readonly SIZE_FLAGS=(--revision --download-dir --quantization --dtype --load-choices --kv-cache-dtype --max-model-len)

check_model() {
    local ranks=$1 model
    model=$(value_of --model '')
    if [[ -z $model ]]; then return; fi
    if [[ ! -x $binary ]]; then
        say "$binary is not built yet: whether the model fits is not checked"
        return
    fi
    local found is_here=true
    # Anything but OWNER/NAME[:QUANT] is a path, and `inspect` says what is wrong with it.
    if [[ ! -e $model && $model =~ ^[[:alnum:]][^/]*/[^/]+$ ]]; then fetch "$model" || is_here=false; fi
    if ! found=$(inspect "$model" "$ranks" 2>&1); then
        [[ $is_here == false ]] || fail "$(tail -n 1 <<<"$found" | sed 's/^shardwire: //')"
        say "the model is not here yet: whether it fits is not checked"
        return
    fi
    tell_files "$(figure path <<<"$found")" "$(figure file_bytes <<<"$found")"
    # A GPU that shares the machine's memory has none to tell of.
    if [[ $chosen_device == cuda && ${gpu_total_mib[*]} =~ ^[0-9\ ]+$ ]]; then
        check_fit "$model" "$ranks" "$(most_on_a_rank <<<"$found")"
    fi
}

# A model of the hub is brought here first, where that can be watched; a dry run does with what is here.
fetch() {
    local flag chosen_flags=()
    if [[ $is_dry == true ]]; then
        export HF_HUB_OFFLINE=1
        return 1
    fi
    for flag in --revision --download-dir; do
        if is_given "$flag"; then chosen_flags+=("$flag=$(value_of "$flag" '')"); fi
    done
    "$binary" fetch "${chosen_flags[@]}" -- "$1" >/dev/null || exit 2
}

# A figure of the whole model, out of what `inspect` found.
figure() { sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\).*/\1/p"; }

# `shardwire inspect` of the model on so many ranks, with further flags.
inspect() {
    local model=$1 ranks=$2 flag chosen_flags=()
    shift 2
    for flag in "${SIZE_FLAGS[@]}"; do
        if is_given "$flag"; then chosen_flags+=("$flag=$(value_of "$flag" '')"); fi
    done
    if is_given --enable-expert-parallel; then chosen_flags+=(--enable-expert-parallel); fi
    is_given --max-model-len || chosen_flags+=("--max-model-len=$CONTEXT_LEAST")
    # As the server does on GPUs.
    if ! is_given --kv-cache-dtype && [[ $(value_of --dtype auto) != @(f32|float32) ]]; then
        chosen_flags+=(--kv-cache-dtype=bf16)
    fi
    "$binary" inspect --json --tensor-parallel-size="$ranks" "${chosen_flags[@]}" "$@" -- "$model"
}

# Out of what `inspect` found, of the rank that has most: weights, keys and values of a sequence, and of a token; bytes.
most_on_a_rank() {
    awk -F'[:,] *' '
        /^      "weight_bytes"/ { weights[++ranks] = $2 }
        /^      "kv_bytes_per_token"/ { token[ranks] = $2 }
        /^  "sequence_tokens"/ { tokens = $2 }
        END {
            for (rank = 1; rank <= ranks; rank++) {
                need = weights[rank] + token[rank] * tokens
                if (need >= most) { most = need; at = rank }
            }
            printf "%.0f %.0f %.0f\n", weights[at], token[at] * tokens, token[at]
        }'
}

check_fit() {
    local model=$1 ranks=$2 weights kv token usable
    read -r weights kv token <<<"$3"
    usable=$(usable_bytes)
    if ((weights + kv <= usable)); then
        local tokens=$(((usable - weights) / (token > 0 ? token : 1)))
        say "each GPU: $(gib "$weights") of weights, room for the keys and values of $tokens tokens"
        return
    fi
    local ways
    ways=$(what_would_fit "$model" "$ranks" "$usable")
    refuse "the model does not fit: each GPU would hold $(gib "$weights") of weights and $(gib "$kv") of keys and \
values for one sequence, and $(gib "$usable") may be used; ${ways:-nothing that is known here would make it fit}"
}

# What the server may use of the smallest GPU.
usable_bytes() {
    local at least=
    for at in "${chosen[@]}"; do
        if [[ -z $least ]] || ((gpu_total_mib[at] < least)); then least=${gpu_total_mib[at]}; fi
    done
    awk -v mib="$least" -v share="$(value_of --gpu-memory-utilization 0.9)" -v reserved="$RESERVED_PERCENT" \
        'BEGIN { printf "%.0f", mib * 1048576 * (share - reserved / 100) }'
}

# `it would with --quantization wint4, or on 16 such GPUs`
what_would_fit() {
    local model=$1 ranks=$2 usable=$3 format more way=
    if ! is_given --quantization; then
        for format in wint8 wint4; do
            if fits "$usable" "$model" "$ranks" "--quantization=$format"; then
                way="it would with --quantization $format"
                break
            fi
        done
    fi
    for ((more = 2; more <= 64; more *= 2)); do
        if ((more > ranks)) && fits "$usable" "$model" "$more"; then
            way="${way:-it would}${way:+, or} on $more such GPUs"
            break
        fi
    done
    printf '%s' "$way"
}

fits() {
    local usable=$1 found weights kv token
    shift
    found=$(inspect "$@" 2>/dev/null) || return 1
    read -r weights kv token <<<"$(most_on_a_rank <<<"$found")"
    ((weights + kv <= usable))
}

# Weights are read once at the start, and stay in the page cache where there is room for them.
tell_files() {
    local model=$1 bytes=$2 kind available
    if [[ -z $bytes || $bytes == 0 || ! -e $model ]]; then return; fi
    kind=$(df --output=fstype -- "$model" 2>/dev/null | tail -n 1)
    available=$(awk '/^MemAvailable/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
    say "the model's files: $(gib "$bytes") on $kind"
    case $kind in
        nfs* | cifs | smb* | fuse* | 9p | ceph | lustre | beegfs | gpfs | virtiofs)
            warn "$kind is read through a network or another program: a copy on a local disk loads faster" ;;
    esac
    if ((bytes > available)); then
        warn "the files are larger than the memory available: a restart of the ranks reads them from the disk again"
    fi
}

gib() { awk -v bytes="$1" 'BEGIN { printf "%.1f GiB", bytes / 1073741824 }'; }
