# Licensed under the Apache License, Version 2.0.
"""SearchJobs: three streaming queries over the topic `financial_transactions`, each into an index of Elasticsearch.

    financial_transactions ─┬─ aggregates  sum and count per merchant ───────────── transaction-aggregates
                            ├─ high-value  amount >= 120000, join merchants.csv ─── high-value-transactions
                            └─ suspicious  many transactions of a user at a time ── suspicious-users

What a transaction is, and what is malformed, is that of financial_transaction_processor.py beside this file. A document's id follows
from what it is about, and a batch that is done again writes the same documents: each is there once, whatever is killed.

    search_jobs.py [aggregates] [high-value] [suspicious]      all three where none is named

Environment: as of financial_transaction_processor.py, and
             ELASTICSEARCH_URL       where to write
             ELASTICSEARCH_PACKAGES  folder of the wheels of Elasticsearch's Python client
"""
import glob
import json
import os
import sys
import time

sys.path[:0] = glob.glob(os.path.join(os.environ["ELASTICSEARCH_PACKAGES"], "*.whl"))

from elasticsearch import ApiError, Elasticsearch, TransportError
from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import financial_transaction_processor as processor

PORTION = 1000  # documents of one request
LONGEST_ID = 512  # bytes: Elasticsearch refuses a longer one
SHOWN = 300  # characters of a reason
TRY_AGAIN = (429, 502, 503, 504)  # Elasticsearch has no room, or is not ready

# A user is suspicious with so many transactions within one window of event time. A record that comes later than the watermark says
# changes nothing any more; one whose time lies ahead of the clock would move the watermark past all others, and is left out.
WINDOW = "10 seconds"
SUSPICIOUS_FROM = 10
LATEST = "10 minutes"
AHEAD = "INTERVAL 1 MINUTE"


def document_id(text):
    """A column as ids; in place of one that is too long, its hash."""
    return F.when(F.octet_length(text) <= LONGEST_ID, text).otherwise(F.sha2(text, 256)).alias("id")


def aggregates(transactions):
    """The newest total of each merchant; its id is the merchant."""
    totals = processor.totals(transactions)
    return totals.select(document_id(F.col("merchantId")), F.to_json(F.struct(*totals.columns)).alias("document"))


def high_value(transactions, merchants):
    """Transactions of 120000.00 and more, with their merchant; its id is the transaction's."""
    rows = processor.with_merchants(
        transactions.where(F.col("problem").isNull() & processor.is_high_value()), merchants)
    return rows.select(document_id(F.col("transactionId")), processor.enriched().alias("document"))


def suspicious(transactions):
    """Users with many transactions within a window; its id is the user and the window's begin."""
    # As numbers: a time that no calendar has cannot even be made a timestamp, and would end the query.
    latest = F.unix_millis(F.current_timestamp() + F.expr(AHEAD))
    sound = transactions.where("problem IS NULL").where(F.col("transactionTime").between(F.lit(0), latest))
    windows = (
        sound.withColumn("at", F.timestamp_millis("transactionTime"))
        .withWatermark("at", LATEST)
        .groupBy("userId", F.window("at", WINDOW))
        .agg(F.count("*").alias("transactionCount"), F.sum("amount").cast("decimal(28,2)").alias("totalAmount"))
        .where(F.col("transactionCount") >= SUSPICIOUS_FROM)
        .coalesce(processor.CORES)
    )
    begin = F.unix_millis("window.start")
    return windows.select(
        document_id(F.concat_ws("@", "userId", begin.cast("string"))),
        F.to_json(F.struct(
            "userId", begin.alias("windowStart"), F.unix_millis("window.end").alias("windowEnd"),
            "transactionCount", "totalAmount",
        )).alias("document"),
    )


class Index:
    """Writes a query's batches into an index: called by Spark with each batch, which counts as done when this has returned."""

    def __init__(self, client, name):
        self.client = client
        self.name = name

    def __call__(self, batch, _number):
        portion = []
        for row in batch.toLocalIterator():
            # As text: a sum of money is never a float on its way.
            portion += [json.dumps({"index": {"_id": row["id"]}}), row["document"]]
            if len(portion) >= 2 * PORTION:
                self.write(portion)
                portion = []
        if portion:
            self.write(portion)

    def write(self, lines):
        """Until Elasticsearch has taken all: a batch that gives up would end the query."""
        said = False
        while lines:
            try:
                answer = self.client.bulk(index=self.name, operations=lines)
                lines, why = self.refused(lines, answer)
            except ApiError as error:
                if error.status_code not in TRY_AGAIN:
                    raise RuntimeError(f"Elasticsearch refuses documents of {self.name}: {str(error)[:SHOWN]}") from None
                why = str(error)[:SHOWN]
            except TransportError as error:
                why = str(error)
            if lines:
                if not said:
                    print(f"Elasticsearch does not take documents of {self.name}: {why}; trying again", flush=True)
                said = True
                time.sleep(0.5)
        if said:
            print(f"Elasticsearch takes documents of {self.name} again", flush=True)

    def refused(self, lines, answer):
        """What must be tried again, and why. What Elasticsearch refuses for good ends the query: nothing is left out silently."""
        again, why = [], None
        for number, item in enumerate(answer["items"] if answer["errors"] else []):
            result = item["index"]
            if result["status"] in TRY_AGAIN or result.get("error", {}).get("type") == "cluster_block_exception":
                again += lines[2 * number:2 * number + 2]
                why = result["error"]["reason"]
            elif result["status"] >= 300:
                raise RuntimeError(f"Elasticsearch refuses document {result['_id']} of {self.name}: {str(result['error'])[:SHOWN]}")
        return again, why


def start(frame, name, index):
    return (
        frame.writeStream.queryName(name)
        .option("checkpointLocation", f"{processor.CHECKPOINT_DIR}/{name}")
        .outputMode("update")
        .trigger(processingTime="500 milliseconds")
        .foreachBatch(index)
        .start()
    )


def main():
    known = ["aggregates", "high-value", "suspicious"]
    chosen = sys.argv[1:] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        sys.exit(f"no query {unknown[0]}; there are: {', '.join(known)}")
    SparkContext._ensure_initialized()
    processor.wait_for_master()
    spark = SparkSession.builder.appName("SearchJobs").getOrCreate()
    processor.wait_for_topic(spark, processor.INPUT)
    client = Elasticsearch(os.environ["ELASTICSEARCH_URL"], request_timeout=30, max_retries=0)
    # What is looked at by people may be some seconds old; each batch of three queries costs more than its records.
    transactions = processor.read_transactions(spark, longest_rest="8s")
    # By itself a query with a watermark runs a second, empty batch after each, to close windows sooner: none of ours waits for that.
    spark.conf.set("spark.sql.streaming.noDataMicroBatches.enabled", "false")

    queries = []
    if "aggregates" in chosen:
        queries.append(start(aggregates(transactions), "search_aggregates", Index(client, "transaction-aggregates")))
    if "high-value" in chosen:
        merchants = processor.read_merchants(spark)
        rows = high_value(transactions, merchants)
        queries.append(start(rows, "search_high_value", Index(client, "high-value-transactions")))
    if "suspicious" in chosen:
        queries.append(start(suspicious(transactions), "search_suspicious", Index(client, "suspicious-users")))
    processor.run(spark, queries, "search-jobs")


if __name__ == "__main__":
    main()
