// Licensed under the Apache License, Version 2.0.
package registryfront;

import io.vertx.core.Future;
import io.vertx.core.json.JsonArray;
import io.vertx.core.json.JsonObject;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiFunction;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaCompatibility.Incompatibility;

/**
 * Avro schemas with what they refer to: the one text that all spellings of a schema have in common, as Confluent's registry keeps it, and
 * whether one schema reads what another has written. It knows nothing of HTTP.
 */
final class AvroSchemas {
  /** Subject and version (a number or "latest"), to the version as Confluent's API describes it. */
  private final BiFunction<String, String, Future<JsonObject>> versions;

  AvroSchemas(BiFunction<String, String, Future<JsonObject>> versions) {
    this.versions = versions;
  }

  /** A schema, and the schemas that it refers to, each after those that it refers to itself. */
  record Parsed(Schema schema, List<Schema> references) {
    /** Attributes in Avro's order, names in full, no white space; what it refers to is named, not repeated. */
    String text() {
      return schema.toString(references, false);
    }
  }

  /** Fails with Avro's exception for what is no schema, and with another where a reference is not found. */
  Future<Parsed> parse(String text, JsonArray references) {
    return collect(references, new LinkedHashMap<>()).map(texts -> {
      Schema.Parser parser = new Schema.Parser().setValidateDefaults(false);
      List<Schema> referred = new ArrayList<>();
      for (String each : texts.values()) {
        referred.add(parser.parse(each));
      }
      return new Parsed(parser.parse(text), referred);
    });
  }

  /** Texts by subject and version, in the order in which they must be parsed. */
  private Future<Map<String, String>> collect(JsonArray references, Map<String, String> found) {
    Future<Map<String, String>> all = Future.succeededFuture(found);
    for (Object each : references == null ? new JsonArray() : references) {
      JsonObject reference = (JsonObject) each;
      String subject = reference.getString("subject");
      String version = String.valueOf(reference.getValue("version"));
      all = all.compose(so -> so.containsKey(subject + " " + version) ? Future.succeededFuture(so)
          : versions.apply(subject, version).compose(described -> collect(described.getJsonArray("references"), so).map(deeper -> {
            deeper.putIfAbsent(subject + " " + version, described.getString("schema"));
            return deeper;
          })));
    }
    return all;
  }

  /** Why `newer` does not fit `older` at a compatibility level; empty where it does. */
  static List<String> misfits(String level, Schema newer, Schema older) {
    List<String> why = new ArrayList<>();
    if (level.startsWith("BACKWARD") || level.startsWith("FULL")) {
      why.addAll(unreadable(newer, older));
    }
    if (level.startsWith("FORWARD") || level.startsWith("FULL")) {
      why.addAll(unreadable(older, newer));
    }
    return why;
  }

  private static List<String> unreadable(Schema reader, Schema writer) {
    List<String> why = new ArrayList<>();
    for (Incompatibility each : SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getResult().getIncompatibilities()) {
      why.add(each.getType() + " at " + each.getLocation() + ": " + each.getMessage());
    }
    return why;
  }
}
