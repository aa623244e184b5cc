{{/* The value of the label app.kubernetes.io/name. */}}
{{- define "rebound.name" -}}{{ .Values.nameOverride | default .Chart.Name }}{{- end -}}

{{/* The prefix of all names. It is empty if the release has the chart's name. The longest name,
     flaky-server-headless, must fit into 63 characters. The hash in a name that is cut keeps releases apart
     that begin alike. */}}
{{- define "rebound.prefix" -}}
{{- $name := default .Release.Name .Values.fullnameOverride -}}
{{- if gt (len $name) 41 -}}
{{- $name = printf "%s-%s" ($name | trunc 32 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- if or .Values.fullnameOverride (ne .Release.Name .Chart.Name) -}}
{{- /* Helm accepts a release name such as 2.x, but a Service name must begin with a letter. */ -}}
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

{{/* Merges a list of mappings; later ones win. Writing them one after the other could repeat a key,
     which is an error, and `merge` ignores empty strings. */}}
{{- define "rebound.merged" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . | default dict -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* The labels of a selector. A Deployment's selector cannot be changed, so it only has constant labels.
     Takes root and, for one component's pods, component. toYaml quotes release names such as true. */}}
{{- define "rebound.selector" -}}
{{- $selector := dict "app.kubernetes.io/name" (include "rebound.name" .root) "app.kubernetes.io/instance" .root.Release.Name -}}
{{- with get . "component" -}}
{{- $_ := set $selector "app.kubernetes.io/component" . -}}
{{- end -}}
{{- toYaml $selector -}}
{{- end -}}

{{/* The labels of an object. Labels of pods omit the versions and the managing tool, because a change of
     these would restart the pods. Takes root and, for one component's objects, component. Optional labels win
     over commonLabels. */}}
{{- define "rebound.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- include "rebound.merged" (list (include "rebound.podLabels" . | fromYaml) (dict
      "app.kubernetes.io/version" .root.Chart.AppVersion
      "app.kubernetes.io/managed-by" .root.Release.Service
      "helm.sh/chart" $chart)) -}}
{{- end -}}

{{- define "rebound.podLabels" -}}
{{- include "rebound.merged" (list .root.Values.commonLabels (get . "labels") (include "rebound.selector" . | fromYaml)
      (dict "app.kubernetes.io/part-of" .root.Chart.Name)) -}}
{{- end -}}

{{/* Takes root and image. The registry of all images does not replace one that a repository names: its first
     part has a dot or a port, or is localhost. */}}
{{- define "rebound.image" -}}
{{- $repository := .image.repository -}}
{{- if and .root.Values.imageRegistry (not (regexMatch "^([^/]*[.:][^/]*|localhost)/" $repository)) -}}
{{- $repository = printf "%s/%s" .root.Values.imageRegistry $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $repository .image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) | quote }}
{{- end -}}
{{- end -}}

{{/* The families of the addresses of every Service. */}}
{{- define "rebound.ipFamilies" -}}
{{- with .Values.ipFamilyPolicy -}}
ipFamilyPolicy: {{ . }}
{{ end -}}
{{- with .Values.ipFamilies -}}
ipFamilies: {{ toJson . }}
{{- end -}}
{{- end -}}

