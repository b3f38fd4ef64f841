{{/* Call with (list . ACCOUNT ACTIONS): the spec of a pod that runs files/hook.py with these actions. */}}
{{- define "slipway.hookPod" -}}
{{- $root := index . 0 -}}
restartPolicy: Never
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext: {{- include "slipway.podSecurity" $root | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
- name: hook
  image: {{ include "slipway.image" (list $root $root.Values.image) }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext: {{- include "slipway.containerSecurity" $root | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 32Mi}
    limits: {cpu: 500m, memory: 64Mi}
  command: [python, -c]
  args:
  - |
{{ $root.Files.Get "files/hook.py" | trim | indent 4 }}
  {{- range index . 2 }}
  - {{ . | squote }}
  {{- end }}
{{- end -}}
