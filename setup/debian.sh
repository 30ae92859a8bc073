# shellcheck shell=bash
# Sourced: packages of other Debian releases and architectures, unpacked and not installed. apt works in a
# directory of its own below target/; the machine's sources stay as they are.

DEBIAN=$ROOT/target/debian

# The code name of the machine's own release.
machine_release() {
    sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# The archive of that release, which has the other ones, too.
main_archive() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $(machine_release)" | head -n 1
}

# foreign_apt ARCHITECTURE COMMAND [ARGUMENT...]: apt-get or apt-cache as on an empty machine.
foreign_apt() {
    local architecture=$1 command=$2 state=$DEBIAN/$1
    shift 2
    "$command" -o "Dir::Etc::SourceList=$DEBIAN/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::Preferences=- \
        -o "Dir::Etc::PreferencesParts=$state/lists/partial" -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache" \
        -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# foreign_release ARCHITECTURE RELEASE...: reads the lists of these releases.
foreign_release() {
    local architecture=$1 archive release
    archive=$(main_archive)
    [[ $archive ]] || die "apt has no archive of this machine's release: run 'apt-get update', then try again"
    mkdir -p "$DEBIAN/$architecture"/{lists/partial,cache/archives/partial}
    touch "$DEBIAN/$architecture/status"
    for release in "${@:2}"; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main"
    done >"$DEBIAN/sources.list"
    foreign_apt "$architecture" apt-get update
}

# foreign_unpack ARCHITECTURE DIRECTORY PACKAGE...: the packages alone, without what they depend on.
foreign_unpack() {
    local architecture=$1 directory=$2 part=$2.part
    rm -rf "$part"
    mkdir -p "$part/packages"
    (cd "$part/packages" && foreign_apt "$architecture" apt-get download "${@:3}")
    local package
    for package in "$part"/packages/*.deb; do dpkg-deb --extract "$package" "$part"; done
    rm -r "$part/packages"
    rm -rf "$directory"
    mv "$part" "$directory"
}
