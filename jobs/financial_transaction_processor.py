# Licensed under the Apache License, Version 2.0.
"""FinancialTransactionProcessor: two streaming queries over the topic `financial_transactions`.

    financial_transactions ─┬─ valid ──────────── sum and count per merchant ─► transaction_aggregates
                            ├─ amount >= 120000 ─ join merchants.csv ─────────► high_value_transactions
                            └─ malformed ─────────────────────────────────────► financial_transactions_dead_letter

Environment: BOOTSTRAP_SERVERS  Kafka, host:port[,host:port...]
             CHECKPOINT_DIR     where the queries remember how far they are (default /mnt/spark-checkpoints)
             HEALTH_PORT        answers once each query has finished a batch
             INSTANCE           of the lab, for advice (default: default)

Memory, class path and the tuning for a small machine are in spark-defaults.conf, not here.
"""
import csv
import http.server
import os
import pathlib
import re
import socket
import sys
import threading
import time

from pyspark import SparkConf, SparkContext
from pyspark.errors import StreamingQueryException
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

BOOTSTRAP_SERVERS = os.environ["BOOTSTRAP_SERVERS"]
CHECKPOINT_DIR = os.environ.get("CHECKPOINT_DIR", "/mnt/spark-checkpoints")
INSTANCE = os.environ.get("INSTANCE", "default")
HEALTH_PORT = int(os.environ.get("HEALTH_PORT", "4042"))

INPUT = "financial_transactions"
AGGREGATES = "transaction_aggregates"
HIGH_VALUE = "high_value_transactions"
DEAD_LETTER = "financial_transactions_dead_letter"

CORES = 2  # of the executor

HIGH_VALUE_FROM = "120000.00"
MONEY = "decimal(15,2)"  # money is never a double: 0.1 + 0.2 must be 0.3

# How a record is read. `amount` is read with more places than it may have, so that 1.005 is noticed, not rounded.
RECORD = """
    transactionId string, userId string, amount decimal(38,18), transactionTime bigint, merchantId string,
    location string, paymentMethod string, isInternational boolean, currency string, corrupt string
"""
TEXTS = ["transactionId", "userId", "merchantId", "location", "paymentMethod", "currency"]
LONGEST_TEXT = 1000  # characters of a field
# JSON as everybody else reads it: Spark by itself takes single quotes and NaN.
STRICT = {"allowSingleQuotes": "false", "allowNonNumericNumbers": "false"}
KEEP_NULLS = {"ignoreNullFields": "false"}
# What is written is longer than what was read: JSON takes up to six bytes for a character. Kafka takes no record of more
# than a megabyte, and a query that cannot write a record dies of it, at every start again.
LONGEST_KEPT = 65536  # characters of a malformed record that its dead letter keeps, bytes of its key
REQUIRED = ["transactionId", "userId", "amount", "transactionTime", "merchantId",
            "location", "paymentMethod", "isInternational", "currency"]


def wait_for_master():
    """Waits until the master listens: Spark itself would try again only 20 seconds after a first failure."""
    master = re.fullmatch(r"spark://([^:,]+):(\d+)", SparkConf().get("spark.master", ""))
    while master:
        try:
            socket.create_connection(master.groups(), timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)


def wait_for_topic(spark, topic):
    """Asks Kafka until the topic exists. The driver may start before Kafka does."""
    kafka = spark._jvm.org.apache.kafka.clients.admin
    properties = spark._jvm.java.util.Properties()
    properties.put("bootstrap.servers", BOOTSTRAP_SERVERS)
    properties.put("reconnect.backoff.max.ms", "250")
    # A host name that cannot be resolved yet is an error at once: hence create() inside the loop.
    admin, last = None, None
    while True:
        try:
            admin = admin or kafka.AdminClient.create(properties)
            if admin.listTopics().names().get().contains(topic):
                admin.close()
                return
            state = f"topic {topic} does not exist yet"
        except Exception as error:  # Py4JJavaError: no broker there yet
            state = f"no answer from {BOOTSTRAP_SERVERS}: {str(error).splitlines()[0]}"
        if state != last:
            print(f"waiting: {state}", flush=True)
            last = state
        time.sleep(0.2)