{{/* The common part of all pod specifications. Takes root, values (the component's), for an image with its own
     user runAsUser, for a pod that runs before the release's objects exist serviceAccount, and for a pod that must
     find room beside the others anyPods, which leaves rules about other pods out. A setting of the component
     replaces that of podDefaults. */}}
{{- define "rebound.pod" -}}
serviceAccountName: {{ get . "serviceAccount" | default (include "rebound.serviceAccount" .root) | quote }}
automountServiceAccountToken: false
# Service links would set JAEGER_PORT in Jaeger's environment for a Service called jaeger.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- $own := dict }}
  {{- with get . "runAsUser" }}
  {{- $own = dict "runAsUser" . "runAsGroup" . }}
  {{- end }}
  {{- include "rebound.merged" (list .root.Values.podSecurityContext $own) | nindent 2 }}
{{- $pod := . }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "dnsPolicy" "dnsConfig" "hostAliases" }}
{{- $setting := get $pod.values $key | default (get ($pod.root.Values.podDefaults | default dict) $key) }}
{{- if and (eq $key "affinity") (get $pod "anyPods") }}
{{- $setting = pick ($setting | default dict) "nodeAffinity" }}
{{- end }}
{{- with $setting }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The environment of a Rebound container. A variable in extraEnv replaces the chart's, because server-side
     apply rejects repeated names. Takes root, name and values (the component's). */}}
{{- define "rebound.env" -}}
{{- $given := list -}}
{{- range .values.extraEnv }}{{ $given = append $given .name }}{{ end -}}
{{- $own := include "rebound.otel" . | fromYamlArray -}}
{{- with include "rebound.goMemory" .values.resources -}}
{{- $own = append $own (dict "name" "GOMEMLIMIT" "value" .) -}}
{{- end -}}
{{- range $own -}}
{{- if not (has .name $given) }}
- {{ toYaml . | indent 2 | trim }}
{{- end -}}
{{- end -}}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* The destination of traces, and attributes that identify the pod. Takes root and name. The user's attributes are
     percent-encoded as far as the variable demands it; $(NAME) still means a variable. */}}
{{- define "rebound.otel" -}}
{{- $otel := .root.Values.otel -}}
{{- $attributes := list "k8s.namespace.name=$(K8S_NAMESPACE_NAME)" "k8s.pod.name=$(K8S_POD_NAME)" "k8s.pod.uid=$(K8S_POD_UID)"
      "k8s.node.name=$(K8S_NODE_NAME)" (printf "k8s.deployment.name=%s%s" (include "rebound.prefix" .root) .name)
      (printf "k8s.container.name=%s" .name) (printf "service.instance.id=$(K8S_NAMESPACE_NAME).$(K8S_POD_NAME).%s" .name) -}}
{{- range $key, $value := $otel.resourceAttributes -}}
{{- $attributes = append $attributes (printf "%s=%s" $key ($value | replace "%" "%25" | replace "," "%2C" | replace " " "%20")) -}}
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

