#!/bin/sh
# Licensed under the Apache License, Version 2.0.
# Starts the registry. REGISTRY_HEAP changes the heap, REGISTRY_JAVA_OPTS adds JVM options.
set -e
home=/opt/schema-registry
data=${REGISTRY_DATA:-/var/lib/schema-registry}
if ! [ -w "$data" ]; then
  echo "schema-registry: $data is not writable for uid $(id -u)" >&2
  exit 1
fi
# An empty database is there whole or not at all: one that was being made while the process was killed would be taken for
# a whole one ever after.
if ! [ -e "$data/registry.mv.db" ]; then
  cp "$home/empty.mv.db" "$data/registry.new"
  mv "$data/registry.new" "$data/registry.mv.db"
fi
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"
# Without it Apicurio prints a page about the dates in an API that is not reachable from outside.
export REGISTRY_APIS_V2_DATE_FORMAT="yyyy-MM-dd'T'HH:mm:ss'Z'"
# ArchiveRelocationMode=0: the class data archive is mapped where it was made for, so its pages stay shared (34 MiB less).
# WRITE_DELAY=0: every commit is in the file before it is answered (survives kill -9).
url="${REGISTRY_DATASOURCE_URL:-jdbc:h2:file:$data/registry;WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE}"
exec java \
  -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Xshare:auto \
  ${REGISTRY_CDS:--XX:SharedArchiveFile=$home/registry.jsa} \
  -XX:+UnlockDiagnosticVMOptions -XX:ArchiveRelocationMode=0 \
  -Xms24m -Xmx${REGISTRY_HEAP:-256m} -XX:MetaspaceSize=64m -Xss512k -XX:+ExitOnOutOfMemoryError \
  -Djava.util.logging.manager=org.jboss.logmanager.LogManager \
  -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port=18081 -Dquarkus.http.limits.max-body-size=3M \
  -Dquarkus.datasource.jdbc.url="$url" \
  -Dquarkus.datasource.jdbc.initial-size=1 -Dquarkus.datasource.jdbc.min-size=1 -Dquarkus.datasource.jdbc.max-size=16 \
  -Dquarkus.vertx.event-loops-pool-size=2 -Dquarkus.banner.enabled=false \
  "-Dquarkus.log.category.\"io.apicurio.registry.metrics\".level=ERROR" \
  ${REGISTRY_JAVA_OPTS:-} \
  -cp "$home/front.jar:$home/registry.jar" registryfront.Front