def read_transactions(spark, longest_rest="3500ms"):
    """Every record of the topic, with `problem` = why it is malformed, or null if it is fine. A batch is due after `longest_rest`, or with
    200 records."""
    raw = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", BOOTSTRAP_SERVERS)
        .option("subscribe", INPUT)
        .option("startingOffsets", "earliest")
        # Records of a transaction that was aborted are none.
        .option("kafka.isolation.level", "read_committed")
        # Records that are gone before they were read are an error to be seen, not a gap to be passed over.
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", "50000")  # bounds the memory of a batch after a long pause
        # A batch costs much the same whether it has ten records or a thousand. Under load one is due at every trigger.
        .option("minOffsetsPerTrigger", "200")
        .option("maxTriggerDelay", longest_rest)
        # A batch reads what is known to be there. A broker that holds a question for more, half a second by default, holds up the
        # next one on the same connection.
        .option("kafka.fetch.max.wait.ms", "20")
        .load()
        .coalesce(CORES)  # a task for each core, not for each partition
    )
    text = F.col("value").cast("string")
    parsed = raw.select(
        "key", "value", "partition", "offset",
        F.from_json(text, RECORD, {"columnNameOfCorruptRecord": "corrupt", **STRICT}).alias("t"),
        # The same field as a number: null if it was written in quotes.
        F.from_json(text, "amount double", STRICT).getField("amount").alias("number"),
    )
    missing = F.lit(None).cast("string")
    for field in reversed(REQUIRED):
        missing = F.when(F.col("t")[field].isNull(), f"missing or not readable: {field}").otherwise(missing)
    for field in ("transactionId", "userId", "merchantId"):
        missing = F.coalesce(missing, F.when(F.trim(F.col("t")[field]) == "", f"empty: {field}"))
    too_long = F.lit(None).cast("string")
    for field in reversed(TEXTS):
        why = f"longer than {LONGEST_TEXT} characters: {field}"
        too_long = F.when(F.length(F.col("t")[field]) > LONGEST_TEXT, why).otherwise(too_long)
    amount = F.col("t.amount")
    money = amount.try_cast(MONEY)
    problem = (
        F.when(F.col("value").isNull(), "empty record")
        .when(~F.is_valid_utf8(F.col("value")), "not UTF-8")
        .when(~text.rlike(r"^\s*\{[\s\S]*\}\s*$") | F.col("t").isNull(), "not a JSON object")
        .when(missing.isNotNull(), missing)
        .when(too_long.isNotNull(), too_long)
        .when(F.col("t.corrupt").isNotNull(), "not a JSON object of the expected types")
        .when(F.col("number").isNull(), "amount is not a number")
        .when(money.isNull(), "amount has more than 13 digits before the point")
        .when(amount != money, "amount has more than 2 places")
        .when(money <= 0, "amount is not positive")
    )
    return parsed.select(
        "key", "value", "partition", "offset",
        problem.alias("problem"),
        *[F.col("t")[field].alias(field) for field in REQUIRED if field != "amount"],
        money.alias("amount"),
    )


def totals(transactions):
    """Sum and count per merchant."""
    return (
        transactions.where("problem IS NULL")
        .groupBy("merchantId")
        .agg(F.sum("amount").cast("decimal(28,2)").alias("totalAmount"), F.count("*").alias("transactionCount"))
        # The state stays in its 20 partitions, ten for a task.
        .coalesce(CORES)
    )


def aggregates(transactions):
    """The key is the merchant, the newest record of a key holds."""
    return totals(transactions).select(
        F.col("merchantId").alias("key"),
        F.to_json(F.struct("merchantId", "totalAmount", "transactionCount")).alias("value"),
    )


def read_merchants(spark):
    """The reference table beside this file. It is small: it travels inside the plan, so only the driver needs the file."""
    with open(pathlib.Path(__file__).with_name("merchants.csv"), newline="", encoding="utf-8") as file:
        rows = [(m["id"], m["name"], m["category"], m["country"]) for m in csv.DictReader(file)]
    values = ", ".join(["(?, ?, ?, ?)"] * len(rows))
    return spark.sql(
        f"SELECT * FROM VALUES {values} AS m(id, merchantName, merchantCategory, merchantCountry)",
        args=[value for row in rows for value in row],
    )


def is_high_value():
    return F.col("amount") >= F.lit(HIGH_VALUE_FROM).cast(MONEY)


def with_merchants(rows, merchants):
    """The columns of a transaction's merchant beside it; null where the table has none."""
    merchant = F.substring_index("merchantId", "-", 1)  # merchant_1-ab12cd is merchant_1
    return rows.join(F.broadcast(merchants), merchant == F.col("id"), "left")


def enriched():
    """A transaction with its merchant, as JSON."""
    return F.to_json(F.struct(*REQUIRED, "merchantName", "merchantCategory", "merchantCountry"), KEEP_NULLS)


