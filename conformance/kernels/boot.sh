#!/usr/bin/env bash
# boot.sh NAME SERIES ARCHITECTURE STEPS MISSING [OPTION...]: boots a row of `rows` in QEMU, and judges what it printed.
#
# The kernel has Debian's user space of its architecture, and the static binaries under test: no disk, no network, no KVM.
# What was seen is one line of `result-NAME`; the serial console is in `serial-NAME.log`.
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

name=$1 series=$2 architecture=$3 steps=$4 missing=$5
shift 5
case $steps in
    *balancer-*) limit=7200 ;;
    *programs* | *all-cases*) limit=2400 ;;
    *) limit=900 ;;
esac
SECONDS_TO_BOOT_AND_TEST=${SLUICE_KERNEL_TIMEOUT:-$limit}
here=$ROOT/conformance/kernels
WORK=$ROOT/target/kernels
kernel=$WORK/kernels/$series-$architecture
serial=$WORK/serial-$name.log
trap 'rm -rf "$WORK/root-$name" "$WORK/initramfs-$name"' EXIT

build_initramfs() {
    local root=$WORK/root-$name program
    rm -rf "$root"
    cp -a --reflink=auto "$WORK/user-$architecture" "$root"
    mkdir -p "$root"/{dev,proc,run,sys,tmp,modules}
    # Programs that busybox lacks stay Debian's own.
    for program in sh mount mkdir insmod uname reboot cat sed tr chmod ln sleep; do
        [[ -e $root/bin/$program ]] || ln -s busybox "$root/bin/$program"
    done
    install -m 755 "$here/init" "$root/init"
    install -m 755 -t "$root/bin" "$WORK/bin-$architecture"/*
    # Large, and for these steps alone.
    case $steps in *all-cases* | *balancer-*) ;; *) rm -f "$root/bin"/{envoy,balancer.o} ;; esac
    cp "$kernel/modules"/* "$root/modules"
    cp "$here/cases" "$root/cases"
    (cd "$root" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) >"$WORK/initramfs-$name"
    rm -rf "$root"
}

# A kernel that finds itself at fault ends there and then. What follows `--` are the arguments of `init`.
boot() {
    local machine console
    case $architecture in
        amd64) machine=(qemu-system-x86_64 -cpu max) console=ttyS0 ;;
        arm64) machine=(qemu-system-aarch64 -machine virt -cpu 'max,pauth-impdef=on') console=ttyAMA0 ;;
    esac
    local options="console=$console quiet oops=panic panic_on_warn=1 panic=-1 random.trust_cpu=on"
    timeout "$SECONDS_TO_BOOT_AND_TEST" "${machine[@]}" -accel tcg -smp 2 -m 2G -nodefaults -no-user-config -no-reboot \
        -display none -serial stdio -kernel "$kernel/vmlinuz" -initrd "$WORK/initramfs-$name" \
        -append "$options $* -- ${steps//,/ }" </dev/null >"$serial"
    sed -i 's/\r$//' "$serial"
}

# The features that check-kernel did not find, as in `rows`.
seen_missing() {
    sed -n '/^FEATURE /,/^$/s/^\([a-z ]*[a-z]\)  *no  .*/\1/p' "$serial" | tr ' ' - | sort | paste -sd ,
}

# The status of a step, or nothing if the machine ended before it.
status_of() {
    sed -n "s/^$1 exited with \\([0-9]*\\)\$/\\1/p" "$serial"
}

# What a step must have printed. Nothing but its verdict goes to standard output.
judge() {
    local step=$1 status
    status=$(status_of "$step")
    [[ $status ]] || { echo 'did not end'; return; }
    case $step in
        check)
            [[ $status == 0 ]] || { echo "exit code $status"; return; }
            [[ $(seen_missing) == "${missing#-}" ]] || { echo "other features missing"; return; }
            ;;
        # One line, which names the oldest kernel.
        refused)
            [[ $status == 1 ]] && (($(grep -c '^sluiced: .*5\.15' "$serial") == 1)) || { echo 'not refused by a line with 5.15'; return; }
            ;;
        refused-without-diag)
            [[ $status == 1 ]] && grep -q '^sluiced: .*tcp_diag' "$serial" || { echo 'not refused by name'; return; }
            ;;
        programs)
            grep -q '^test result: ok. [1-9]' "$serial" || { sed -n 's/^test result: \(.*failed\);.*/\1/p' "$serial"; return; }
            ;;
        *cases | balancer-*) [[ $status == 0 ]] || { echo "exit code $status"; return; } ;;
    esac
    echo ok
}

tests_of() {
    sed -n 's/^test result: ok. \([0-9]*\) passed.*/\1 tests/p' "$serial"
}

source "$here/packages.sh"
build_initramfs
start=$SECONDS status=0
boot "$@" || status=$?
((status != 124)) || echo "kernels: $name stopped after $SECONDS_TO_BOOT_AND_TEST s; SLUICE_KERNEL_TIMEOUT gives it more" >&2

release=$(sed -n 's/^kernel: //p' "$serial")
verdicts='' outcome=ok
for step in ${steps//,/ }; do
    verdict=$(judge "$step")
    [[ $verdict == ok ]] || outcome=FAILED
    verdicts+="${verdicts:+; }$step: $verdict"
    # What .ci/count adds up.
    if [[ $verdict != ok ]]; then
        echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored;'
    elif [[ $step == programs ]]; then
        grep '^test result: ' "$serial"
    else
        echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'
    fi
done >"$WORK/count-$name.log"
# The loop above ran in this shell: its variables are still set.
expected=${missing#-}
seen=$(seen_missing)
tests=$(tests_of)
echo "| ${release:-did not boot} | $architecture | $name | ${expected:-none} | ${seen:-none} | $verdicts${tests:+ ($tests)} | $((SECONDS - start)) s |" \
    >"$WORK/result-$name"
echo "test $name … $outcome ($verdicts${tests:+, $tests}, $((SECONDS - start)) s)"
[[ $outcome == ok ]]
