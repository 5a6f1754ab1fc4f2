#!/bin/bash
# Licensed under the Apache License, Version 2.0.
# Starts the server, uses it as the lab does, and keeps the classes it loaded in an archive (AppCDS).
set -eu
cd /usr/share/elasticsearch
java -XX:ArchiveClassesAtExit=arguments.jsa -XX:+UseSerialGC -Des.path.home="$PWD" -cp 'arguments.jar:lib/*' \
  ServerArguments "$PWD" >/dev/null
env discovery.type=single-node xpack.security.enabled=false ES_ARCHIVE=-XX:ArchiveClassesAtExit=/tmp/elasticsearch.jsa /opt/streamlab/start.sh >/tmp/train.log 2>&1 &
server=$!
# METHOD PATH BODY: the status. This image has no HTTP client, and needs none.
ask() {
  { exec 3<>/dev/tcp/localhost/9200; } 2>/dev/null || return 0
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
    "$1" "$2" "${#3}" "$3" >&3
  read -r _ status _ <&3
  cat <&3 >/dev/null
  exec 3>&-
  echo "$status"
}
must() {
  status=$(ask "$@")
  case $status in 20?) ;; *) echo "$1 $2: ${status:-no answer}" >&2; cat /tmp/train.log >&2; exit 1 ;; esac
}
for _ in $(seq 600); do
  if [ "$(ask GET '/_cluster/health?wait_for_status=yellow' '')" = 200 ]; then break; fi
  sleep 0.1
done
must PUT /_index_template/t '{"index_patterns": ["t-*"], "template": {"mappings": {"date_detection": false, "properties": {
  "@timestamp": {"type": "date"}, "message": {"type": "text"}, "log": {"properties": {"level": {"type": "keyword"}}}, "n": {"type": "long"}}}}}'
documents=
for n in $(seq 20); do
  documents+="{\"create\": {\"_index\": \"t-1\", \"_id\": \"$n\"}}"$'\n'
  documents+="{\"@timestamp\": \"2025-01-01T00:00:00Z\", \"message\": \"some words\", \"log\": {\"level\": \"INFO\"}, \"n\": $n, \"x\": {\"y\": 1.5}}"$'\n'
done
must POST '/_bulk?refresh=true' "$documents"
must POST '/t-*/_search' '{"query": {"bool": {"filter": [{"term": {"log.level": "INFO"}}, {"range": {"@timestamp": {"gte": "now-20y"}}}], "must": [{"match": {"message": "words"}}]}},
  "sort": [{"@timestamp": "desc"}], "aggs": {"a": {"terms": {"field": "log.level"}}, "b": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1d"}}}}'
for path in / /_license /_cat/indices /_cluster/stats /_nodes/stats /_all/_stats '/t-*/_count' '/t-*/_mapping' '/t-*/_field_caps?fields=*'; do
  must GET "$path" ''
done
kill "$server"
code=0
wait "$server" || code=$?
# 128 and SIGTERM: how a JVM ends that was asked to.
[ "$code" = 143 ] || { echo "the server ended with $code" >&2; cat /tmp/train.log >&2; exit 1; }
ls -l /tmp/elasticsearch.jsa
mv /tmp/elasticsearch.jsa . && rm -rf data/* logs/* config/elasticsearch.keystore
