#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# kafka-server-start.sh [-daemon] server.properties [--override name=value]...
flag=
[ "${1:-}" != -daemon ] || { flag=-daemon; shift; }
[ $# -gt 0 ] || { echo "usage: $0 [-daemon] server.properties [--override name=value]..." >&2; exit 1; }
export KAFKA_LOG4J_OPTS="${KAFKA_LOG4J_OPTS:--Dlog4j.configuration=file:/opt/kafka/config/log4j.properties}"
exec /opt/kafka/bin/kafka-run-class.sh $flag kafka.Kafka "$@"
