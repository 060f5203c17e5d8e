# shellcheck shell=bash
# What t/umami/up and t/umami/run have in common: lines on the screen with the
# seconds since the first of them began, and work that a signal can end.

export UMAMI_SINCE=${UMAMI_SINCE:-$EPOCHSECONDS}

say() {
    printf '[%4d s] %s\n' $((EPOCHSECONDS - UMAMI_SINCE)) "$*" >&2
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Bash runs a trap only between commands, so whatever may last is started in
# the background, as a process group of its own, and waited for: "job" is what
# a trap has to end.  A group of its own does not get the terminal's Ctrl-C,
# and the order in which things end stays ours.
job=

background() {
    set -m
    "$@" </dev/null &
    job=$!
    set +m
}

await() {
    local rc=0

    background "$@"
    wait "$job" || rc=$?
    job=
    return $rc
}

# step TEXT LOG COMMAND...: like await, with the output in LOG and the time that
# it takes on the screen: counted on a terminal, else told every half minute.
step() {
    local text=$1 log=$2 since=$EPOCHSECONDS told=0 rc=0 spent timer
    shift 2

    say "$text"
    background "$@" >>"$log" 2>&1

    while kill -0 "$job" 2>/dev/null; do
        sleep 1 &
        timer=$!
        wait -n "$job" "$timer" || :

        spent=$((EPOCHSECONDS - since))

        if [ -t 2 ]; then
            printf '\r[%4d s] %s: %d s ' \
                $((EPOCHSECONDS - UMAMI_SINCE)) "$text" "$spent" >&2

        elif [ $((spent / 30)) -gt $told ]; then
            told=$((spent / 30))
            say "$text: $spent s"
        fi
    done

    if [ -t 2 ]; then
        printf '\r\033[K' >&2
    fi

    kill "$timer" 2>/dev/null || :
    wait "$job" || rc=$?
    job=
    return $rc
}

# Ends the group of "job": asked first, made to after a second.
end_job() {
    local pid=$job

    job=
    [ -n "$pid" ] && kill -TERM -- "-$pid" 2>/dev/null || return 0

    for _ in {1..10}; do
        kill -0 -- "-$pid" 2>/dev/null || return 0
        sleep 0.1
    done

    kill -KILL -- "-$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
}
