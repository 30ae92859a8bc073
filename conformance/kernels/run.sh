#!/usr/bin/env bash
# run.sh SLUICED TESTS [NAME...]: boots Debian's kernel in QEMU with little more than busybox, a static
# `sluiced`, which loads every program there and attaches each one, and a static test binary, of which
# the tests with these names are run. Software emulation is enough: no KVM needed.
#
# Cargo calls it as the runner of the tests, and appends the last arguments.
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

SECONDS_TO_BOOT_AND_TEST=${SLUICE_KERNEL_TIMEOUT:-600}
# What the tests need and is not built into the kernel.
MODULES=(drivers/net/veth net/sched/sch_ingress net/sched/cls_bpf)
usage='usage: run.sh PATH-OF-A-STATIC-SLUICED PATH-OF-ITS-STATIC-TESTS [NAME...]'
sluiced=${1:?$usage}
tests=${2:?$usage}
shift 2
here=$ROOT/conformance/kernels
work=$ROOT/target/kernels
mkdir -p "$work"
rm -f "$work/result.log"

# The package that Debian's metapackage stands for at the moment.
current_kernel() {
    apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}

# Takes the kernel and what is not built into it out of its package; nothing is installed.
extract_kernel() {
    local part=$work/part
    rm -rf "$part" "$work/packages/$1"
    mkdir -p "$part" "$work/packages"
    (cd "$part" && apt-get -o APT::Sandbox::User=root download "$1")
    dpkg-deb --fsys-tarfile "$part"/*.deb | tar -xO --wildcards './boot/vmlinuz-*' >"$part/vmlinuz"
    local module
    for module in "${MODULES[@]}"; do
        dpkg-deb --fsys-tarfile "$part"/*.deb | tar -xO --wildcards "*/$module.ko" >"$part/${module##*/}.ko"
    done
    rm "$part"/*.deb
    mv "$part" "$work/packages/$1"
}

build_initramfs() {
    local root=$work/root
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,run,sys,tmp}
    install -m 755 "$here/init" "$root/init"
    install -m 755 "$(type -P busybox)" "$root/bin/busybox"
    install -m 755 "$sluiced" "$root/bin/sluiced"
    strip -o "$root/bin/tests" "$tests"
    local module
    for module in "${MODULES[@]##*/}"; do
        install -m 644 "$work/packages/$kernel/$module.ko" "$root/$module.ko"
    done
    local name ip libraries
    for name in sh mount mkdir insmod uname reboot; do ln -s busybox "$root/bin/$name"; done
    # The tests make links between namespaces, of which busybox's own does not know.
    ip=$(type -P ip)
    mapfile -t libraries < <(ldd "$ip" | grep -o '/[^ ]*')
    cp --parents --dereference "$ip" "${libraries[@]}" "$root"
    (cd "$root" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) >"$work/initramfs"
}

# A kernel that finds itself at fault ends there and then. What follows `--` are the arguments of `init`.
boot() {
    local options='console=ttyS0 quiet oops=panic panic_on_warn=1 panic=-1 random.trust_cpu=on'
    timeout "$SECONDS_TO_BOOT_AND_TEST" qemu-system-x86_64 \
        -accel tcg -cpu max -smp 2 -m 1G -nodefaults -no-user-config -no-reboot -display none \
        -serial stdio -kernel "$work/packages/$kernel/vmlinuz" -initrd "$work/initramfs" \
        -append "$options -- $*" </dev/null | tr -d '\r'
}

# A line of the serial console, whole.
said() {
    grep -qx "$1" "$work/serial.log"
}

# What .ci/count adds up: a line for the programs, and the one with which the tests end.
passed='test result: ok. 1 passed; 0 failed; 0 ignored;'
failed='test result: FAILED. 0 passed; 1 failed; 0 ignored;'

result_of_check() {
    if ! said 'check-kernel exited with 0'; then
        echo "$failed"
    elif ! said 'feature splice detection yes'; then
        # The tests of splicing return early there.
        echo "kernels: $kernel cannot trace splice, so splice was not tested" >&2
        echo "$failed"
    else
        echo "$passed"
    fi
}

# There is no such line if the machine ended before its tests, and one of no tests proves nothing.
result_of_tests() {
    # 101 if one fails.
    said 'tests exited with \(0\|101\)' && grep '^test result: .* [1-9][0-9]* passed;' "$work/serial.log" ||
        echo "$failed"
}

# glibc's loader says so, and a dynamic binary would only fail inside, with "not found".
for binary in "$sluiced" "$tests"; do
    case $(ldd "$binary" 2>&1) in
        *'not a dynamic executable'* | *'statically linked'*) ;;
        *) die "$binary is not static: build it with RUSTFLAGS='-C target-feature=+crt-static' and --target" ;;
    esac
done

kernel=$(current_kernel)
[[ $kernel ]] || die "apt knows no linux-image-amd64: run 'apt-get update', then try again"
[[ -s $work/packages/$kernel/${MODULES[-1]##*/}.ko ]] ||
    step kernel "$kernel" "check the apt sources and the network, then try again" extract_kernel "$kernel"
build_initramfs

start=$SECONDS status=0
echo "kernels: $kernel boots in QEMU …"
boot "$@" >"$work/serial.log" || status=$?
sed -n '/^kernel: /,/^tests exited/p' "$work/serial.log"
if ((status == 124)); then
    echo "kernels: stopped after $SECONDS_TO_BOOT_AND_TEST s; SLUICE_KERNEL_TIMEOUT gives it more" >&2
fi

{
    result_of_check
    result_of_tests
} | tee "$work/result.log"
took="$((SECONDS - start)) s"
if grep -q FAILED "$work/result.log"; then
    echo "test $kernel … FAILED ($took; serial console: target/kernels/serial.log)"
    exit 1
fi
echo "test $kernel … ok ($took)"
