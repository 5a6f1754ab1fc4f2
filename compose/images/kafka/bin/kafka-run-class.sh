#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# kafka-run-class.sh [-name X] [-loggc] [-daemon] CLASS [ARGUMENT...]
home=/opt/kafka
daemon=
while :; do
  case "${1:-}" in
  -name) shift 2 ;;
  -loggc) shift ;;
  -daemon) daemon=1; shift ;;
  *) break ;;
  esac
done
[ $# -gt 0 ] || { echo "usage: $0 [-daemon] CLASS [ARGUMENT...]" >&2; exit 1; }

read -r cp <$home/classpath
# Anything of the user's goes last: the archive holds for this very prefix.
[ -z "${CLASSPATH:-}" ] || cp=$cp:$CLASSPATH

heap=${KAFKA_HEAP_OPTS:--Xms16m -Xmx256m}
perf=${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC -XX:TieredStopAtLevel=1}
log=${KAFKA_LOG4J_OPTS:--Dlog4j.configuration=file:$home/config/tools-log4j.properties}
# A few malloc arenas are enough and keep the process small.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"

# ArchiveRelocationMode=0: the archive is mapped where it was made for, so its
# pages stay shared with the page cache (30 MB less per JVM); if the place is
# taken, the JVM relocates it.
# shellcheck disable=SC2086
set -- -XX:SharedArchiveFile=$home/kafka.jsa -Xshare:auto \
  -XX:+UnlockDiagnosticVMOptions -XX:ArchiveRelocationMode=0 \
  -XX:-UsePerfData -Xss512k -Djdk.reflect.useNativeAccessorOnly=true \
  -Djava.awt.headless=true \
  $heap $perf ${KAFKA_GC_LOG_OPTS:-} ${KAFKA_JMX_OPTS:-} \
  -Dkafka.logs.dir="${LOG_DIR:-$home/logs}" $log -cp "$cp" ${KAFKA_OPTS:-} "$@"
java=java
[ -z "${JAVA_HOME:-}" ] || java=$JAVA_HOME/bin/java
if [ -n "$daemon" ]; then
  mkdir -p "${LOG_DIR:-$home/logs}"
  nohup "$java" "$@" >"${LOG_DIR:-$home/logs}/daemon.out" 2>&1 </dev/null &
else
  exec "$java" "$@"
fi
