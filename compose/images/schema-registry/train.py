# Licensed under the Apache License, Version 2.0.
"""Runs of the registry while its image is built, each ended with SIGTERM.

    train.py use START...    the training run for the class data archive: each part of the API is used once
    train.py empty START...  nothing is done: what it leaves is an empty registry's database
"""
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

BASE = "http://127.0.0.1:8081"


def call(method, path, body=None, want=200):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, method=method, headers={
        "Content-Type": "application/vnd.schemaregistry.v1+json",
        "Accept": "application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json, application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            status, text = reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    if status != want:
        sys.exit(f"{method} {path}: {status} {text}, wanted {want}")
    return json.loads(text)


def avro(*fields):
    return {"schema": json.dumps({"type": "record", "name": "R", "fields": list(fields)})}


def use():
    ident = {"name": "id", "type": "long"}
    call("GET", "/subjects")
    call("PUT", "/config", {"compatibility": "BACKWARD"})
    first = call("POST", "/subjects/a-value/versions?normalize=true", avro(ident))["id"]
    call("POST", "/subjects/a-value/versions", avro(ident, {"name": "n", "type": ["null", "string"], "default": None}))
    call("POST", "/subjects/a-value/versions", avro(ident, {"name": "x", "type": "string"}), 409)
    call("POST", "/compatibility/subjects/a-value/versions/latest", avro(ident, {"name": "x", "type": "string"}))
    call("POST", "/subjects/a-value", avro(ident))
    call("GET", f"/schemas/ids/{first}")
    call("GET", f"/schemas/ids/{first}/versions")
    call("GET", "/schemas/types")
    call("GET", "/subjects/a-value/versions")
    call("GET", "/subjects/a-value/versions/latest")
    call("GET", "/subjects/none/versions", want=404)
    call("PUT", "/config/a-value", {"compatibility": "FULL"})
    call("GET", "/config/a-value")
    call("PUT", "/config/a-value", {"compatibility": "NONE"})
    call("DELETE", "/config/a-value")
    call("GET", "/config")
    call("GET", "/config/a-value?defaultToGlobal=true")
    call("PUT", "/config", {"compatibility": "WRONG"}, 422)
    call("GET", f"/schemas/ids/{first}/subjects")
    call("GET", "/config/none", want=404)
    call("POST", "/subjects/j-value/versions", {"schemaType": "JSON", "schema": json.dumps(
        {"type": "object", "properties": {"id": {"type": "integer"}}})})
    call("POST", "/subjects/p-value/versions", {
        "schemaType": "PROTOBUF", "schema": 'syntax = "proto3"; message M { int64 id = 1; }'})
    call("DELETE", "/subjects/a-value/versions/1")
    call("DELETE", "/subjects/a-value")


def main():
    what, start = sys.argv[1], sys.argv[2:]
    process = subprocess.Popen(start)
    try:
        limit = time.time() + 120
        while True:
            try:
                urllib.request.urlopen(BASE + "/subjects", timeout=5).read()
                break
            except OSError:
                if process.poll() is not None or time.time() > limit:
                    sys.exit("the registry did not start")
                time.sleep(0.1)
        if what == "use":
            use()
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    print(what, "ended with", code)


main()