def high_value_and_dead_letters(transactions, merchants):
    """Two outputs of one query: the column `topic` says where a row goes."""
    joined = with_merchants(transactions.where(F.col("problem").isNotNull() | is_high_value()), merchants)
    dead = F.to_json(
        F.struct(
            F.col("problem").alias("reason"), "partition", "offset",
            F.substring(F.col("value").cast("string"), 1, LONGEST_KEPT).alias("value"),
            F.octet_length("value").alias("valueBytes"),  # of the whole record
        ),
        KEEP_NULLS,
    )
    good = F.col("problem").isNull()
    return joined.select(
        F.when(good, HIGH_VALUE).otherwise(DEAD_LETTER).alias("topic"),
        F.when(good, F.col("transactionId").cast("binary")).otherwise(F.substring("key", 1, LONGEST_KEPT)).alias("key"),
        F.when(good, enriched()).otherwise(dead).alias("value"),
    )


def start(frame, name, **options):
    return (
        frame.writeStream.queryName(name)
        .format("kafka")
        .option("kafka.bootstrap.servers", BOOTSTRAP_SERVERS)
        .option("checkpointLocation", f"{CHECKPOINT_DIR}/{name}")
        .options(**options)
        .outputMode("update")
        .trigger(processingTime="500 milliseconds")  # how often it looks whether a batch is due
        .start()
    )


def wait_for_batches(queries):
    """Waits until each query has finished a batch, or one has ended: before that nobody knows whether it can go on."""
    while all(query.isActive for query in queries) and not all(query.lastProgress for query in queries):
        time.sleep(0.1)


def say_healthy():
    """Answers GET on HEALTH_PORT from now on, for as long as the driver runs."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()
            self.wfile.write(b"each query has finished a batch\n" if self.path == "/" else b"only / is answered\n")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("", HEALTH_PORT), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def records_are_gone(error):
    """Whether a query has ended because Kafka no longer has what its checkpoint says comes next."""
    return any(sign in str(error) for sign in ("failOnDataLoss", "KAFKA_DATA_LOSS", "OffsetOutOfRange", "offset was changed from"))


class StopOnSigterm:
    """The JVM gets the signal, not Python: it calls handle(), which stops the queries, which ends main()."""

    def __init__(self, spark):
        self.spark = spark
        ensure_callback_server_started(spark.sparkContext._gateway)
        signal = spark._jvm.sun.misc.Signal
        signal.handle(signal("TERM"), self)

    def handle(self, _signal):
        print("SIGTERM: stopping the queries", flush=True)
        patience = time.monotonic() + 5
        for query in self.spark.streams.active:
            # A batch that is under way may end; one that is cut off is done again at the next start.
            while query.status["isTriggerActive"] and time.monotonic() < patience:
                time.sleep(0.05)
            query.stop()

    class Java:
        implements = ["sun.misc.SignalHandler"]


def run(spark, queries, service, topics=INPUT):
    """Runs started queries until they are stopped. `service` runs them, and reads `topics`: for advice."""
    StopOnSigterm(spark)
    wait_for_batches(queries)
    if all(query.isActive for query in queries):
        say_healthy()
    print("running: " + ", ".join(query.name for query in queries), flush=True)
    try:
        spark.streams.awaitAnyTermination()  # returns when a query was stopped, raises when one died
    except StreamingQueryException as error:
        # Elasticsearch's own reason as the last line, without Spark's plan around it.
        refused = re.search(r"RuntimeError: (Elasticsearch refuses .*)", str(error))
        if refused:
            sys.exit(refused.group(1))
        if not records_are_gone(error):
            raise
        # Without the trace of it: the last line is what people see first.
        sys.exit(
            f"{str(error).splitlines()[0]}\n"
            f"Records of {topics} are gone that were not read yet: retention has removed them, or the topic was made anew. "
            f"They cannot be counted any more. To count anew from what is left: ./lab restart {service} --fresh"
            + ("" if INSTANCE == "default" else f" --instance {INSTANCE}")
        )
    finally:
        for query in queries:
            query.stop()
        spark.stop()


def main():
    SparkContext._ensure_initialized()  # connects to the JVM, where spark-submit's settings are
    wait_for_master()
    spark = SparkSession.builder.appName("FinancialTransactionProcessor").getOrCreate()
    wait_for_topic(spark, INPUT)
    transactions = read_transactions(spark)
    queries = [
        start(aggregates(transactions), "aggregates", topic=AGGREGATES),
        start(high_value_and_dead_letters(transactions, read_merchants(spark)), "high_value"),
    ]
    run(spark, queries, "transaction-processor")


if __name__ == "__main__":
    main()
