{{/* What all names begin with: nothing for a release that is called like the chart. */}}
{{- define "rebound.prefix" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- if or .Values.fullnameOverride (ne .Release.Name .Chart.Name) -}}
{{- /* Helm lets a release be called 2.x; a Service may not be. */ -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%q cannot begin the name of a Service: set fullnameOverride to letters, digits and dashes that begin with a letter" $name) -}}
{{- end -}}
{{- printf "%s-" $name -}}
{{- end -}}
{{- end -}}

{{- define "rebound.client" -}}{{ include "rebound.prefix" . }}client{{- end -}}
{{- define "rebound.flaky-server" -}}{{ include "rebound.prefix" . }}flaky-server{{- end -}}
{{- define "rebound.jaeger" -}}{{ include "rebound.prefix" . }}jaeger{{- end -}}
{{- define "rebound.fullname" -}}{{ include "rebound.prefix" . | trimSuffix "-" | default .Chart.Name }}{{- end -}}

{{- define "rebound.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "rebound.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* A Deployment's selector cannot be changed, so nothing that changes is in it. Takes root and component. */}}
{{- define "rebound.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object; those of pods have neither the chart's version nor who manages it, because a new one would
     restart them. Takes root and, for what belongs to one, component. */}}
{{- define "rebound.labels" -}}
{{- if get . "component" -}}
{{ include "rebound.podLabels" . }}
{{- else -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "rebound.podLabels" -}}
{{ include "rebound.selector" . }}
app.kubernetes.io/part-of: {{ .root.Chart.Name }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes root and image. */}}
{{- define "rebound.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The part of a pod's specification that all have in common. Takes root, values (the component's) and runAsUser,
     for an image that has a user of its own. */}}
{{- define "rebound.pod" -}}
serviceAccountName: {{ include "rebound.serviceAccount" .root }}
automountServiceAccountToken: false
# A Service called jaeger would be a JAEGER_PORT in Jaeger's environment.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- if get . "runAsUser" }}
  {{- merge (dict "runAsUser" .runAsUser "runAsGroup" .runAsUser) .root.Values.podSecurityContext | toYaml | nindent 2 }}
  {{- else }}
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
  {{- end }}
{{- with get .values "nodeSelector" }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with get .values "tolerations" }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with get .values "affinity" }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with get .values "priorityClassName" }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment of a container that sends traces. What the user has set too is the user's: a name given twice is
     refused by server-side apply. Takes root, name and extra. */}}
{{- define "rebound.env" -}}
{{- $given := list -}}
{{- range .extra }}{{ $given = append $given .name }}{{ end -}}
{{- range include "rebound.otel" . | fromYamlArray -}}
{{- if not (has .name $given) }}
- {{ toYaml . | indent 2 | trim }}
{{- end -}}
{{- end -}}
{{- with .extra }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* Where traces go, and which pod they are of. Takes root and name. */}}
{{- define "rebound.otel" -}}
{{- $otel := .root.Values.otel -}}
{{- $attributes := list "k8s.namespace.name=$(K8S_NAMESPACE_NAME)" "k8s.pod.name=$(K8S_POD_NAME)" "k8s.pod.uid=$(K8S_POD_UID)"
      "k8s.node.name=$(K8S_NODE_NAME)" (printf "k8s.deployment.name=%s%s" (include "rebound.prefix" .root) .name)
      (printf "k8s.container.name=%s" .name) (printf "service.instance.id=$(K8S_NAMESPACE_NAME).$(K8S_POD_NAME).%s" .name) -}}
{{- range $key, $value := $otel.resourceAttributes -}}
{{- $attributes = append $attributes (printf "%s=%s" $key $value) -}}
{{- end -}}
- name: K8S_NAMESPACE_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: K8S_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: K8S_POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- name: K8S_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $attributes | quote }}
{{- $endpoint := $otel.endpoint }}
{{- if and (not $endpoint) .root.Values.jaeger.enabled }}
{{- $endpoint = printf "http://%s:%d" (include "rebound.jaeger" .root) (ternary 4317 4318 (eq $otel.protocol "grpc")) }}
{{- end }}
{{- with $endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ $otel.protocol }}
{{- end }}
{{- end -}}

{{/* A duration as Go writes it, in seconds: 1m30.5s is 90.5. */}}
{{- define "rebound.seconds" -}}
{{- $units := dict "ns" 1e-9 "us" 1e-6 "µs" 1e-6 "μs" 1e-6 "ms" 1e-3 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)" (toString .) -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $units (trimPrefix $number .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* The longest timeout of the policies in seconds. What sets none has the client's own 5 s, and the policy default
     is there without being named. */}}
{{- define "rebound.longestTimeout" -}}
{{- $longest := 0.0 -}}
{{- range merge (deepCopy (get .Values.config "policies" | default dict)) (dict "default" dict) -}}
{{- $longest = maxf $longest (include "rebound.seconds" (dig "timeout" "5s" (. | default dict)) | float64) -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{/* The client drains, cuts what is left (2 s at most) and sends its last spans (3 s at most). */}}
{{- define "rebound.gracePeriod" -}}
{{- $needed := addf (include "rebound.seconds" .Values.client.drainDelay) (include "rebound.longestTimeout" .) 10 -}}
{{- divf $needed 30 | ceil | int | mul 30 -}}
{{- end -}}

{{/* The client's configuration, with flaky-server by the name that it has here. */}}
{{- define "rebound.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := include "rebound.flaky-server" . -}}
{{- range $i, $route := $config.routes -}}
{{- if regexMatch "^https?://flaky-server([:/?]|$)" $route.upstream -}}
{{- if not $.Values.flakyServer.enabled -}}
{{- fail (printf "config.routes[%d].upstream: flakyServer.enabled is false, so there is no %s: name your own upstream (one called flaky-server elsewhere as flaky-server.NAMESPACE)" $i $route.upstream) -}}
{{- end -}}
{{- $_ := set $route "upstream" (regexReplaceAll "^(https?://)flaky-server" $route.upstream (printf "${1}%s" $server)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
