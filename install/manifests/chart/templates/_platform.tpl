{{- /*
What differs between platforms. A platform names only what differs from `default`. `paths` are on
the node. `seLinuxOptions` applies to every container. `avoid` lists node labels of nodes without a
kernel of their own or without a CNI plugin.
*/}}
{{- define "sluice.platforms" -}}
default:
  paths:
    cniBin: /opt/cni/bin
    cniConf: /etc/cni/net.d
    cniCache: /var/lib/cni
    run: /run/sluice
    state: /var/lib/sluice
    cgroup: /sys/fs/cgroup
    bpffs: /sys/fs/bpf
    netns: /run/netns
# CRI-O searches these directories. The policy lets container_t neither write there nor load BPF
# programs.
openshift:
  paths:
    cniBin: /var/lib/cni/bin
    cniConf: /etc/kubernetes/cni/net.d
  seLinuxOptions:
    type: spc_t
  securityContextConstraints: true
# /opt is read-only on Container-Optimized OS. Priority classes of the system need a quota outside
# kube-system.
gke:
  paths:
    cniBin: /home/kubernetes/bin
  resourceQuota: true
eks:
  avoid:
    eks.amazonaws.com/compute-type: [fargate]
aks:
  avoid:
    type: [virtual-kubelet]
# Before 1.31.2, plugins are in /var/lib/rancher/k3s/data/current/bin: set paths.cniBin.
k3s:
  paths:
    cniBin: /var/lib/rancher/k3s/data/cni
    cniConf: /var/lib/rancher/k3s/agent/etc/cni/net.d
microk8s:
  paths:
    cniBin: /var/snap/microk8s/current/opt/cni/bin
    cniConf: /var/snap/microk8s/current/args/cni-network
# cri-dockerd names a network namespace /proc/PID/ns/net, containerd names it below /run/netns.
minikube: {}
# Mounts cgroup2 and bpffs itself.
talos: {}
# container_t may not read or write what belongs to processes of other containers.
bottlerocket:
  seLinuxOptions:
    type: control_t
    level: s0
{{- end }}

{{- /* The entry of `global.platform`, complete. Values of the user win. */}}
{{- define "sluice.platform" -}}
{{- $platforms := include "sluice.platforms" . | fromYaml }}
{{- $default := $platforms.default }}
{{- $known := omit $platforms "default" }}
{{- $wanted := (.Values.global).platform | default "" }}
{{- if and $wanted (not (hasKey $known $wanted)) }}
{{- fail (printf "global.platform: %q is unknown. Set one of %s, or leave it empty and set `paths`." $wanted (keys $known | sortAlpha | join ", ")) }}
{{- end }}
{{- $paths := dict }}
{{- range $name, $path := .Values.paths }}
{{- if $path }}{{ $_ := set $paths $name $path }}{{ end }}
{{- end }}
{{- $own := dict "paths" $paths }}
{{- with .Values.seLinuxOptions }}{{ $_ := set $own "seLinuxOptions" . }}{{ end }}
{{- $platform := get $known $wanted | default dict }}
{{- if .Values.seLinuxOptions }}{{ $platform = omit $platform "seLinuxOptions" }}{{ end }}
{{- mergeOverwrite $default $platform $own | toYaml }}
{{- end }}
