{{- /* The DaemonSets of the cluster. `helm template` asks no cluster and gets none. */}}
{{- define "sluice.daemonSets" -}}
{{ lookup "apps/v1" "DaemonSet" "" "" | toJson }}
{{- end }}

{{- /* Fails beside a CNI plugin of a mesh: both would redirect the same Pods, one of them with
iptables rules that take a connection away from the programs. */}}
{{- define "sluice.checkOtherMeshCNI" -}}
{{- if not .Values.allowOtherMeshCNI }}
{{- range (include "sluice.daemonSets" . | fromJson).items }}
{{- if regexMatch "^(istio-cni(-.+)?-node|linkerd-cni|kuma-cni-node|.*consul-cni)$" .metadata.name }}
{{- fail (printf "DaemonSet %s/%s installs a CNI plugin that redirects Pods as well. Uninstall it first, or set allowOtherMeshCNI=true if no Pod of a node is redirected by both." .metadata.namespace .metadata.name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
