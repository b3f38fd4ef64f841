{{- define "slipway.gateway" -}}
{{- printf "%s-gateway" (include "slipway.fullname" .) -}}
{{- end -}}

{{- define "slipway.gatewaySelector" -}}
app.kubernetes.io/name: {{ include "slipway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* What both containers with the agent's program have in common. */}}
{{- define "slipway.gatewayContainer" -}}
image: {{ include "slipway.image" (list . .Values.gateway.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "slipway.containerSecurity" . | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
command: [slipway-gateway]
{{- end -}}

{{- define "slipway.gatewayMounts" -}}
- {name: run, mountPath: /run/slipway}
{{- if .Values.gateway.tls.secretName }}
- {name: tls, mountPath: /etc/slipway/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "slipway.gatewayEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: SLIPWAY_ENVOY_MEMORY_BYTES
  valueFrom: {resourceFieldRef: {containerName: envoy, resource: limits.memory}}
- {name: SLIPWAY_GATEWAY_RUN_DIR, value: /run/slipway}
- {name: SLIPWAY_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
- {name: SLIPWAY_GATEWAY_REPLICAS, value: {{ .Values.gateway.replicas | quote }}}
- {name: SLIPWAY_CLUSTER_DOMAIN, value: {{ .Values.clusterDomain }}}
- {name: SLIPWAY_GATEWAY_DOMAIN, value: {{ .Values.gateway.domain | quote }}}
- {name: SLIPWAY_HTTP_PORT, value: "8082"}
- {name: SLIPWAY_LISTEN_PORT, value: "8080"}
- {name: SLIPWAY_TLS_PORT, value: "8443"}
- {name: SLIPWAY_TLS_DIR, value: {{ ternary "/etc/slipway/tls" "" (ne .Values.gateway.tls.secretName "") | quote }}}
- {name: SLIPWAY_DRAIN_WINDOW_S, value: "5"}
- {name: SLIPWAY_DRAIN_GRACE_S, value: {{ .Values.gateway.drainSeconds | quote }}}
- {name: SLIPWAY_MAX_BODY_BYTES, value: {{ mul .Values.gateway.maxBodyMiB 1048576 | quote }}}
- {name: SLIPWAY_MAX_CONNECTIONS, value: {{ .Values.gateway.maxConnections | int64 | quote }}}
- {name: SLIPWAY_HOLDS_MAX, value: {{ .Values.gateway.holds.max | int64 | quote }}}
- {name: SLIPWAY_HOLDS_PER_SERVICE, value: {{ .Values.gateway.holds.perService | int64 | quote }}}
- {name: SLIPWAY_ACCESS_LOG, value: {{ .Values.gateway.accessLog | quote }}}
- {name: SLIPWAY_JWKS_ALLOW_PRIVATE, value: {{ .Values.gateway.privateJwks | quote }}}
- {name: SLIPWAY_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: SLIPWAY_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
{{- end -}}

{{/* What the agent may read, in namespaced mode once for each namespace. Of Secrets the one name, and nothing of pods. */}}
{{- define "slipway.gatewayRules" -}}
- apiGroups: [slipway.dev]
  resources: [inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [slipway-api-keys]
  verbs: [get, list, watch]
{{- end -}}
