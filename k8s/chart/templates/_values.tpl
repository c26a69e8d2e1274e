{{/* What the values come to. */}}

{{/* Lines NAME=VALUE of a file as a map. */}}
{{- define "stepserve.env" -}}
{{- $values := dict -}}
{{- range splitList "\n" (.root.Files.Get (printf "manifests/%s" .file)) -}}
{{- if regexMatch "^[A-Z_]+=" . }}{{ $pair := splitn "=" 2 . }}{{ $_ := set $values $pair._0 $pair._1 }}{{ end -}}
{{- end -}}
{{- printf "%s\n" (toYaml $values) -}}
{{- end }}

{{- define "stepserve.downloads" -}}
{{- if and .Values.model.download.enabled (not .Values.models) }}true{{ end -}}
{{- end }}

{{- define "stepserve.directory" -}}
/models/{{ .Values.model.name }}
{{- end }}

{{- define "stepserve.settings" -}}
{{- $settings := include "stepserve.env" (dict "root" . "file" "base/settings.env") | fromYaml -}}
{{- if .Values.access.enabled -}}
{{- $settings = merge (include "stepserve.env" (dict "root" . "file" "components/access/access.env") | fromYaml) $settings -}}
{{- else if ne (get .Values.settings "STEPSERVE_INSECURE" | toString | lower) "true" -}}
{{- fail "access.enabled is false: let settings say STEPSERVE_INSECURE: \"true\", if whoever reaches a scheduler is to be let in" -}}
{{- end -}}
{{- if .Values.models -}}
{{- $ids := list }}{{ range .Values.models }}{{ $ids = append $ids .id }}{{ end -}}
{{- $_ := set $settings "STEPSERVE_MODEL" (join "," $ids) -}}
{{- else -}}
{{- $_ := set $settings "STEPSERVE_MODEL" (ternary (include "stepserve.directory" .) .Values.model.id (eq (include "stepserve.downloads" .) "true")) -}}
{{- $_ := set $settings "STEPSERVE_MODEL_NAME" .Values.model.name -}}
{{- if and (not .Values.model.download.enabled) (ne .Values.model.revision "main") }}{{ $_ := set $settings "STEPSERVE_REVISION" .Values.model.revision }}{{ end -}}
{{- end -}}
{{- range $name, $value := .Values.settings }}{{ $_ := set $settings $name (ternary $value (toJson $value) (kindIs "string" $value)) }}{{ end -}}
{{- printf "%s\n" (toYaml $settings) -}}
{{- end }}

{{- define "stepserve.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What every pod has beside its containers. */}}
{{- define "stepserve.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* What is downloaded, and where to. */}}
{{- define "stepserve.model" -}}
MODEL_ID: {{ .Values.model.id | quote }}
MODEL_REVISION: {{ .Values.model.revision | quote }}
MODEL_DIRECTORY: {{ include "stepserve.directory" . }}
{{- end }}

{{/* Pods are rolled when it changes. */}}
{{- define "stepserve.checksum" -}}
checksum/settings: {{ printf "%s\n%s" (include "stepserve.settings" .) (include "stepserve.model" .) | sha256sum }}
{{- end }}

{{/* Which files patch a Deployment, .of: scheduler or worker. */}}
{{- define "stepserve.patches" -}}
{{- $files := list -}}
{{- if .root.Values.access.enabled }}{{ $files = append $files (printf "components/access/%s.yaml" .of) }}{{ end -}}
{{- if include "stepserve.downloads" .root }}{{ $files = append $files (printf "components/models/%s.yaml" .of) }}{{ end -}}
{{- if and .root.Values.redis.tls (eq .of "scheduler") }}{{ $files = append $files "components/redis-tls/scheduler.yaml" }}{{ end -}}
{{- printf "%s\n" (toYaml $files) -}}
{{- end }}

{{/* The patch of a Deployment of schedulers or workers: .of, .replicas ("null": somebody scales it),
.resources. */}}
{{- define "stepserve.deployment" -}}
{{- $image := include "stepserve.image" (dict "root" .root "image" (get .root.Values.images .of)) -}}
spec:
  replicas: {{ .replicas }}
  template:
    metadata:
      annotations:
        {{- include "stepserve.checksum" .root | nindent 8 }}
    spec:
      {{- include "stepserve.pullSecrets" .root | nindent 6 }}
      {{- if include "stepserve.downloads" .root }}
      initContainers:
        - name: model
          image: {{ $image | quote }}
      {{- end }}
      containers:
        - name: {{ .of }}
          image: {{ $image | quote }}
          resources: {{ toJson .resources }}
{{- end }}
