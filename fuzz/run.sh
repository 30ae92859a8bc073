#!/usr/bin/env bash
# run.sh SECONDS: throws random input at every target for so long.
#
# Without a sanitizer: what reads strangers' input is safe Rust, and what it promises is asserted.
# What is found is kept in fuzz/artifacts, the inputs on the way are thrown away.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build=(--dev --sanitizer none)

cargo +nightly fuzz build "${build[@]}"
for target in $(cargo +nightly fuzz list); do
    printf 'fuzz: %s for %s s … ' "$target" "$1"
    mkdir "$scratch/$target"
    log=$scratch/$target.log
    if ! cargo +nightly fuzz run "${build[@]}" "$target" "$scratch/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$1" -max_len=4096 -verbosity=0 -print_final_stats=1 >"$log" 2>&1; then
        printf 'failed\n'
        tail -n 40 "$log"
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: *\([0-9]*\)/\1 executions/p' "$log"
done
