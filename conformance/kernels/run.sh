#!/usr/bin/env bash
# run.sh [NAME...]: boots the rows of `rows`, or those with these names, and prints a table of what was expected and seen.
#
# The binaries under test are in target/kernels/bin-ARCHITECTURE (binaries.sh lays them there).
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

here=$ROOT/conformance/kernels
WORK=$ROOT/target/kernels
mkdir -p "$WORK"
source "$here/packages.sh"

mapfile -t rows < <(grep -v '^#' "$here/rows" | if (($#)); then grep -E "^($(IFS='|' && echo "$*")) "; else grep -vE '^(quick|balancer-[a-z]*) '; fi)
((${#rows[@]})) || die "no such row in conformance/kernels/rows: $*"

# is_fresh DIRECTORY: it was fetched with the present packages.sh.
is_fresh() {
    [[ $1 -nt $here/packages.sh ]]
}

# Kernels stay until `make distclean`, so that only a first run needs the archive.
for row in "${rows[@]}"; do
    read -r _ series architecture _ <<<"$row"
    if ! is_fresh "$WORK/kernels/$series-$architecture" || ! is_fresh "$WORK/user-$architecture"; then
        [[ ${read_lists:-} == *"$architecture"* ]] ||
            step "lists-$architecture" "package lists of Debian for $architecture" "check the network, then try again" \
                foreign_release "$architecture" "${KERNEL_RELEASES[@]}"
        read_lists+=" $architecture"
    fi
    is_fresh "$WORK/kernels/$series-$architecture" ||
        step "kernel-$series-$architecture" "Linux $series for $architecture" "see the log" fetch_kernel "$series" "$architecture"
    is_fresh "$WORK/user-$architecture" ||
        step "user-$architecture" "user space for $architecture" "see the log" fetch_user_space "$architecture"
done

rm -f "$WORK"/{result,count}-*
status=0
printf '%s\n' "${rows[@]}" | xargs -P "${SLUICE_KERNEL_JOBS:-2}" -I ROW bash -c 'read -ra words <<<"$2"; exec "$1/boot.sh" "${words[@]}"' - "$here" ROW ||
    status=1

{
    echo '| Kernel | Architecture | Row | Expected missing | Seen missing | Steps | Time |'
    echo '|---|---|---|---|---|---|---|'
    for row in "${rows[@]}"; do cat "$WORK/result-${row%% *}"; done
} | tee "$WORK/table.md"
cat "$WORK"/count-*.log >"$WORK/result.log"
exit "$status"
