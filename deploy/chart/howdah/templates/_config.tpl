{{/* One ControlPlaneConfig, as JSON. */}}
{{- define "howdah.config" -}}
{{- $v := .Values -}}
{{- $url := required "database.url is needed (or existingSecret)" $v.database.url -}}
{{- $server := urlParse $url -}}
{{- $host := $v.database.host | default (regexReplaceAll ":[0-9]+$" $server.host "") -}}
{{- $port := coalesce (int $v.database.port) (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $server.host) | int) 5432 -}}
{{- $cloud := dict
  "kind" "kubernetes"
  "system_namespace" .Release.Namespace
  "plane_image" (include "howdah.image" (list $v.dataPlaneImage .Chart.AppVersion))
  "control_url" (printf "http://%s.%s.svc:%d" (include "howdah.fullname" .) .Release.Namespace (int $v.service.port))
  "databases" (dict "host" $host "port" (int $port) "ssl_mode" $v.database.sslMode)
  "buckets" (include "howdah.buckets" . | fromJson)
  "gpu" (dict "backend" $v.gpu.backend "classes" $v.gpu.classes)
  "warm" (dict "planes" (int $v.warm.planes))
-}}
{{- $config := dict
  "database_url" $url
  "listen" "0.0.0.0:7433"
  "public_url" (required "publicUrl is needed: what people reach the service by" $v.publicUrl)
  "home" "/var/lib/howdah"
  "master_key" "file:/etc/howdah/master-key"
  "previous_master_keys" $v.masterKey.previous
  "cloud" $cloud
-}}
{{- if $v.services.url -}}
{{- $_ := set $config "services" (dict "listen" "0.0.0.0:7434" "url" $v.services.url) -}}
{{- end -}}
{{- mergeOverwrite $config (deepCopy $v.config) | toJson -}}
{{- end -}}

{{- define "howdah.buckets" -}}
{{- $v := .Values.buckets -}}
{{- $buckets := dict "region" $v.region -}}
{{- if $v.endpoint -}}{{- $_ := set $buckets "endpoint" $v.endpoint -}}{{- end -}}
{{- $credentials := deepCopy $v.credentials -}}
{{- if $v.accessKeyId -}}
{{- $keys := dict "access_key_id" $v.accessKeyId "secret_access_key" (required "buckets.secretAccessKey is needed beside accessKeyId" $v.secretAccessKey) -}}
{{- if has $credentials.kind (list "session" "irsa") -}}
{{- $_ := set $credentials "administrator" $keys -}}
{{- else -}}
{{- $credentials = merge $credentials $keys (dict "kind" "static") -}}
{{- end -}}
{{- end -}}
{{- if $credentials -}}{{- $_ := set $buckets "credentials" $credentials -}}{{- end -}}
{{- toJson $buckets -}}
{{- end -}}

{{- define "howdah.secretData" -}}
config.json: {{ include "howdah.config" . | b64enc }}
master-key: {{ required "masterKey.value is needed: `openssl rand -hex 32` makes one" .Values.masterKey.value | b64enc }}
{{- end -}}

{{- define "howdah.secretName" -}}
{{- .Values.existingSecret | default (printf "%s-config" (include "howdah.fullname" .)) -}}
{{- end -}}
