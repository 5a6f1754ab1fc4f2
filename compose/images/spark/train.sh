#!/usr/bin/env bash
# Licensed under the Apache License, Version 2.0.
# Runs Kafka, a master, a worker and the real job on real records inside the image build, notes which classes each
# JVM loads, and makes two class data archives of them: daemon.jsa (master, worker) and app.jsa (driver, executor).
# Master, worker and driver have the lab's JMX agent, for the classes of the JDK that it needs. Its own jar stays out of
# the archives: they would be void in a container without it.
set -euo pipefail
t=/train; mkdir -p $t "$SPARK_HOME/cds"
say() { printf 'train: %s\n' "$*"; }
fail() { say "$*"; tail -n 60 $t/*.log; exit 1; }
trap 'fail "stopped at line $LINENO"' ERR
until_true() { # seconds, what, command...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "waited too long: $what"; sleep 0.5; done
  say "$what"
}
addon=/opt/streamlab/addons/spark-kafka
agent=-javaagent:$(echo /opt/streamlab/addons/jmx-exporter/*.jar)
cat > $t/jmx.yml <<'Y'
lowercaseOutputName: true
includeObjectNames: ["metrics:*"]
rules: [{ pattern: "metrics<name=(.+), type=gauges><>Value", name: spark, labels: { name: "$1" }, help: h, type: UNTYPED }]
Y
touch -d 2025-01-01T00:00:00Z $addon/*.jar

# Kafka, one node
cat > $t/kafka.properties <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$t/kafka
offsets.topic.replication.factor=1
auto.create.topics.enable=false
P
kafka() { java -Dlog4j.configuration=file:/opt/kafka/config/tools-log4j.properties -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m -cp '/opt/kafka/libs/*' "$@"; }
kafka kafka.tools.StorageTool format -t 5L6g3nShT-eMCtK--X86sw -c $t/kafka.properties > $t/format.log 2>&1
kafka kafka.Kafka $t/kafka.properties > $t/kafka.log 2>&1 &
kafka_pid=$!
topic() { kafka org.apache.kafka.tools.TopicCommand --bootstrap-server 127.0.0.1:9092 --create --if-not-exists --topic "$1" --partitions 3; }
until_true 60 'kafka answers' topic transaction_aggregates
for name in high_value_transactions financial_transactions_dead_letter financial_transactions; do topic $name >/dev/null; done
produce() { # from number, to number
  python3 - "$@" <<'P' | kafka kafka.tools.ConsoleProducer --bootstrap-server 127.0.0.1:9092 \
      --topic financial_transactions --property parse.key=true
import json, sys
for i in range(int(sys.argv[1]), int(sys.argv[2])):
    record = {"transactionId": f"t{i}", "userId": f"user_{i % 100 + 1}", "amount": 0, "transactionTime": 1700000000000 + i,
              "merchantId": f"merchant_{i % 3 + 1}", "location": "Berlin", "paymentMethod": "card",
              "isInternational": i % 2 == 0, "currency": "USD"}
    text = json.dumps(record).replace('"amount": 0', '"amount": %d.%02d' % (50000 + i * 97 % 100000, i % 100))
    print(record["userId"], text, sep="\t")
    if i % 50 == 0:
        print("bad", "not json", sep="\t"); print("bad", '{"transactionId": "x"}', sep="\t")
P
}
produce 0 500

# Spark; a class list is written while the JVM runs and closed when it ends in order
export SPARK_CONF_DIR=/opt/streamlab/spark-conf SPARK_DAEMON_MEMORY=256m SPARK_WORKER_DIR=$t/work SPARK_LOCAL_DIRS=$t/local
cp=$(sed -n 's/^spark\.driver\.extraClassPath *//p' $SPARK_CONF_DIR/spark-defaults.conf)
executor=$(sed -n 's/^spark\.executor\.extraJavaOptions *//p' $SPARK_CONF_DIR/spark-defaults.conf | tr ' ' '\n' |
           grep -v -e SharedArchiveFile -e Xshare | tr '\n' ' ')
SPARK_DAEMON_JAVA_OPTS="-XX:DumpLoadedClassList=$t/master.list $agent=9401:$t/jmx.yml" \
  "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master --host 127.0.0.1 --port 7077 --webui-port 8080 > $t/master.log 2>&1 &
master=$!
get() { python3 -c 'import sys, urllib.request; [urllib.request.urlopen(u, timeout=5).read() for u in sys.argv[1:]]' "$@"; }
until_true 60 'master is up' get http://127.0.0.1:8080/json/
SPARK_DAEMON_JAVA_OPTS="-XX:DumpLoadedClassList=$t/worker.list $agent=9402:$t/jmx.yml" \
  "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker --cores 2 --memory 1g --webui-port 8081 spark://127.0.0.1:7077 > $t/worker.log 2>&1 &
worker=$!
until_true 60 'worker is up' get http://127.0.0.1:8081/json/

export BOOTSTRAP_SERVERS=127.0.0.1:9092 CHECKPOINT_DIR=$t/checkpoints
last() { ls $CHECKPOINT_DIR/aggregates/commits 2>/dev/null | sort -n | tail -n 1 || true; }
after() { [ "$(last)" != "" ] && [ "$(last)" -gt "$1" ]; }    # a batch after this one has been committed
for round in 1 2; do    # the second round starts from the checkpoint of the first
  seen=$(last); produce $((round * 1000)) $((round * 1000 + 50))
  # %p: the process number, should there be more than one executor
  SPARK_SUBMIT_OPTS="-XX:DumpLoadedClassList=$t/driver-$round.list" "$SPARK_HOME/bin/spark-submit" --master spark://127.0.0.1:7077 \
    --conf "spark.driver.defaultJavaOptions=$agent=9403:$t/jmx.yml" \
    --conf spark.driver.host=127.0.0.1 --conf spark.driver.bindAddress=127.0.0.1 \
    --conf "spark.executor.extraJavaOptions=$executor -XX:DumpLoadedClassList=$t/executor-$round-%p.list" \
    /opt/streamlab/jobs/financial_transaction_processor.py > $t/driver-$round.log 2>&1 &
  driver=$!
  until_true 120 "round $round: first batch" after "${seen:--1}"
  get http://127.0.0.1:8080/ http://127.0.0.1:8081/ http://127.0.0.1:4040/jobs/ http://127.0.0.1:4040/StreamingQuery/ http://127.0.0.1:4040/executors/ \
    http://127.0.0.1:4040/metrics/executors/prometheus http://127.0.0.1:940{1,2,3}/metrics
  for n in 1 2; do
    seen=$(last); produce $((round * 1000 + n * 100)) $((round * 1000 + n * 100 + 50))
    until_true 60 "round $round: batch" after "$seen"
  done
  kill -TERM $driver; wait $driver || fail "the driver ended with $?"
  say "round $round: driver ended in order"
done
# executors write their list when they end, a moment after the driver
until_true 30 'executors ended' sh -c "! grep -qs [C]oarseGrainedExecutorBackend /proc/[0-9]*/cmdline"
kill -TERM $worker $master $kafka_pid; wait || true

# One list per archive. Classes of generated or separate loaders cannot be shared; numbers differ from list to list.
merge() { grep -hv -e '^#' -e ' source:' -e '^io/prometheus/' "$@" | sed -E 's/ id: [0-9]+$//' | awk '!seen[$0]++'; }
merge $t/master.list $t/worker.list > $t/daemon.all
merge $t/driver-*.list $t/executor-*.list $t/master.list > $t/app.all
dump() { # name, class path
  printf '%s' "$2" > "$SPARK_HOME/cds/$1.classpath"
  # G1, for only it writes archived heap objects; every collector reads them
  java -Xshare:dump -XX:+UseG1GC -Xmx1g -XX:SharedClassListFile=$t/$1.all -XX:SharedArchiveFile="$SPARK_HOME/cds/$1.jsa" -cp "$2" > $t/dump-$1.log 2>&1 ||
    fail "dump of $1"
  say "$1.jsa: $(wc -l < $t/$1.all) lines, $(du -m "$SPARK_HOME/cds/$1.jsa" | cut -f1) MB"
}
dump daemon "$SPARK_HOME/classpath.jar"
dump app "$cp"
chmod 0444 "$SPARK_HOME"/cds/*
