#!/usr/bin/env bash
# run.sh SLUICED: boots Debian's kernel in QEMU with nothing but busybox and a static `sluiced`, which
# loads every program there and attaches each one. Software emulation is enough: no KVM needed.
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

SECONDS_TO_BOOT_AND_CHECK=${SLUICE_KERNEL_TIMEOUT:-180}
sluiced=${1:?usage: run.sh PATH-OF-A-STATIC-SLUICED}
here=$ROOT/conformance/kernels
work=$ROOT/target/kernels
mkdir -p "$work"
rm -f "$work/result.log"

# The package that Debian's metapackage stands for at the moment.
current_kernel() {
    apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}

# Takes the kernel out of its package; nothing is installed.
extract_kernel() {
    local part=$work/part
    rm -rf "$part"
    mkdir -p "$part"
    (cd "$part" && apt-get -o APT::Sandbox::User=root download "$1")
    dpkg-deb --fsys-tarfile "$part"/*.deb | tar -xO --wildcards './boot/vmlinuz-*' >"$part/vmlinuz"
    mv "$part/vmlinuz" "$work/$1"
    rm -rf "$part"
}

build_initramfs() {
    local root=$work/root
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,run,sys,tmp}
    install -m 755 "$here/init" "$root/init"
    install -m 755 "$(type -P busybox)" "$root/bin/busybox"
    install -m 755 "$sluiced" "$root/bin/sluiced"
    local name
    for name in sh mount mkdir ip uname reboot; do ln -s busybox "$root/bin/$name"; done
    (cd "$root" && find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet) >"$work/initramfs"
}

boot() {
    timeout "$SECONDS_TO_BOOT_AND_CHECK" qemu-system-x86_64 \
        -accel tcg -cpu max -smp 2 -m 1G -nodefaults -no-user-config -no-reboot -display none \
        -serial stdio -kernel "$work/$kernel" -initrd "$work/initramfs" \
        -append 'console=ttyS0 quiet panic=-1 random.trust_cpu=on' </dev/null | tr -d '\r'
}

# glibc's loader says so, and a dynamic binary would only fail inside, with "not found".
case $(ldd "$sluiced" 2>&1) in
    *'not a dynamic executable'* | *'statically linked'*) ;;
    *) die "$sluiced is not static: build it with RUSTFLAGS='-C target-feature=+crt-static' and --target" ;;
esac

kernel=$(current_kernel)
[[ $kernel ]] || die "apt knows no linux-image-amd64: run 'apt-get update', then try again"
[[ -s $work/$kernel ]] || step kernel "$kernel" "check the apt sources and the network, then try again" extract_kernel "$kernel"
build_initramfs

start=$SECONDS
echo "kernels: $kernel boots in QEMU …"
boot >"$work/serial.log" || true
sed -n '/^kernel: /,/^check-kernel exited/p' "$work/serial.log"
if grep -qx 'check-kernel exited with 0' "$work/serial.log"; then
    echo "test $kernel … ok ($((SECONDS - start)) s)"
    echo "test result: ok. 1 passed; 0 failed; 0 ignored;" | tee "$work/result.log"
else
    echo "test $kernel … FAILED ($((SECONDS - start)) s; serial console: target/kernels/serial.log)"
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored;" | tee "$work/result.log"
    exit 1
fi
