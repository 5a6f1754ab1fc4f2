# Licensed under the Apache License, Version 2.0.
"""LogCounts: one streaming query over the topics of log records, into an index of Elasticsearch.

    logs-topic ──────┬─ how many per environment, service and level, in windows of 10 seconds ─► log-counts
    prod-logs-topic ─┘

A document's id follows from what it counts: a batch that is done again writes the same documents. A record is counted that says its time, a
level (letters) and a service (at most 256 characters); Logstash keeps the others too.

Environment: as of search_jobs.py
"""
import os

from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import financial_transaction_processor as processor
import search_jobs  # it makes Elasticsearch's client known to Python
from elasticsearch import Elasticsearch

TOPICS = {"logs-topic": "dev", "prod-logs-topic": "prod"}
RECORD = "timestamp string, service string, level string"


def read_logs(spark):
    """Every record that says when, who and how bad, with its environment."""
    raw = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", processor.BOOTSTRAP_SERVERS)
        .option("subscribe", ",".join(TOPICS))
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", "50000")
        .option("minOffsetsPerTrigger", "200")
        .option("maxTriggerDelay", "8s")
        .option("kafka.fetch.max.wait.ms", "20")
        .load()
        .coalesce(processor.CORES)
    )
    environment = F.lit(None).cast("string")
    for topic, name in TOPICS.items():
        environment = F.when(F.col("topic") == topic, name).otherwise(environment)
    record = F.from_json(F.col("value").cast("string"), RECORD, processor.STRICT)
    rows = raw.select(environment.alias("environment"), record.alias("r")).select(
        "environment", F.col("r.service").alias("service"), F.upper("r.level").alias("level"),
        F.try_to_timestamp("r.timestamp").alias("at"),
    )
    return rows.where(
        F.col("at").isNotNull() & F.col("level").rlike("^[A-Z]{1,32}$") & (F.trim("service") != "") & (F.length("service") <= 256))


def counts(logs):
    sound = logs.where(F.col("at") < F.current_timestamp() + F.expr(search_jobs.AHEAD))
    windows = (
        sound.withWatermark("at", search_jobs.LATEST)
        .groupBy("environment", "service", "level", F.window("at", search_jobs.WINDOW))
        .agg(F.count("*").alias("records"))
        .coalesce(processor.CORES)
    )
    begin = F.unix_millis("window.start")
    return windows.select(
        # Between quotes: no two lists of names have the same text.
        search_jobs.document_id(F.to_json(F.array("environment", "service", "level", begin.cast("string")))),
        F.to_json(F.struct(
            "environment", "service", "level", begin.alias("windowStart"), F.unix_millis("window.end").alias("windowEnd"),
            "records",
        )).alias("document"),
    )


def main():
    SparkContext._ensure_initialized()
    processor.wait_for_master()
    spark = SparkSession.builder.appName("LogCounts").getOrCreate()
    for topic in TOPICS:
        processor.wait_for_topic(spark, topic)
    spark.conf.set("spark.sql.streaming.noDataMicroBatches.enabled", "false")
    client = Elasticsearch(os.environ["ELASTICSEARCH_URL"], request_timeout=30, max_retries=0)
    query = search_jobs.start(counts(read_logs(spark)), "search_log_counts", search_jobs.Index(client, "log-counts"))
    processor.run(spark, [query], "log-counts", " or ".join(TOPICS))


if __name__ == "__main__":
    main()
