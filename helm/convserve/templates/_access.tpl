{{/* Who may come in, and which models: settings of TLS, of callers, of administrators and of
signatures, the files behind them, and what those of the chart that call the server show. */}}

{{- define "convserve.accessSettings" -}}
{{- with .Values.server }}
admin: {{ .admin | quote }}
{{- if eq .admin "token" }}
admin_token_file: /etc/convserve-admin-token/token
{{- end }}
admin_open: {{ .adminOpen | quote }}
{{- end }}
{{- if .Values.models.signersConfigMap }}
require_signature: /etc/convserve-signers
{{- end }}
{{- with .Values.tls }}
{{- if .secretName }}
tls_cert: /etc/convserve-tls/tls.crt
tls_key: /etc/convserve-tls/tls.key
{{- if .clientAuth }}
tls_client_ca: /etc/convserve-tls/ca.crt
tls_client_auth: {{ .clientAuth }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.auth }}
{{- if .apiKeysSecret }}
api_keys: /etc/convserve-keys/keys
{{- end }}
{{- with .jwt }}
{{- if .issuer }}
{{- if eq (empty .jwksUrl) (empty .jwksConfigMap) }}
{{- fail "auth.jwt: set one of jwksUrl and jwksConfigMap" }}
{{- end }}
jwt_issuer: {{ .issuer | quote }}
jwt_audience: {{ .audience | quote }}
jwt_jwks: {{ default "/etc/convserve-jwks/jwks.json" .jwksUrl | quote }}
jwt_algorithms: {{ join "," .algorithms | quote }}
jwt_roles_claim: {{ .rolesClaim | quote }}
{{- end }}
{{- end }}
{{- if include "convserve.policyConfigMap" $ }}
policy: /etc/convserve-policy/policy.yaml
{{- end }}
{{- if ne .audit "auto" }}
audit: {{ eq .audit "always" }}
{{- end }}
{{- if .auditSample }}
audit_sample: {{ .auditSample }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The name of the ConfigMap with the policy; empty where there is none. */}}
{{- define "convserve.policyConfigMap" -}}
{{- with .Values.auth }}
{{- if and .policy .policyConfigMap }}
{{- fail "auth: set one of policy and policyConfigMap" }}
{{- end }}
{{- if and .policy (not (hasKey (fromYaml .policy) "groups")) }}
{{- fail "auth.policy: expected YAML with the key groups" }}
{{- end }}
{{- if or .policy .policyConfigMap }}
{{- if or (eq $.Values.server.admin "open") $.Values.server.adminOpen }}
{{- fail "auth.policy: says who may change the server; leave server.admin open and server.adminOpen" }}
{{- end }}
{{- default (printf "%s-policy" (include "convserve.fullname" $)) .policyConfigMap }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Without subPath, with which a changed file would not be seen. */}}
{{- define "convserve.accessMounts" -}}
{{- range $volume := include "convserve.accessVolumes" . | fromYamlArray }}
- name: {{ $volume.name }}
  mountPath: /etc/convserve-{{ $volume.name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "convserve.accessVolumes" -}}
{{- /* The group is the pod's; pods that KServe makes need not have one. */ -}}
{{- $mode := ternary "0440" "0444" (eq .Values.mode "deployment") }}
{{- if eq .Values.server.admin "token" }}
- name: admin-token
  secret:
    secretName: {{ required "server.adminTokenSecret: needed by server.admin token" .Values.server.adminTokenSecret }}
    defaultMode: {{ $mode }}
{{- end }}
{{- with .Values.models.signersConfigMap }}
- name: signers
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: {{ $mode }}
{{- end }}
{{- with .Values.auth.apiKeysSecret }}
- name: keys
  secret:
    secretName: {{ . }}
    defaultMode: {{ $mode }}
{{- end }}
{{- with .Values.auth.jwt.jwksConfigMap }}
- name: jwks
  configMap:
    name: {{ . }}
{{- end }}
{{- with include "convserve.policyConfigMap" . }}
- name: policy
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{/* The arguments by which the chart's own callers say who they are, and the volume behind them. */}}
{{- define "convserve.callerCredentials" -}}
{{- with .Values.auth.caller }}
{{- if .secretName }}
- {{ ternary "--api-key-file" "--token-file" (eq .kind "api-key") }}
- /etc/convserve-caller/{{ .kind }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "convserve.callerCredentialsMounts" -}}
{{- if .Values.auth.caller.secretName }}
- name: caller
  mountPath: /etc/convserve-caller
  readOnly: true
{{- end }}
{{- end -}}

{{- define "convserve.callerCredentialsVolumes" -}}
{{- with .Values.auth.caller.secretName }}
- name: caller
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* The URLs that the pods of the server call, as a list: to their ports the NetworkPolicy lets them. */}}
{{- define "convserve.calledUrls" -}}
{{- with .Values.auth.jwt.jwksUrl }}
- {{ . | quote }}
{{- end }}
{{- with .Values.otel }}
{{- with .endpoint }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.models }}
{{- if eq .source "sync" }}
{{- range .sync.archives }}
- {{ .url | quote }}
{{- end }}
{{- else if eq .source "url" }}
{{- range .url.addresses }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Not empty where callers come from inside the cluster alone. */}}
{{- define "convserve.inside" -}}
{{- if not (or (ne .Values.service.type "ClusterIP") .Values.ingress.enabled .Values.grpcRoute.enabled) -}}
yes
{{- end -}}
{{- end -}}