{{/* GOMEMLIMIT: nine tenths of the memory limit in bytes, or nothing without a limit. The rest is for memory
     that Go does not manage. A resourceFieldRef could only give the whole limit. Takes resources. */}}
{{- define "rebound.goMemory" -}}
{{- $units := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0
      "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- $limit := get (get (. | default dict) "limits" | default dict) "memory" | toString | trimPrefix "+" -}}
{{- $number := regexFind "^[0-9.]+([eE][-+]?[0-9]+)?" $limit -}}
{{- $bytes := mulf (float64 $number) (get $units (trimPrefix $number $limit)) 0.9 | floor | int64 -}}
{{- if gt $bytes 0 -}}
{{- $bytes -}}
{{- end -}}
{{- end -}}

{{/* Converts a duration in the syntax of Go or Prometheus to seconds: 1m30.5s is 90.5. As in Go, fractions of
     a nanosecond are dropped. */}}
{{- define "rebound.seconds" -}}
{{- $units := dict "ns" 1.0 "us" 1e3 "µs" 1e3 "μs" 1e3 "ms" 1e6 "s" 1e9 "m" 60e9 "h" 3600e9 "d" 86400e9 "w" 604800e9 "y" 31536000e9 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w|y)" (toString .) -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $units (trimPrefix $number .)) | floor) -}}
{{- end -}}
{{- divf (ternary (mulf $sum -1) $sum (hasPrefix "-" (toString .))) 1e9 -}}
{{- end -}}

{{/* Converts seconds to a duration for a flag. It has no exponent, which Go would not parse. */}}
{{- define "rebound.duration" -}}
{{- printf "%.9f" . | regexFind "^.*[^0]" | trimSuffix "." -}}s
{{- end -}}

{{/* The HTTPRoutes in place of config, or nothing. An upgrade with the values of an older release has no such value. */}}
{{- define "rebound.httpRoutes" -}}
{{- get .Values "httpRoutes" | default "" -}}
{{- end -}}

{{/* The policies as written in `config`. The policy default always exists. */}}
{{- define "rebound.policies" -}}
{{- include "rebound.merged" (list (dict "default" dict) (get .Values.config "policies")) -}}
{{- end -}}

{{/* One setting of a policy, or the client's default if the policy does not set it. Takes root, policy and
     path. */}}
{{- define "rebound.setting" -}}
{{- $standard := .root.Files.Get "files/policy.yaml" | fromYaml -}}
{{- $found := .policy | default dict -}}
{{- range splitList "." .path -}}
{{- $standard = get $standard . -}}
{{- $found = ternary (get $found .) $standard (hasKey $found .) -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* The longest timeout of the policies in seconds. A rule of an HTTPRoute that sets none has no limit, and does not
     count: its calls get the time of the others. */}}
{{- define "rebound.longestTimeout" -}}
{{- $longest := 0.0 -}}
{{- $lines := regexReplaceAll "(?m)^\\s*#.*$" (include "rebound.httpRoutes" .) "" -}}
{{- range regexFindAll "[rR]equest[\"']?\\s*:\\s*(&\\S+\\s+)?[\"']?[0-9]+[0-9hms]+" $lines -1 -}}
{{- $longest = maxf $longest (regexFind "[0-9hms]+$" . | include "rebound.seconds" | float64) -}}
{{- end -}}
{{- range ternary (list dict) (include "rebound.policies" . | fromYaml) (ne (include "rebound.httpRoutes" .) "") -}}
{{- $longest = maxf $longest (include "rebound.setting" (dict "root" $ "policy" . "path" "timeout") | include "rebound.seconds" | float64) -}}
{{- end -}}
{{- $longest -}}
{{- end -}}

{{/* Rejects some invalid configurations that a schema cannot detect. The client itself reports all mistakes, in
     the check before an installation. */}}
{{- define "rebound.checkConfig" -}}
{{- if not (include "rebound.httpRoutes" .) -}}
{{- $policies := include "rebound.policies" . | fromYaml -}}
{{- $seen := dict -}}
{{- range $i, $route := .Values.config.routes -}}
{{- range $key := list "name" "match" -}}
{{- $value := get $route $key -}}
{{- $id := printf "%s %s" $key $value -}}
{{- if hasKey $seen $id -}}
{{- fail (printf "config.routes[%d].%s: %q is the %s of routes[%d] already" $i $key $value $key (get $seen $id)) -}}
{{- end -}}
{{- $_ := set $seen $id $i -}}
{{- end -}}
{{- if and (hasKey $route "policy") (not (hasKey $policies $route.policy)) -}}
{{- fail (printf "config.routes[%d].policy: must be one of the policies (%s), got %q" $i (keys $policies | sortAlpha | join ", ") $route.policy) -}}
{{- end -}}
{{- end -}}
{{- range $name, $policy := $policies -}}
{{- range $pair := list (list "attemptTimeout" "timeout") (list "retry.backoff.base" "retry.backoff.max") (list "breaker.openFor" "breaker.maxOpenFor") -}}
{{- $least := include "rebound.setting" (dict "root" $ "policy" $policy "path" (first $pair)) -}}
{{- $most := include "rebound.setting" (dict "root" $ "policy" $policy "path" (last $pair)) -}}
{{- if gt (include "rebound.seconds" $least | float64) (include "rebound.seconds" $most | float64) -}}
{{- fail (printf "config.policies.%s.%s: must be at most %s (%s), got %s" $name (first $pair) (last $pair | splitList "." | last) $most $least) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects values that would have no effect, or the wrong one, because of a switch that is elsewhere. */}}
{{- define "rebound.checkSwitches" -}}
{{- if and (hasKey .Values "httpRoutes") (kindIs "string" .Values.httpRoutes) (not .Values.httpRoutes) -}}
{{- fail "httpRoutes: is an empty text, such as that of an empty file: give a file with HTTPRoutes, or null to have config instead" -}}
{{- end -}}
{{- if include "rebound.httpRoutes" . -}}
{{- if include "rebound.tlsSecret" . -}}
{{- fail "client.tls: sets config.listener, and httpRoutes is in the place of config: let `client --config FILE --check` print the configuration of the HTTPRoutes, and use that as config" -}}
{{- end -}}
{{- if .Values.client.upstreams -}}
{{- fail "client.upstreams: adds to config.upstreams, and httpRoutes is in the place of config: let `client --config FILE --check` print the configuration of the HTTPRoutes, and use that as config" -}}
{{- end -}}
{{- end -}}
{{- with .Values.client.autoscaling -}}
{{- if and .keda.enabled (not .enabled) -}}
{{- fail "client.autoscaling.keda.enabled: client.autoscaling.enabled is false, so nothing scales: set both to true, or this one to false" -}}
{{- end -}}
{{- if and .enabled .keda.enabled .metrics -}}
{{- fail "client.autoscaling.metrics: are for a HorizontalPodAutoscaler, and client.autoscaling.keda.enabled has a ScaledObject in its place: write them as client.autoscaling.keda.triggers" -}}
{{- end -}}
{{- end -}}
{{- with .Values.serviceAccount -}}
{{- if and .annotations (not .create) -}}
{{- fail (printf "serviceAccount.annotations: serviceAccount.create is false, so they have no account: annotate %s where it is created" (.name | default "default")) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.client.service.appProtocol "kubernetes.io/h2c") (include "rebound.secure" .) -}}
{{- fail "client.service.appProtocol: kubernetes.io/h2c is without TLS, and the data port speaks TLS (client.tls): set https, or leave it empty" -}}
{{- end -}}
{{- end -}}

{{/* The admin port of this release's flaky-server, if the live page may change its faults. Users may set another
     address, but not the bare name flaky-server if that is not this release's. */}}
{{- define "rebound.faults" -}}
{{- $bare := "https?://flaky-server([:/?#]|$)" -}}
{{- $instead := "set client.faultControls to true for this release's (one called flaky-server elsewhere is flaky-server.NAMESPACE)" -}}
{{- if ne (include "rebound.flaky-server" .) "flaky-server" -}}
{{- range $i, $flag := .Values.client.extraArgs -}}
{{- if regexMatch (printf "^--?faults=%s" $bare) $flag -}}
{{- fail (printf "client.extraArgs[%d]: %s may be another release's flaky-server: %s" $i $flag $instead) -}}
{{- end -}}
{{- end -}}
{{- range $i, $variable := .Values.client.extraEnv -}}
{{- if and (eq $variable.name "REBOUND_FAULTS") (regexMatch (printf "^%s" $bare) (get $variable "value")) -}}
{{- fail (printf "client.extraEnv[%d].value: %s may be another release's flaky-server: %s" $i $variable.value $instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.client.faultControls -}}
{{- $address := printf "http://%s:5001" (include "rebound.flaky-server" .) -}}
{{- if not .Values.flakyServer.enabled -}}
{{- fail (printf "client.faultControls: flakyServer.enabled is false, so there is no %s: set it to false, and name one that is elsewhere in client.extraArgs (--faults=http://flaky-server.NAMESPACE:5001)" $address) -}}
{{- end -}}
{{- $address -}}
{{- end -}}
{{- end -}}

{{/* Whether the data port speaks TLS. */}}
{{- define "rebound.secure" -}}
{{- if or .Values.client.tls.secretName .Values.client.tls.certificate.enabled (and (not (include "rebound.httpRoutes" .)) (dig "listener" "tls" "certFile" "" .Values.config)) -}}
true
{{- end -}}
{{- end -}}

{{/* The URL for `helm test`: /process if a route sends it to flaky-server, which has no other page; otherwise
     readiness, if a Service has the admin port; otherwise nothing. */}}
{{- define "rebound.testURL" -}}
{{- $path := .Values.test.path -}}
{{- if and $path (include "rebound.secure" .) -}}
{{- fail (printf "test.path: the data port speaks TLS with a certificate that the test does not know: leave it empty, got %q" $path) -}}
{{- end -}}
{{- if and (not $path) (not (include "rebound.httpRoutes" .)) .Values.flakyServer.enabled (not (include "rebound.secure" .)) -}}
{{- range .Values.config.routes -}}
{{- if and (has .match (list "/process" "GET /process")) (regexMatch "^http://flaky-server:5000/?$" .upstream) -}}
{{- $path = "/process" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not .Values.test.enabled -}}
{{- else if $path -}}
{{- printf "http://%s:%d%s" (include "rebound.client" .) (int64 .Values.client.service.port) $path -}}
{{- else if .Values.client.service.admin -}}
{{- printf "http://%s:8081/readyz" (include "rebound.client" .) -}}
{{- else if .Values.client.metricsService.enabled -}}
{{- printf "http://%s-metrics:8081/readyz" (include "rebound.client" .) -}}
{{- end -}}
{{- end -}}

{{/* The client drains, cuts the remaining calls (2 s at most) and sends its last spans (3 s at most). */}}
{{- define "rebound.gracePeriod" -}}
{{- $needed := addf (include "rebound.seconds" .Values.client.drainDelay) (include "rebound.longestTimeout" .) 10 -}}
{{- divf $needed 30 | ceil | int | mul 30 -}}
{{- end -}}

{{/* Makes numbers of texts such as "0.5" in value, a mapping, where the schema says number: `helm --set` reads
     whole numbers, but leaves others as texts. */}}
{{- define "rebound.numbers" -}}
{{- $names := .root.Files.Get "files/numbers.yaml" | fromYamlArray -}}
{{- $root := .root -}}
{{- $mapping := .value -}}
{{- range $key, $inner := $mapping -}}
{{- if and (kindIs "string" $inner) (has $key $names) -}}
{{- $_ := set $mapping $key (float64 $inner) -}}
{{- else if kindIs "map" $inner -}}
{{- include "rebound.numbers" (dict "root" $root "value" $inner) -}}
{{- else if kindIs "slice" $inner -}}
{{- range $inner -}}
{{- if kindIs "map" . -}}
{{- include "rebound.numbers" (dict "root" $root "value" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The faults of flaky-server. */}}
{{- define "rebound.faultsConfig" -}}
{{- $faults := deepCopy .Values.flakyServer.faults -}}
{{- include "rebound.numbers" (dict "root" . "value" $faults) -}}
{{- toYaml $faults -}}
{{- end -}}

{{/* The name of the client's ConfigMap. With its content's hash in it, a change is a new ConfigMap, and pods keep
     the one that they began with. */}}
{{- define "rebound.configMap" -}}
{{- include "rebound.client" . -}}
{{- if not .Values.client.hotReload -}}
-{{ include "rebound.config" . | sha256sum | trunc 10 }}
{{- end -}}
{{- end -}}

{{/* Where the chart mounts a Secret or a ConfigMap. Takes kind and name. */}}
{{- define "rebound.mountPath" -}}
/etc/rebound-{{ .kind | lower }}s/{{ .name }}
{{- end -}}

{{/* The Secret of the data port's certificate, or nothing. */}}
{{- define "rebound.tlsSecret" -}}
{{- if .Values.client.tls.secretName -}}
{{ .Values.client.tls.secretName }}
{{- else if .Values.client.tls.certificate.enabled -}}
{{ include "rebound.client" . }}-tls
{{- end -}}
{{- end -}}

{{/* The Secrets and ConfigMaps that client.tls and client.upstreams name, each once, as a list of kind and
     name. */}}
{{- define "rebound.sources" -}}
{{- $sources := list -}}
{{- with include "rebound.tlsSecret" . -}}
{{- $sources = append $sources (dict "kind" "secret" "name" .) -}}
{{- end -}}
{{- range $name, $files := .Values.client.upstreams -}}
{{- $refs := list (get $files "ca") (get $files "certificate") -}}
{{- range $header, $ref := get $files "headers" | default dict -}}
{{- $refs = append $refs $ref -}}
{{- end -}}
{{- range $ref := $refs -}}
{{- range $kind := list "secret" "configMap" -}}
{{- if and $ref (get $ref $kind) -}}
{{- $sources = append $sources (dict "kind" $kind "name" (get $ref $kind)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (uniq $sources) -}}
{{- end -}}

{{/* The volumes of the client's pods. Takes root, configMap and, for the check, optional: a missing Secret is then
     a mistake that the client names, and no pod that waits for it. */}}
{{- define "rebound.volumes" -}}
- name: config
  configMap: {name: {{ .configMap }}}
{{- $optional := get . "optional" }}
{{- range include "rebound.sources" .root | fromYamlArray }}
- name: {{ printf "%s-%s" (lower .kind) (sha256sum .name | trunc 8) }}
  {{ .kind }}: {{ "{" }}{{ if eq .kind "secret" }}secretName{{ else }}name{{ end }}: {{ .name | quote }}{{ if $optional }}, optional: true{{ end }}{{ "}" }}
{{- end }}
{{- with .root.Values.client.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where they are mounted. They are directories: a file mounted with subPath never changes. */}}
{{- define "rebound.volumeMounts" -}}
- {name: config, mountPath: /etc/rebound, readOnly: true}
{{- range include "rebound.sources" . | fromYamlArray }}
- {name: {{ printf "%s-%s" (lower .kind) (sha256sum .name | trunc 8) }}, mountPath: {{ include "rebound.mountPath" . }}, readOnly: true}
{{- end }}
{{- with .Values.client.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Puts the paths of the files of client.tls and client.upstreams into a configuration. Takes root and config. */}}
{{- define "rebound.files" -}}
{{- $config := .config -}}
{{- with include "rebound.tlsSecret" .root -}}
{{- if dig "listener" "tls" "certFile" "" $config -}}
{{- fail "client.tls: config.listener.tls.certFile is set too: use one of them" -}}
{{- end -}}
{{- $at := include "rebound.mountPath" (dict "kind" "secret" "name" .) -}}
{{- $_ := set $config "listener" (merge (dict "tls" (dict "certFile" (printf "%s/tls.crt" $at) "keyFile" (printf "%s/tls.key" $at))) (get $config "listener" | default dict)) -}}
{{- end -}}
{{- range $name, $files := .root.Values.client.upstreams -}}
{{- $upstream := get (get $config "upstreams" | default dict) $name -}}
{{- if not $upstream -}}
{{- fail (printf "client.upstreams.%s: config.upstreams has no entry %s, expected one of %s" $name $name (keys (get $config "upstreams" | default dict) | sortAlpha | join ", " | default "none")) -}}
{{- end -}}
{{- $tls := get $upstream "tls" | default dict -}}
{{- $paths := dict -}}
{{- with get $files "ca" -}}
{{- $kind := ternary "secret" "configMap" (hasKey . "secret") -}}
{{- $_ := set $paths "caFile" (printf "%s/%s" (include "rebound.mountPath" (dict "kind" $kind "name" (get . $kind))) (get . "key" | default "ca.crt")) -}}
{{- end -}}
{{- with get $files "certificate" -}}
{{- $at := include "rebound.mountPath" (dict "kind" "secret" "name" .secret) -}}
{{- $_ := set $paths "certFile" (printf "%s/tls.crt" $at) -}}
{{- $_ := set $paths "keyFile" (printf "%s/tls.key" $at) -}}
{{- end -}}
{{- range $key, $path := $paths -}}
{{- if get $tls $key -}}
{{- fail (printf "client.upstreams.%s: config.upstreams.%s.tls.%s is set too: use one of them" $name $name $key) -}}
{{- end -}}
{{- $_ := set $tls $key $path -}}
{{- end -}}
{{- if $paths -}}
{{- $_ := set $upstream "tls" $tls -}}
{{- end -}}
{{- $headers := get $upstream "headers" | default dict -}}
{{- range $header, $ref := get $files "headers" | default dict -}}
{{- if hasKey $headers $header -}}
{{- fail (printf "client.upstreams.%s.headers: config.upstreams.%s.headers.%s is set too: use one of them" $name $name $header) -}}
{{- end -}}
{{- $_ := set $headers $header (dict "file" (printf "%s/%s" (include "rebound.mountPath" (dict "kind" "secret" "name" $ref.secret)) $ref.key)) -}}
{{- $_ := set $upstream "headers" $headers -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether there is at most one pod of the client. */}}
{{- define "rebound.single" -}}
{{- if .Values.client.autoscaling.enabled -}}
{{- if le (int64 .Values.client.autoscaling.maxReplicas) 1 -}}true{{- end -}}
{{- else if and (hasKey .Values.client "replicas") (not (kindIs "invalid" .Values.client.replicas)) -}}
{{- if le (int64 .Values.client.replicas) 1 -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects a budget that lets no pod go when there are as few as there may be: the drain of a node would wait for
     ever. The cluster rounds a percentage up. */}}
{{- define "rebound.checkBudget" -}}
{{- $most := get .Values.client.podDisruptionBudget "maxUnavailable" | toString -}}
{{- if and (eq (get .Values.client.podDisruptionBudget "minAvailable" | toString) "") (regexMatch "^0+%?$" $most) -}}
{{- fail (printf "client.podDisruptionBudget.maxUnavailable: must let one pod go, or the drain of a node waits for ever, got %s: set enabled to false, or at least 1 or 1%%" $most) -}}
{{- end -}}
{{- $name := "client.podDisruptionBudget.minAvailable" -}}
{{- $given := get .Values.client.podDisruptionBudget "minAvailable" | toString -}}
{{- $scaled := .Values.client.autoscaling.enabled -}}
{{- $unknown := and (not $scaled) (or (not (hasKey .Values.client "replicas")) (kindIs "invalid" .Values.client.replicas)) -}}
{{- $least := 1 -}}
{{- if $scaled -}}
{{- $least = int64 .Values.client.autoscaling.minReplicas -}}
{{- else if not $unknown -}}
{{- $least = int64 .Values.client.replicas -}}
{{- end -}}
{{- $stay := get .Values.client.podDisruptionBudget "minAvailable" | int64 -}}
{{- $meaning := "" -}}
{{- if hasSuffix "%" $given -}}
{{- $stay = divf (mulf (trimSuffix "%" $given | float64) $least) 100 | ceil | int64 -}}
{{- $meaning = printf ", which is %d" $stay -}}
{{- end -}}
{{- if and (ne $given "") (ge $stay (int64 $least)) -}}
{{- if $unknown -}}
{{- fail (printf "%s: client.replicas is null, so there may be one pod, and its node could not be drained: use client.podDisruptionBudget.maxUnavailable" $name) -}}
{{- end -}}
{{- fail (printf "%s: must be less than %s (%d), or the drain of a node waits for ever, got %v%s" $name (ternary "client.autoscaling.minReplicas" "client.replicas" $scaled) $least (ternary $given (toString $stay) (ne $meaning "")) $meaning) -}}
{{- end -}}
{{- end -}}

{{/* The number of pods in the Deployment, or nothing. With an autoscaler, or without client.replicas, others set the
     number. If an earlier revision of this release has set it, a manifest without it would take it back to one, so
     it names the present number. It always does if Helm applies on the client (Helm 3, and releases that it began),
     where a number that was in the manifest before is taken back in any case. An autoscaler does nothing about no
     pods. */}}
{{- define "rebound.replicas" -}}
{{- if and (hasKey .Values.client "replicas") (not (kindIs "invalid" .Values.client.replicas)) (not .Values.client.autoscaling.enabled) -}}
{{- .Values.client.replicas | int64 -}}
{{- else -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (include "rebound.client" .) | default dict -}}
{{- $named := false -}}
{{- range dig "metadata" "managedFields" list $live -}}
{{- $fields := dig "fieldsV1" "f:spec" dict . -}}
{{- $clientSide := and (eq .operation "Update") (hasKey $fields "f:selector") -}}
{{- if and (not (get . "subresource")) (or $clientSide (hasKey $fields "f:replicas")) -}}
{{- $named = true -}}
{{- end -}}
{{- end -}}
{{- if $named -}}
{{- dig "spec" "replicas" 1 $live | int64 | max (ternary 1 0 .Values.client.autoscaling.enabled) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The client's configuration, with flaky-server's name in this release and the files of Secrets, or the text of
     httpRoutes. */}}
{{- define "rebound.config" -}}
{{- with include "rebound.httpRoutes" . -}}
{{- . -}}
{{- else -}}
{{- $config := deepCopy .Values.config -}}
{{- range $name, $policy := (get $config "policies" | default dict) -}}
{{- include "rebound.numbers" (dict "root" $ "value" ($policy | default dict)) -}}
{{- end -}}
{{- range $name, $upstream := (get $config "upstreams" | default dict) -}}
{{- include "rebound.numbers" (dict "root" $ "value" (get $upstream "endpoints" | default dict)) -}}
{{- end -}}
{{- include "rebound.files" (dict "root" . "config" $config) -}}
{{- $server := include "rebound.flaky-server" . -}}
{{- range $i, $route := $config.routes -}}
{{- if regexMatch "^(https?|h2c)://flaky-server(-headless)?([:/?]|$)" $route.upstream -}}
{{- if not $.Values.flakyServer.enabled -}}
{{- fail (printf "config.routes[%d].upstream: flakyServer.enabled is false, so there is no %s: name your own upstream (one called flaky-server elsewhere as flaky-server.NAMESPACE)" $i $route.upstream) -}}
{{- end -}}
{{- $_ := set $route "upstream" (regexReplaceAll "^((https?|h2c)://)flaky-server" $route.upstream (printf "${1}%s" $server)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $upstream := (get $config "upstreams" | default dict) -}}
{{- if regexMatch "^(https?|h2c)://flaky-server(-headless)?([:/?]|$)" (get $upstream "url" | default "") -}}
{{- if not $.Values.flakyServer.enabled -}}
{{- fail (printf "config.upstreams.%s.url: flakyServer.enabled is false, so there is no %s: name your own upstream (one called flaky-server elsewhere as flaky-server.NAMESPACE)" $name (get $upstream "url")) -}}
{{- end -}}
{{- $_ := set $upstream "url" (regexReplaceAll "^((https?|h2c)://)flaky-server" $upstream.url (printf "${1}%s" $server)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
{{- end -}}

{{/* The data of the client's ConfigMap. */}}
{{- define "rebound.configData" -}}
{{- with include "rebound.httpRoutes" . -}}
{{- toYaml (dict "rebound.yaml" .) -}}
{{- else -}}
rebound.yaml: |
  {{- include "rebound.config" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* The way to the collector of otel.endpoint. A policy knows namespaces and addresses, and no names, so a host in
     another namespace means all of that namespace, and a host outside means every destination. Its port
     may differ from the pods'; networkPolicy.egress can name that. */}}
{{- define "rebound.collectorEgress" -}}
{{- with .Values.otel.endpoint -}}
{{- $url := urlParse . -}}
{{- $host := get $url "hostname" -}}
{{- $port := regexFind ":[0-9]+$" (get $url "host") | trimPrefix ":" | default (ternary "443" "80" (eq (get $url "scheme") "https")) -}}
- ports: [{port: {{ $port }}}]
{{- if regexMatch "^[0-9.]+$" $host }}
  to: [{ipBlock: {cidr: {{ $host }}/32}}]
{{- else if contains ":" $host }}
  to: [{ipBlock: {cidr: {{ printf "%s/128" (trimAll "[]" $host) | quote }}}}]
{{- else if not (contains "." $host) }}
  to: [{podSelector: {}}]
{{- else if regexMatch "^[^.]+\\.[^.]+(\\.svc(\\..+)?)?$" $host }}
  to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ index (splitList "." $host) 1 | quote }}}}}]
{{- end }}
{{- end -}}
{{- end -}}

{{/* What a component refuses is never installed: before an installation or upgrade, a Job runs its --check on a
     ConfigMap, because the release's own does not exist yet. The installation ends with the component's own words,
     and the release stays as it is. Takes root, name and values (the component's), data, args, volumes and
     volumeMounts. */}}
{{- define "rebound.check" -}}
{{- $name := printf "%s-check" (include (printf "rebound.%s" .name) .root) -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
    {{- include "rebound.labels" (dict "root" .root "component" "check") | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: "-1"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
data:
  {{- .data | nindent 2 }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  labels:
    {{- include "rebound.labels" (dict "root" .root "component" "check") | nindent 4 }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    helm.sh/hook-output-log-policy: hook-failed
spec:
  # The image may have to be pulled. Helm gives up after five minutes, and then names no reason.
  activeDeadlineSeconds: 270
  # A Job that failed is there to be looked at, for as long.
  ttlSecondsAfterFinished: 600
  backoffLimit: 3
  podFailurePolicy:
    rules:
      # The configuration is wrong: trying again does not help. A container that something injects
      # may end with the same code.
      - action: FailJob
        onExitCodes: {containerName: check, operator: In, values: [2]}
  template:
    metadata:
      labels:
        {{- /* The proxy of a mesh would not end, and the Job neither. The check calls nobody. */}}
        {{- include "rebound.podLabels" (dict "root" .root "component" "check" "labels" (dict "sidecar.istio.io/inject" "false")) | nindent 8 }}
      annotations:
        linkerd.io/inject: disabled
    spec:
      {{- $account := ternary "default" .root.Values.serviceAccount.name .root.Values.serviceAccount.create | default "default" }}
      {{- /* There may be no node for one pod more that keeps away from the component's. */}}
      {{- include "rebound.pod" (dict "root" .root "values" .values "serviceAccount" $account "anyPods" true) | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: check
          image: {{ include "rebound.image" (dict "root" .root "image" .values.image) }}
          imagePullPolicy: {{ .values.image.pullPolicy }}
          args:
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
          {{- /* A ResourceQuota may demand both limits. */}}
          {{- $resources := dict "requests" (dict "cpu" "10m" "memory" "32Mi") "limits" (dict "cpu" "500m" "memory" "128Mi") }}
          # Also what is wrong with a variable such as OTEL_RESOURCE_ATTRIBUTES is found here.
          env:
            {{- $values := set (pick .values "extraEnv") "resources" $resources }}
            {{- include "rebound.env" (dict "root" .root "name" .name "values" $values) | trim | nindent 12 }}
          {{- with get .values "extraEnvFrom" }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          resources:
            {{- toYaml $resources | nindent 12 }}
          securityContext:
            {{- toYaml .root.Values.securityContext | nindent 12 }}
          volumeMounts:
            {{- .volumeMounts | nindent 12 }}
      volumes:
        {{- .volumes | nindent 8 }}
{{- end -}}
