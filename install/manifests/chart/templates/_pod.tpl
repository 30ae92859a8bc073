{{- /* The annotations of the Pod. */}}
{{- define "sluice.podAnnotations" -}}
# The daemon reads its configuration when it starts.
sluice/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
{{- if semverCompare "<1.30.0-0" (include "sluice.kubeVersion" .) }}
container.apparmor.security.beta.kubernetes.io/sluiced: {{ include "sluice.appArmorAnnotation" .Values.appArmorProfile }}
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* An AppArmor profile as API servers before 1.30 know it. */}}
{{- define "sluice.appArmorAnnotation" -}}
{{- if eq .type "Localhost" }}localhost/{{ .localhostProfile }}
{{- else }}{{ get (dict "Unconfined" "unconfined" "RuntimeDefault" "runtime/default") .type }}
{{- end }}
{{- end }}

{{- /* The affinity of the user. Each of its node selector terms also requires an architecture of
the image, and excludes the nodes that the platform names. */}}
{{- define "sluice.affinity" -}}
{{- $require := list (dict "key" "kubernetes.io/arch" "operator" "In" "values" .Values.architectures) }}
{{- range $label, $values := (include "sluice.platform" . | fromYaml).avoid }}
{{- $require = append $require (dict "key" $label "operator" "NotIn" "values" $values) }}
{{- end }}
{{- $affinity := deepCopy .Values.affinity }}
{{- $node := $affinity.nodeAffinity | default dict }}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict }}
{{- $terms := list }}
{{- range $required.nodeSelectorTerms | default (list dict) }}
{{- $expressions := concat (.matchExpressions | default list) $require }}
{{- $terms = append $terms (merge (dict "matchExpressions" $expressions) .) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- toYaml $affinity }}
{{- end }}

{{- /* What both containers of the installer share. It writes files of root and needs no
capability for that. */}}
{{- define "sluice.installer" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: cni-bin
    mountPath: /opt/cni/bin
  - name: cni-conf
    mountPath: /etc/cni/net.d
  # What runtimes and Multus recorded of the Pods that are to be torn down by it.
  - name: cni-cache
    mountPath: /var/lib/cni
    readOnly: true
  - name: state
    mountPath: /var/lib/sluice
{{- end }}

{{/* Not empty if the daemon serves ztunnel. */}}
{{- define "sluice.isZtunnelAgent" -}}
{{- if and (eq .Values.config.mesh "ambient") (eq (index .Values.config.ambient "node-agent") "sluice") }}true{{ end }}
{{- end }}
