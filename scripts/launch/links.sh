# How the chosen GPUs are joined to each other and to the processor. Part of scripts/launch_8gpu.sh.
# shellcheck shell=bash disable=SC2154

# A line per pair of chosen GPUs: `0 1 NV18`, and a line per GPU: `0 node 1`.
topology() {
    smi topo -m | sed 's/\x1b\[[0-9;]*m//g' | awk -F'\t+' -v chosen=" $(list_chosen ' ') " '
        function number(name) { sub(/^GPU/, "", name); return name }
        function is_chosen(name) { return name ~ /^GPU[0-9]+$/ && index(chosen, " " number(name) " ") }
        !columns && /GPU0/ { for (at = 1; at <= NF; at++) title[at] = $at; columns = NF; next }
        columns && is_chosen($1) {
            for (at = 2; at <= columns; at++) {
                value = $at
                gsub(/ /, "", value)
                if (is_chosen(title[at]) && number(title[at]) > number($1)) print number($1), number(title[at]), value
                if (title[at] == "NUMA Affinity") print number($1), "node", value
            }
        }'
}

check_links() {
    has_smi || return 0
    local told
    # Some virtual machines don't know.
    told=$(topology 2>/dev/null) || told=
    if ((${#chosen[@]} > 1)); then tell_links "$told"; fi
    tell_nodes "$told"
}

tell_links() {
    local pairs nvlinks kinds
    pairs=$(awk 'NF && $2 != "node" { count++ } END { print count + 0 }' <<<"$1")
    nvlinks=$(awk '$3 ~ /^NV/ { count++ } END { print count + 0 }' <<<"$1")
    kinds=$(awk '$2 != "node" { print $3 }' <<<"$1" | sort -u | paste -s -d' ')
    if ((pairs == 0)); then
        warn "nvidia-smi topo -m does not say how the GPUs are joined"
    elif ((nvlinks == pairs)); then
        say "GPUs are joined by NVLink ($kinds)"
    elif ((nvlinks > 0)); then
        warn "NVLink joins only $nvlinks of $pairs pairs of GPUs ($kinds): each layer's all-reduce goes over PCIe"
    else
        warn "no NVLink: each layer's all-reduce goes over PCIe ($kinds; SYS crosses from one processor to the other)"
    fi
}

# The server binds each rank to its GPU's node by itself.
tell_nodes() {
    local nodes node gpus line=
    nodes=$(awk '$2 == "node" && $3 ~ /^[0-9]/ { print $3 }' <<<"$1" | sort -un)
    for node in $nodes; do
        gpus=$(awk -v node="$node" '$2 == "node" && $3 == node { print $1 }' <<<"$1" | paste -s -d' ')
        line+="${line:+, }GPUs $gpus at node $node"
    done
    [[ -z $line ]] || say "NUMA: $line; each rank keeps to its GPU's node"
}

# NCCL warns of what goes wrong; what the user has set is kept, and told.
set_nccl() {
    set_variable NCCL_DEBUG WARN
    local name
    for name in $(compgen -e | grep '^NCCL_' || true); do say "$name=${!name}"; done
}
