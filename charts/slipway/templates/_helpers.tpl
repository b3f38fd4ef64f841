{{- define "slipway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* RELEASE-slipway, or the release's name alone when that says it already. */}}
{{- define "slipway.fullname" -}}
{{- $name := include "slipway.name" . -}}
{{- $long := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $long .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "slipway.operator" -}}
{{- printf "%s-operator" (include "slipway.fullname" .) -}}
{{- end -}}

{{- define "slipway.selector" -}}
app.kubernetes.io/name: {{ include "slipway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "slipway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "slipway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: slipway
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "slipway.serviceAccount" -}}
{{- default (ternary (include "slipway.operator" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* monitors, annotations or none: how Prometheus finds what to read. */}}
{{- define "slipway.scrape" -}}
{{- $wanted := .Values.metrics.scrape -}}
{{- if ne $wanted "auto" -}}
{{ $wanted }}
{{- else -}}
{{- ternary "monitors" "annotations" (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor") -}}
{{- end -}}
{{- end -}}

{{/* Call with (list . CONTAINER PORT ANNOTATIONS): the annotations of a pod, in which those of the values win. */}}
{{- define "slipway.podAnnotations" -}}
{{- $all := dict "kubectl.kubernetes.io/default-container" (index . 1) -}}
{{- if eq (include "slipway.scrape" (index . 0)) "annotations" -}}
{{- $_ := merge $all (dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (index . 2)) -}}
{{- end -}}
{{ toYaml (mergeOverwrite $all (index . 3)) }}
{{- end -}}

{{/* Port in the address of Prometheus. */}}
{{- define "slipway.prometheusPort" -}}
{{- $url := urlParse .Values.prometheus.url -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}

{{/* Call with (list . IMAGE): the reference of an image of the values, by digest when it has one. */}}
{{- define "slipway.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* The uid is the image's own, or the one that the platform assigns to the namespace. */}}
{{- define "slipway.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "slipway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the operator may do to the objects it serves and makes; in namespaced mode once for each namespace. */}}
{{- define "slipway.rules" -}}
- apiGroups: [slipway.dev]
  resources: [inferenceservices, servingruntimes]
  verbs: [get, list, watch]
- apiGroups: [slipway.dev]
  resources: [inferenceservices/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, update, delete]
# Patched is the annotation that says which of them go first.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, update]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, update, delete]
# Who else scales the same Deployments.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* Rules of the NetworkPolicy of each service, which the operator makes. Ports of models go by their names: which they are
is their runtime's choice. 8098 is where a fetcher tells how far it is. */}}
{{- define "slipway.modelNetwork" -}}
ingress:
- ports:
  - {port: http, protocol: TCP}
  - {port: grpc, protocol: TCP}
  from:
  - namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
    podSelector:
      matchLabels: {{- include "slipway.gatewaySelector" . | nindent 8 }}
- ports:
  - {port: http, protocol: TCP}
  - {port: metrics, protocol: TCP}
  - {port: 8098, protocol: TCP}
  from:
  - namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}
    podSelector:
      matchLabels: {{- include "slipway.selector" . | nindent 8 }}
{{- with .Values.networkPolicy.metricsFrom }}
- ports:
  - {port: http, protocol: TCP}
  - {port: metrics, protocol: TCP}
  from: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.networkPolicy.models }}
{{- with .ingress }}
{{ toYaml . }}
{{- end }}
egress:
{{- if .dns }}
- ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
  to: {{- toYaml .dns | nindent 2 }}
{{- end }}
{{- if $.Values.cache.enabled }}
- ports:
  - {port: 8097, protocol: TCP}
  to:
  - namespaceSelector:
      matchLabels: {kubernetes.io/metadata.name: {{ $.Release.Namespace }}}
    podSelector:
      matchLabels: {{- include "slipway.cacheSelector" $ | nindent 8 }}
{{- end }}
{{- with .egress }}
{{ toYaml . }}
{{- end }}
{{- if not (or .dns .egress $.Values.cache.enabled) }} []{{ end }}
{{- end }}
{{- end -}}

{{- define "slipway.cache" -}}
{{- printf "%s-cache" (include "slipway.fullname" .) -}}
{{- end -}}

{{- define "slipway.cacheSelector" -}}
app.kubernetes.io/name: {{ include "slipway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: cache
{{- end -}}

{{/* What the operator tells fetchers. */}}
{{- define "slipway.fetch" -}}
{{- if .Values.cache.enabled -}}
{{- $url := printf "http://%s.%s.svc.%s:8097" (include "slipway.cache" .) .Release.Namespace .Values.clusterDomain -}}
{{ toJson (merge (dict "cache" $url) .Values.fetch) }}
{{- else -}}
{{ toJson .Values.fetch }}
{{- end -}}
{{- end -}}

{{/* Names of the runtimes that the chart brings along, with commas. */}}
{{- define "slipway.runtimes" -}}
{{- $names := list -}}
{{- if .Values.runtime.install }}{{ $names = append $names "slipway-pytorch" }}{{ end -}}
{{- if .Values.triton.install }}{{ $names = append $names "slipway-triton" }}{{ end -}}
{{- if .Values.sklearn.install }}{{ $names = append $names "slipway-sklearn-xgboost" }}{{ end -}}
{{ join "," $names }}
{{- end -}}

{{/* Call with (list . NAME KIND NAMESPACE ANNOTATIONS): that runtime as an object of that kind. */}}
{{- define "slipway.runtime" -}}
{{- $root := index . 0 -}}
apiVersion: slipway.dev/v1alpha1
kind: {{ index . 2 }}
metadata:
  name: {{ index . 1 }}
  {{- with index . 3 }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "slipway.labels" $root | nindent 4 }}
  {{- with index . 4 }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec: {{- include (printf "slipway.runtime.%s" (index . 1)) $root | nindent 2 }}
{{- end -}}

{{/* What stands before `serve` a service's own arguments cannot change. */}}
{{- define "slipway.runtime.slipway-pytorch" -}}
supportedModelFormats:
- name: torchscript
- name: torch-export
protocolVersions: [v1, v2]
accelerators: {{ toJson .Values.runtime.accelerators }}
options:
- {name: maxBatchSize}
- {name: preferredBatchSizes}
- {name: maxQueueDelayMicroseconds, arg: --max-delay}
- {name: instances}
- {name: device, arg: --device}
- {name: inputs}
- {name: outputs}
- {name: versions}
- {name: responseCache}
- {name: dtype}
- {name: quantization}
- {name: compile}
- {name: batchBuckets}
container:
  image: {{ include "slipway.image" (list . .Values.runtime.image) }}
  command: [slipway-runtime]
  args: [--allow-code, {{ .Values.runtime.allowCode | quote }}, serve]
  allowedArgs: [--access-log, --cache-bytes, --concurrency, --device, --drain-idle, --drain-timeout, --full-status, --idle-timeout,
    --log-format, --log-level, --max-body-bytes, --max-connections, --max-delay, --max-held-bytes, --max-queue, --max-queue-bytes,
    --tenant-header, --tenant-weights, --threads, --timeout, --tracing, --workers]
  maxQueue: 1000
  idleTimeout: 75s
  resources: {{- toYaml .Values.runtime.resources | nindent 4 }}
{{- end -}}

{{/* The same of `serve`. */}}
{{- define "slipway.runtime.slipway-triton" -}}
supportedModelFormats:
- name: onnx
- name: tensorrt
- name: python
- name: ensemble
- name: triton
- name: pytorch
- name: torchscript
- name: torch-export
accelerators: {{ toJson .Values.triton.accelerators }}
options:
- {name: maxBatchSize, arg: --max-batch-size}
- {name: preferredBatchSizes, arg: --preferred-batch-sizes}
- {name: maxQueueDelayMicroseconds, arg: --max-queue-delay}
- {name: instances, arg: --instances}
- {name: device, arg: --device}
- {name: inputs, arg: --input}
- {name: outputs, arg: --output}
- {name: versions, arg: --versions}
- {name: responseCache, arg: --cache-bytes}
- {name: warmUp, arg: --warm-up}
container:
  image: {{ include "slipway.image" (list . .Values.triton.image) }}
  command: [python3, -I, -m, slipway_runtime.triton]
  args: [--allow-code, {{ .Values.triton.allowCode | quote }}, serve]
  allowedArgs: [--cache-bytes, --device, --input, --instances, --max-batch-size, --max-queue-delay, --output, --preferred-batch-sizes,
    --versions, --warm-up]
  metricsPort: 8002
  sharedMemory: {{ .Values.triton.sharedMemory }}
  maxQueue: 1000
  idleTimeout: 75s
  resources: {{- toYaml .Values.triton.resources | nindent 4 }}
{{- end -}}

{{/* The server of slipway-pytorch without torch, in a small image. */}}
{{- define "slipway.runtime.slipway-sklearn-xgboost" -}}
supportedModelFormats:
- name: sklearn
- name: xgboost
- name: lightgbm
- name: mlflow
protocolVersions: [v1, v2]
accelerators: [cpu]
options:
- {name: maxBatchSize}
- {name: preferredBatchSizes}
- {name: maxQueueDelayMicroseconds, arg: --max-delay}
- {name: instances}
- {name: inputs}
- {name: outputs}
- {name: versions}
- {name: responseCache}
container:
  image: {{ include "slipway.image" (list . .Values.sklearn.image) }}
  command: [slipway-runtime]
  args: [--allow-code, {{ .Values.sklearn.allowCode | quote }}, --allowed-classes, {{ join "," .Values.sklearn.allowedClasses | quote }}, serve]
  allowedArgs: [--access-log, --cache-bytes, --concurrency, --drain-idle, --drain-timeout, --full-status, --idle-timeout, --log-format,
    --log-level, --max-body-bytes, --max-connections, --max-delay, --max-held-bytes, --max-queue, --max-queue-bytes, --tenant-header,
    --tenant-weights, --threads, --timeout, --tracing, --workers]
  maxQueue: 1000
  idleTimeout: 75s
  resources: {{- toYaml .Values.sklearn.resources | nindent 4 }}
{{- end -}}
