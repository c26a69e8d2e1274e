{{/* The GPUs of a worker; without any it needs no node that has some. */}}
{{- define "stepserve.gpus" -}}
spec:
  template:
    spec:
      {{- if not (int .) }}
      tolerations: null
      {{- end }}
      containers:
        - name: worker
          {{- if not (int .) }}
          env:
            - name: STEPSERVE_DEVICE
              value: cpu
          {{- end }}
          resources:
            limits:
              nvidia.com/gpu: {{ ternary (printf "%q" (toString .)) "null" (gt (int .) 0) }}
{{- end }}

{{/* The patches of a Deployment of workers, as .worker says: the values' own, or one of several models'. */}}
{{- define "stepserve.worker" -}}
{{- $replicas := ternary "null" .worker.replicas .root.Values.worker.autoscaling.enabled -}}
{{- $deployment := include "stepserve.deployment" (dict "root" .root "of" "worker" "replicas" $replicas "resources" .worker.resources) -}}
{{- printf "%s\n" (toYaml (list (include "stepserve.gpus" .worker.gpus) $deployment)) -}}
{{- end }}

{{/* What makes the workers of the base those of one model. */}}
{{- define "stepserve.ofModel" -}}
metadata:
  name: stepserve-worker-{{ .name }}
  labels: &component
    app.kubernetes.io/component: {{ .name }}
spec:
  selector:
    matchLabels: *component
  template:
    metadata:
      labels: *component
    spec:
      containers:
        - name: worker
          env:
            - name: STEPSERVE_MODEL
              value: {{ .id | quote }}
{{- end }}

{{/* The ScaledObject of the Deployment .name, by .worker; .query: what else tells its jobs. */}}
{{- define "stepserve.workerScale" -}}
{{- $prometheus := .root.Values.worker.autoscaling.prometheus -}}
{{- $replaced := dict
      `namespace="stepserve"` (printf "namespace=%q%s" .root.Release.Namespace .query)
      "http://prometheus-operated.monitoring.svc:9090" $prometheus
      `threshold: "64"` (printf "threshold: %q" (toString .worker.jobsPerWorker)) -}}
{{- $patch := include "stepserve.workerBounds" . -}}
{{- include "stepserve.objects" (dict "root" .root "file" "prod/worker-scale.yaml" "replaced" $replaced "own" (dict "ScaledObject/stepserve-worker" (list $patch))) -}}
{{- end }}

{{- define "stepserve.workerBounds" -}}
metadata:
  name: {{ .name }}
spec:
  scaleTargetRef:
    name: {{ .name }}
  minReplicaCount: {{ .worker.minReplicas }}
  maxReplicaCount: {{ .worker.maxReplicas }}
{{- end }}
