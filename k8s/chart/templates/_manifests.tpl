{{/* The objects are those of k8s/base and k8s/components (manifests/): nothing is written twice.
Here they are read, patched as kustomize does it, and labelled. */}}

{{/* A strategic merge: .base under .patch. Maps are merged, lists of named things by their names
(what is new comes first, as kustomize has it), null removes; whatever else is replaced. */}}
{{- define "stepserve.merged" -}}
{{- $out := deepCopy .base -}}
{{- range $key, $new := .patch -}}
{{- $old := get $out $key -}}
{{- if kindIs "invalid" $new -}}
{{- $_ := unset $out $key -}}
{{- else if and (kindIs "map" $new) (kindIs "map" $old) -}}
{{- $_ := set $out $key (include "stepserve.merged" (dict "base" $old "patch" $new) | fromYaml) -}}
{{- else if and (kindIs "slice" $new) (kindIs "slice" $old) (include "stepserve.identity" $new) -}}
{{- $_ := set $out $key (include "stepserve.mergedList" (dict "base" $old "patch" $new) | fromYamlArray) -}}
{{- else if kindIs "map" $new -}}
{{- $_ := set $out $key (include "stepserve.merged" (dict "base" dict "patch" $new) | fromYaml) -}}
{{- else -}}
{{- $_ := set $out $key $new -}}
{{- end -}}
{{- end -}}
{{- printf "%s\n" (toYaml $out) -}}
{{- end }}

{{/* By which field the items of a list are told apart; empty where by none. */}}
{{- define "stepserve.identity" -}}
{{- if . -}}
{{- $first := first . -}}
{{- if kindIs "map" $first -}}
{{- if hasKey $first "mountPath" }}mountPath{{ else if hasKey $first "containerPort" }}containerPort{{ else if hasKey $first "name" }}name{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "stepserve.mergedList" -}}
{{- $by := include "stepserve.identity" .patch -}}
{{- $old := .base -}}
{{- $patches := dict -}}
{{- $new := list -}}
{{- range $item := .patch -}}
{{- $_ := set $patches (get $item $by | toString) $item -}}
{{- $is_known := false -}}
{{- range $old }}{{ if eq (get . $by | toString) (get $item $by | toString) }}{{ $is_known = true }}{{ end }}{{ end -}}
{{- if not $is_known }}{{ $new = append $new $item }}{{ end -}}
{{- end -}}
{{- range $item := $old -}}
{{- $patch := get $patches (get $item $by | toString) | default dict -}}
{{- $new = append $new (include "stepserve.merged" (dict "base" $item "patch" $patch) | fromYaml) -}}
{{- end -}}
{{- printf "%s\n" (toYaml $new) -}}
{{- end }}

{{/* The objects of a file, as a list. .replaced: texts of it and what stands there instead. */}}
{{- define "stepserve.read" -}}
{{- $text := required (printf "the chart lacks manifests/%s" .file) (.root.Files.Get (printf "manifests/%s" .file)) -}}
{{- range $old, $new := .replaced }}{{ $text = replace $old $new $text }}{{ end -}}
{{- $objects := list -}}
{{- range regexSplit "(?m)^---$" $text -1 -}}
{{- $object := fromYaml . -}}
{{- if hasKey $object "Error" }}{{ fail (printf "%s: %s" $.file $object.Error) }}{{ end -}}
{{- if $object }}{{ $objects = append $objects $object }}{{ end -}}
{{- end -}}
{{- printf "%s\n" (toYaml $objects) -}}
{{- end }}

{{- define "stepserve.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: stepserve
{{- end }}

{{/* Adds the release's labels to every selector of pods below. */}}
{{- define "stepserve.selecting" -}}
{{- $labels := include "stepserve.labels" .root | fromYaml -}}
{{- $out := .value -}}
{{- if kindIs "map" .value -}}
{{- $out = dict -}}
{{- range $key, $value := .value -}}
{{- if eq $key "namespaceSelector" -}}
{{- $_ := set $out $key $value -}}
{{- else if eq $key "matchLabels" -}}
{{- $_ := set $out $key (merge (deepCopy $value) $labels) -}}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $value -}}
{{- $items = append $items (get (include "stepserve.selecting" (dict "root" $.root "value" .) | fromYaml) "value") -}}
{{- end -}}
{{- $_ := set $out $key $items -}}
{{- else if kindIs "map" $value -}}
{{- $_ := set $out $key (get (include "stepserve.selecting" (dict "root" $.root "value" $value) | fromYaml) "value") -}}
{{- else -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- printf "%s\n" (toYaml (dict "value" $out)) -}}
{{- end }}

{{/* An object as it is applied: .object with its overrides, labels and namespace. Where .selects, its
selectors are of this release alone. */}}
{{- define "stepserve.applied" -}}
{{- $root := .root -}}
{{- $object := .object -}}
{{- $labels := include "stepserve.labels" $root | fromYaml -}}
{{- $override := get $root.Values.overrides (printf "%s/%s" $object.kind $object.metadata.name) | default dict -}}
{{- $object = include "stepserve.merged" (dict "base" $object "patch" $override) | fromYaml -}}
{{- if .selects -}}
{{- $object = get (include "stepserve.selecting" (dict "root" $root "value" $object) | fromYaml) "value" -}}
{{- if eq $object.kind "Service" }}{{ $_ := set $object.spec "selector" (merge $object.spec.selector $labels) }}{{ end -}}
{{- range dig "spec" "volumeClaimTemplates" list $object }}{{ $_ := set .metadata "labels" $labels }}{{ end -}}
{{- end -}}
{{- if hasKey (get $object "spec" | default dict) "template" -}}
{{- $meta := $object.spec.template.metadata -}}
{{- $_ := set $meta "labels" (merge (get $meta "labels" | default dict) $labels) -}}
{{- end -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $object.metadata "labels" (merge (get $object.metadata "labels" | default dict) $labels $own) -}}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace -}}
{{- printf "---\n%s\n" (toYaml $object) -}}
{{- end }}

{{/* All objects of .file, patched by those of the files .patches, then by .own, a list of patches as
text under each "Kind/name"; without those that .without names. */}}
{{- define "stepserve.objects" -}}
{{- $call := . -}}
{{- range $object := include "stepserve.read" . | fromYamlArray -}}
{{- $name := printf "%s/%s" $object.kind $object.metadata.name -}}
{{- if not (has $name ($call.without | default list)) -}}
{{- range $file := $call.patches -}}
{{- range include "stepserve.read" (dict "root" $call.root "file" $file) | fromYamlArray -}}
{{- if eq $name (printf "%s/%s" .kind .metadata.name) -}}
{{- $object = include "stepserve.merged" (dict "base" $object "patch" .) | fromYaml -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range get ($call.own | default dict) $name | default list -}}
{{- $object = include "stepserve.merged" (dict "base" $object "patch" (fromYaml .)) | fromYaml -}}
{{- end -}}
{{- include "stepserve.applied" (dict "root" $call.root "object" $object "selects" $call.selects) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A ConfigMap: .name, .labels, .data. */}}
{{- define "stepserve.configMap" -}}
{{- $object := dict "apiVersion" "v1" "kind" "ConfigMap" "metadata" (dict "name" .name "labels" (.labels | default dict)) "data" .data -}}
{{- include "stepserve.applied" (dict "root" .root "object" $object) -}}
{{- end }}
