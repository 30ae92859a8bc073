# shellcheck shell=bash
# Sourced by every set-up step: where things go, and how a step reports itself.
set -euo pipefail

ROOT=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
TOOLS=$ROOT/target/tools
LOGS=$ROOT/target/setup
# rustup's cargo comes first: Debian's rustc, installed for the BPF programs, must not shadow it.
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$TOOLS/bin:$PATH
export DEBIAN_FRONTEND=noninteractive
# Binaries name sources in panics: with these flags the names are the same wherever the sources are.
REMAP=("--remap-path-prefix=$ROOT=/sluice" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
mkdir -p "$TOOLS/bin" "$LOGS"

die() {
    echo "sluice: $*" >&2
    exit 1
}

# step NAME WHAT HINT COMMAND...: one line for the reader, the command's output in a log.
# Two runs at once take turns at each step.
step() {
    local name=$1 what=$2 hint=$3 log=$LOGS/$1.log status=0 start=$SECONDS
    shift 3
    printf 'setup: %s …' "$what"
    # Not `if ( … )`: there bash would ignore the command's own errexit.
    set +e
    (
        set -e
        flock 9
        "$@"
    ) >"$log" 2>&1 9>"$LOGS/$name.lock" </dev/null
    status=$?
    set -e
    if ((status)); then
        printf ' failed\n'
        die "$what: $hint (log: ${log#"$ROOT"/})"
    fi
    printf ' %s s\n' $((SECONDS - start))
}

# cargo_tool NAME VERSION TIME: a command from crates.io, without optimisation: it works for seconds.
cargo_tool() {
    [[ ! -x $TOOLS/bin/$1 ]] || return 0
    step "$1" "$1 $2, $3" "cargo could not build it; check the network, then try again" \
        env CARGO_PROFILE_DEV_DEBUG=0 cargo install "$1" --version "$2" --locked --debug --root "$TOOLS"
}

# missing PACKAGE...: prints those that are not installed.
missing() {
    local package
    local -A have=()
    while read -r package; do have[$package]=1; done < <(
        dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p'
    )
    for package; do [[ ${have[$package]:-} ]] || echo "$package"; done
}

# packages NAME PACKAGE...: installs what is missing from Debian.
packages() {
    local name=$1 wanted
    shift
    mapfile -t wanted < <(missing "$@")
    ((${#wanted[@]})) || return 0
    type -P apt-get >/dev/null || die "no apt-get: the set-up knows Debian only; install ${wanted[*]} by hand"
    ((EUID == 0)) || die "set-up needs root to install Debian packages: ${wanted[*]}"
    step "packages-$name" "Debian packages: ${wanted[*]}" \
        "check the apt sources and the network, then try again" install_packages "${wanted[@]}"
}

install_packages() {
    # An unreachable third-party source must not stop us: the install below is what counts.
    apt-get update || true
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$@"
}

# rustc_with_sources: prints the compiler that can build its own library for other targets.
#
# SLUICE_BPF_TOOLCHAIN=debian (default): Debian's rustc-web with its sources.
# SLUICE_BPF_TOOLCHAIN=nightly: a rustup nightly with the component rust-src.
rustc_with_sources() {
    local rustc
    case ${SLUICE_BPF_TOOLCHAIN:-debian} in
        debian) rustc=/usr/bin/rustc ;;
        nightly)
            rustc=$(rustup which rustc --toolchain nightly) ||
                die "no nightly toolchain: run 'rustup toolchain install nightly -c rust-src'"
            ;;
        *) die "SLUICE_BPF_TOOLCHAIN is '$SLUICE_BPF_TOOLCHAIN': set it to 'debian' or 'nightly'" ;;
    esac
    [[ -d $("$rustc" --print sysroot)/lib/rustlib/src/rust/library/core ]] ||
        die "$rustc has no sources of its library: run 'make setup', or for a nightly 'rustup component add rust-src --toolchain nightly'"
    echo "$rustc"
}

# The archives that binary packages come from, as archives of sources: many machines list none.
source_archives() {
    apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages'
}

# download_source DIRECTORY NAME: from the first archive that has it.
download_source() {
    cd "$1"
    local archive apt=(apt-get -o "Dir::Etc::SourceList=$1/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$1/lists" -o APT::Sandbox::User=root)
    mkdir -p lists/partial
    while read -r archive; do
        echo "$archive" >sources.list
        "${apt[@]}" update
        "${apt[@]}" source --download-only "$2" && return
    done < <(source_archives)
    return 1
}
