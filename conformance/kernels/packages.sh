# shellcheck shell=bash
# Sourced: kernels and the user space of the virtual machines, out of Debian's packages.
source "$ROOT/setup/debian.sh"

# Releases with a kernel of some row. The user space is of the machine's own, as what runs in it is built here.
KERNEL_RELEASES=(bullseye bookworm trixie trixie-backports)
# Modules of Debian's kernels that the tests use; `init` loads them after their dependencies.
MODULES=(veth bridge dummy macvlan tun tls sch_ingress cls_bpf inet_diag tcp_diag udp_diag crc32c_generic nft_compat
    nft_chain_nat xt_tcpudp xt_nat xt_REDIRECT xt_TPROXY xt_CT xt_connmark xt_conntrack xt_comment xt_mark xt_owner xt_socket xt_multiport
    xt_MASQUERADE xt_addrtype xt_set ip_set_hash_ip)
USER_SPACE=(busybox-static iproute2 iptables util-linux containernetworking-plugins libgcc-s1)

# kernel_packages SERIES ARCHITECTURE: the newest kernel of a series, as `linux-binary-VERSION-ARCH` beside
# `linux-modules-VERSION-ARCH` if Debian has it split, or as `linux-image-VERSION-ARCH`.
kernel_packages() {
    local series=$1 architecture=$2 all version kind
    [[ $series != newest ]] || series='[0-9]*'
    all=$(foreign_apt "$architecture" apt-cache pkgnames linux- |
        grep -E "^linux-(image|binary|modules)-[0-9][0-9.+a-z-]*-$architecture\$" | grep -vE -- '-(rt|cloud|[0-9]+k)-')
    version=$(sed -n "s/^linux-image-\($series[.+-].*\)-$architecture\$/\1/p" <<<"$all" | sort -V | tail -n 1)
    [[ $version ]] || { echo "no kernel of the series $series for $architecture" >&2; return 1; }
    if grep -qx -e "linux-binary-$version-$architecture" <<<"$all"; then kind=binary; else kind=image; fi
    grep -x -e "linux-\($kind\|modules\)-$version-$architecture" <<<"$all"
}

# take_module NAME: moves a module from `all` to `modules` after its dependencies, and adds its name to `order`. A module
# that is built in has no file.
take_module() {
    local file=all/$1.ko depends needed
    [[ -e $file ]] || return 0
    depends=$(modinfo -F depends "$file")
    for needed in ${depends//,/ }; do take_module "${needed//-/_}"; done
    [[ ! -e $file ]] || { mv "$file" modules && echo "$1" >>modules/order; }
}

# fetch_kernel SERIES ARCHITECTURE: `vmlinuz` and the modules below the work directory.
fetch_kernel() {
    local directory=$WORK/kernels/$1-$2 architecture=$2 part=$WORK/part packages deb module
    rm -rf "$part"
    mkdir -p "$part"/{all,modules} "$WORK/kernels"
    packages=$(kernel_packages "$1" "$architecture")
    cd "$part"
    # shellcheck disable=SC2086
    foreign_apt "$architecture" apt-get download $packages
    for deb in *.deb; do
        dpkg-deb --fsys-tarfile "$deb" >whole.tar
        tar --list --file whole.tar | grep -E '/vmlinuz[^/]*$|/kernel/(net|drivers/net|lib|crypto|arch/[^/]*/crypto)/.*\.ko(\.xz)?$' >wanted ||
            continue
        tar --extract --file whole.tar --files-from wanted --transform 's,.*/,,'
    done
    rm -f ./*.deb whole.tar wanted
    # From 6.12 on they are compressed, and busybox loads none of those.
    ! compgen -G '*.ko.xz' >/dev/null || xz --decompress ./*.ko.xz
    for module in *.ko; do mv "$module" "all/${module//-/_}"; done
    : >modules/order
    for module in "${MODULES[@]}"; do take_module "$module"; done
    rm -rf all
    # Split packages have it beside the modules, without the release in its name.
    [[ -e vmlinuz ]] || mv vmlinuz-* vmlinuz
    rm -rf "$directory"
    mv "$part" "$directory"
    touch "$directory"
}

# fetch_user_space ARCHITECTURE: the programs that tests call, with their libraries.
fetch_user_space() {
    local architecture=$1 directory=$WORK/user-$1 archives=$DEBIAN/$1/cache/archives deb
    rm -rf "$directory.part"
    mkdir -p "$directory.part"
    rm -f "$archives"/*.deb
    foreign_apt "$architecture" apt-get install --download-only -y --no-install-recommends \
        --target-release "$(machine_release)" "${USER_SPACE[@]}"
    for deb in "$archives"/*.deb; do dpkg-deb --extract "$deb" "$directory.part"; done
    rm -f "$archives"/*.deb
    rm -rf "$directory.part/usr/share" "$directory"
    mv "$directory.part" "$directory"
    touch "$directory"
}
