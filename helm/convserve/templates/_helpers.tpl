{{- define "convserve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "convserve.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* component tells the server's pods from those of jobs: Services must find only the former. */}}
{{- define "convserve.serverLabels" -}}
{{ include "convserve.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "convserve.labels" -}}
{{ include "convserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "convserve.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "convserve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Called with a dict: image (repository, tag, digest), suffix, context. */}}
{{- define "convserve.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default (printf "%s%s" .context.Chart.AppVersion .suffix) .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "convserve.serverImage" -}}
{{- include "convserve.image" (dict "image" .Values.image "suffix" (ternary "-gpu" "" .Values.gpu.enabled) "context" .) -}}
{{- end -}}

{{- define "convserve.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "convserve.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Whole cores of the CPU limit; without a limit 0, which takes every core of the node. */}}
{{- define "convserve.threads" -}}
{{- $limits := default dict .Values.resources.limits -}}
{{- $limit := toString (default "0" (get $limits "cpu")) -}}
{{- if .Values.server.threads -}}
{{- .Values.server.threads -}}
{{- else if hasSuffix "m" $limit -}}
{{- divf (trimSuffix "m" $limit) 1000 | ceil -}}
{{- else -}}
{{- ceil $limit -}}
{{- end -}}
{{- end -}}

{{/* The settings of the server, by the names of the configuration file, in which the pods of a
Deployment read them; those that KServe makes have them as variables. */}}
{{- define "convserve.settings" -}}
{{- with .Values.server }}
model_control: {{ .modelControl }}
poll_seconds: {{ .pollSeconds }}
engine: {{ .engine | quote }}
variant: {{ .variant | quote }}
threads: {{ include "convserve.threads" $ }}
wire: {{ .wire }}
drain_seconds: {{ .drainSeconds }}
strict_readiness: {{ .strictReadiness }}
allow_ungated: {{ .allowUngated }}
max_image_pixels: {{ int64 .maxImagePixels }}
max_message_mib: {{ .maxMessageMib }}
memory_mib: {{ .memoryMib }}
max_connection_age_seconds: {{ .maxConnectionAgeSeconds }}
slow_request_ms: {{ .slowRequestMs }}
http_hosts: {{ include "convserve.httpHosts" $ | quote }}
console: {{ .console }}
{{- end }}
{{- if .Values.otel.endpoint }}
otel: true
{{- end }}
{{ include "convserve.accessSettings" . | trim }}
{{- end -}}

{{/* The names of the Service, from its namespace and from others, and those of the values. KServe gives
each InferenceService names of its own, which the runtime cannot know. */}}
{{- define "convserve.httpHosts" -}}
{{- if eq .Values.mode "kserve" -}}
{{- default (list "*") .Values.server.httpHosts | join "," -}}
{{- else -}}
{{- $name := include "convserve.fullname" . -}}
{{- $space := printf "%s.%s" $name .Release.Namespace -}}
{{- $names := list $name $space (printf "%s.svc" $space) (printf "%s.svc.cluster.local" $space) -}}
{{- concat $names .Values.server.httpHosts | join "," -}}
{{- end -}}
{{- end -}}

{{- define "convserve.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $limits := set (default dict $resources.limits) .Values.gpu.resource .Values.gpu.count -}}
{{- $resources = set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* The name by which callers of the chart's own know the server. */}}
{{- define "convserve.serverName" -}}
{{- default (printf "%s.%s.svc" (include "convserve.fullname" .) .Release.Namespace) .Values.tls.serverName -}}
{{- end -}}

{{/* The arguments by which they speak TLS, in a list, and the volumes behind these. */}}
{{- define "convserve.callerTls" -}}
{{- if .Values.tls.secretName }}
- --tls-ca
- /etc/convserve-ca/ca.crt
- --tls-server-name
- {{ include "convserve.serverName" . }}
{{- if .Values.tls.clientSecretName }}
- --tls-cert
- /etc/convserve-client/tls.crt
- --tls-key
- /etc/convserve-client/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{- define "convserve.callerTlsMounts" -}}
{{- if .Values.tls.secretName }}
- name: ca
  mountPath: /etc/convserve-ca
  readOnly: true
{{- if .Values.tls.clientSecretName }}
- name: client-tls
  mountPath: /etc/convserve-client
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "convserve.callerTlsVolumes" -}}
{{- with .Values.tls }}
{{- if .secretName }}
- name: ca
  secret:
    secretName: {{ .secretName }}
    items: [{key: ca.crt, path: ca.crt}]
{{- if .clientSecretName }}
- name: client-tls
  secret:
    secretName: {{ .clientSecretName }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A server of model control `explicit` starts with nothing, so readiness cannot end its start. */}}
{{- define "convserve.probes" -}}
{{- if .Values.tls.secretName -}}
{{- $get := dict "port" "metrics" "scheme" "HTTPS" -}}
# Kubernetes asks gRPC without TLS only. The metrics port takes it without a certificate.
startupProbe:
  httpGet: {{- merge (dict "path" (ternary "/livez" "/readyz" (eq .Values.server.modelControl "explicit"))) $get | toYaml | nindent 4 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ divf .Values.startupSeconds 2 | ceil }}
readinessProbe:
  httpGet: {{- merge (dict "path" "/readyz") $get | toYaml | nindent 4 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {{- merge (dict "path" "/livez") $get | toYaml | nindent 4 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- else -}}
startupProbe:
  {{- if eq .Values.server.modelControl "explicit" }}
  grpc:
    port: 8001
    service: live
  {{- else }}
  grpc:
    port: 8001
  {{- end }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ divf .Values.startupSeconds 2 | ceil }}
readinessProbe:
  grpc:
    port: 8001
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
# Not the server's health, which is no while models load or calls drain: a restart cures neither.
livenessProbe:
  grpc:
    port: 8001
    service: live
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}
{{- end -}}

{{- define "convserve.otelEnv" -}}
{{- with .Values.otel }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ include "convserve.fullname" $ }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .ratio | quote }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ $.Release.Namespace }},k8s.pod.name=$(POD_NAME)
{{- end }}
{{- end }}
{{- end -}}

{{- define "convserve.ports" -}}
- name: http
  containerPort: 8000
- name: grpc
  containerPort: 8001
- name: metrics
  containerPort: 8002
{{- end -}}

{{- define "convserve.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .Values.tolerations }}
{{- if .Values.gpu.enabled }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "convserve.scheduling" -}}
{{ include "convserve.placement" . }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- end -}}

{{- define "convserve.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
