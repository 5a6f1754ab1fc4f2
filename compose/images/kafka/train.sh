#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a small cluster and the usual tools once, notes the classes they load
# and writes them to /opt/kafka/kafka.jsa (AppCDS, read by every later JVM).
# The nodes have the lab's JMX agent, for the classes of the JDK that it needs.
# Its own jar stays out: the archive would be void in a container without it.
set -eu
T=/tmp/train
rm -rf $T && mkdir -p $T && cd $T
bin=/opt/kafka/bin
rm -f /opt/kafka/kafka.jsa
agent=$(echo /opt/streamlab/addons/jmx-exporter/*.jar)
cat >jmx.yml <<'Y'
lowercaseOutputName: true
includeObjectNames: ["kafka.*:*"]
rules: [{ pattern: "kafka.(.+)<type=(.+)><>(Count|Value)", name: "$1_$3", labels: { name: "$2" }, help: "h", type: UNTYPED }]
Y

node() {  # NAME ENV...
  local name=$1; shift
  runs=$((runs + 1))
  mkdir -p "$T/$name/config"
  env "$@" CLUSTER_ID=5L6g3nShT-eMCtK--X86sw KAFKA_LOG_DIRS="$T/$name/data" \
    KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:19093,2@localhost:19094 \
    KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER \
    KAFKA_INTER_BROKER_LISTENER_NAME=PLAINTEXT \
    KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT \
    KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0 KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS=4 \
    KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=2 KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS=2 \
    KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=2 KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1 \
    KAFKA_DEFAULT_REPLICATION_FACTOR=2 KAFKA_LOG_SEGMENT_BYTES=1048576 \
    KAFKA_METADATA_LOG_MAX_RECORD_BYTES_BETWEEN_SNAPSHOTS=2000 \
    KAFKA_OPTS="-XX:DumpLoadedClassList=$T/$name.$runs.lst" \
    KAFKA_JMX_OPTS="-javaagent:$agent=$((9400 + ${name#?})):$T/jmx.yml" \
    KAFKA_LOG4J_OPTS="-Dlog4j.configuration=file:$T/$name/config/log4j.properties" \
    $bin/kafka-run-class.sh lab.Node "$T/$name/config" >"$T/$name.$runs.log" 2>&1 &
  last=$!
}
tool() {
  local name=$1; shift
  runs=$((runs + 1))
  KAFKA_OPTS="-XX:DumpLoadedClassList=$T/tool.$runs.lst" \
    timeout 60 "$bin/$name.sh" "$@" >"$T/tool.$runs.log" 2>&1 ||
    { echo "$name $*: failed"; tail -5 "$T/tool.$runs.log"; }
}
port() { for _ in $(seq 300); do (: <>"/dev/tcp/localhost/$1") 2>/dev/null && return; sleep .2; done; tail -20 $T/*.log; exit 1; }
runs=0

c() { node "c$1" KAFKA_NODE_ID="$1" KAFKA_PROCESS_ROLES=controller KAFKA_LISTENERS="CONTROLLER://:$((19092 + $1))"; }
b() {
  node "b$1" KAFKA_NODE_ID="$1" KAFKA_PROCESS_ROLES=broker \
    KAFKA_LISTENERS="PLAINTEXT://:$((19090 + $1)),HOST://:$((29090 + $1))" \
    KAFKA_ADVERTISED_LISTENERS="PLAINTEXT://localhost:$((19090 + $1)),HOST://localhost:$((29090 + $1))"
}
c 1; c1=$last; c 2; c2=$last
b 5; b5=$last; b 6; b6=$last
port 19095; port 19096
for n in 1 2 5 6 1 6; do  # twice: the second is not the first
  exec 3<>"/dev/tcp/localhost/$((9400 + n))"
  printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n' >&3
  head -c 15 <&3 | grep -q ' 200 '
  exec 3>&-
done
B='--bootstrap-server localhost:19095'

tool kafka-broker-api-versions $B
tool kafka-metadata-quorum $B describe --status
tool kafka-metadata-quorum $B describe --replication
tool kafka-topics $B --create --if-not-exists --topic t --partitions 3 --replication-factor 2
tool kafka-topics $B --create --topic compacted --partitions 1 --replication-factor 2 \
  --config cleanup.policy=compact --config min.insync.replicas=1
tool kafka-topics $B --describe
tool kafka-topics $B --list
for codec in none gzip snappy lz4 zstd; do
  seq 300 | sed 's/.*/k&:{"id":&,"text":"some words"}/' >in
  tool kafka-console-producer $B --topic t --compression-codec $codec \
    --property parse.key=true --property key.separator=: <in
done
tool kafka-console-producer $B --topic compacted --property parse.key=true --property key.separator=: <in
tool kafka-console-consumer $B --topic t --from-beginning --group g --max-messages 1500 --property print.key=true
tool kafka-console-consumer $B --topic t --partition 0 --offset earliest --max-messages 10
tool kafka-consumer-groups $B --describe --group g
tool kafka-consumer-groups $B --list
tool kafka-consumer-groups $B --group g --reset-offsets --to-earliest --topic t --execute
tool kafka-get-offsets $B --topic t
tool kafka-configs $B --describe --entity-type topics --entity-name t
tool kafka-configs $B --alter --entity-type topics --entity-name t --add-config retention.ms=100000
tool kafka-log-dirs $B --describe
tool kafka-producer-perf-test --topic t --num-records 2000 --record-size 200 --throughput -1 \
  --producer-props bootstrap.servers=localhost:19095 transactional.id=x acks=all --transaction-duration-ms 200
tool kafka-leader-election $B --election-type preferred --all-topic-partitions
tool kafka-reassign-partitions $B --list
tool kafka-topics $B --delete --topic compacted
tool kafka-storage random-uuid

# A controller and a broker come back on formatted storage (loading logs,
# snapshots, election), then everything stops in order.
kill $b6; wait $b6 || :
kill $c1; wait $c1 || :
c 1; c1=$last; b 6; b6=$last
port 19096; port 19093
tool kafka-topics $B --describe --topic t
kill $b5; wait $b5 || :
tool kafka-topics --bootstrap-server localhost:19096 --describe --topic t
kill $b6; wait $b6 || :
kill $c2; wait $c2 || :
# The last controller would wait five seconds for a successor.
kill -9 $c1; wait $c1 2>/dev/null || :

# Ids are per run, classes of own loaders cannot be merged: drop both.
cat *.lst | grep -v -e '^#' -e ' source: ' -e '^io/prometheus/' | sed 's/ id: [0-9]*//' | awk '!seen[$0]++' >all.classes
wc -l all.classes
read -r cp </opt/kafka/classpath
# G1 here although Serial runs later: only G1 can write the archived heap part,
# every collector can read it.
java -Xshare:dump -XX:+UseG1GC -Xmx512m -XX:SharedClassListFile=all.classes \
  -XX:SharedArchiveFile=/opt/kafka/kafka.jsa -cp "$cp" >dump.log 2>&1 || { tail -30 dump.log; exit 1; }
grep -iE 'Number of classes|heap' dump.log | head -5 || :
ls -l /opt/kafka/kafka.jsa
for log in c1 c2 b5 b6; do grep -hE 'ERROR|FATAL' $log.*.log | head -3 || :; done
# It must really map.
java -Xshare:on -XX:SharedArchiveFile=/opt/kafka/kafka.jsa -XX:+UseSerialGC -cp "$cp" -version
[ -n "${KEEP:-}" ] || rm -rf $T
