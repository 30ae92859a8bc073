#!/usr/bin/env bash
# run.sh SECONDS [TARGET...]: runs each target, or those named, for SECONDS on random input.
#
# With AddressSanitizer: the daemon and its dependencies hold unsafe code. Each target asserts its own
# properties. Failing inputs are kept in fuzz/artifacts; other inputs are discarded. From a minute on,
# an optimised build pays for itself. Leaks are not looked for: a mesh is never freed.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

seconds=$1
shift
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export ASAN_OPTIONS=detect_leaks=0
build=(--sanitizer address --debug-assertions)
((seconds >= 60)) || build+=(--dev)

cargo +nightly fuzz build "${build[@]}"
if (($# == 0)); then
    mapfile -t targets < <(cargo +nightly fuzz list)
    set -- "${targets[@]}"
fi
for target; do
    printf 'fuzz: %s for %s s … ' "$target" "$seconds"
    mkdir "$scratch/$target"
    log=$scratch/$target.log
    if ! cargo +nightly fuzz run "${build[@]}" "$target" "$scratch/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
        printf 'failed\n'
        tail -n 40 "$log"
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: *\([0-9]*\)/\1 executions/p' "$log"
done
