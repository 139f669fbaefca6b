# The flags of `shardwire serve`, as far as the launch has to know them. Part of scripts/launch_8gpu.sh.
# shellcheck shell=bash disable=SC2034

# Keeps the server's flags in `flags`, in the spelling that it prefers.
read_flags() {
    flags=()
    local word name
    for word in "$@"; do
        name=${word%%=*}
        if [[ $word == --dry-run ]]; then
            is_dry=true
            continue
        fi
        if [[ $name == -tp ]]; then
            word=--tensor-parallel-size${word#-tp}
        elif [[ $name =~ ^--[A-Za-z0-9_-]+$ ]]; then
            word=${name//_/-}${word#"$name"}
        fi
        flags+=("$word")
    done
}

# The value of the last `--flag VALUE` or `--flag=VALUE`, else the default: so flags win over the environment.
value_of() {
    local flag=$1 value=$2 at
    for at in "${!flags[@]}"; do
        case ${flags[at]} in
            "$flag") value=${flags[at + 1]:-} ;;
            "$flag"=*) value=${flags[at]#*=} ;;
        esac
    done
    printf '%s' "$value"
}

is_given() {
    local flag=$1 word
    for word in "${flags[@]}"; do
        if [[ $word == "$flag" || $word == "$flag="* ]]; then return 0; fi
    done
    return 1
}
