// Licensed under the Apache License, Version 2.0.
package registryfront;

import io.quarkus.arc.Arc;
import io.quarkus.runtime.Quarkus;
import io.quarkus.runtime.QuarkusApplication;
import io.vertx.core.Future;
import io.vertx.core.Promise;
import io.vertx.core.Vertx;
import io.vertx.core.buffer.Buffer;
import io.vertx.core.http.HttpClient;
import io.vertx.core.http.HttpClientOptions;
import io.vertx.core.http.HttpMethod;
import io.vertx.core.http.HttpServerOptions;
import io.vertx.core.http.HttpServerRequest;
import io.vertx.core.http.RequestOptions;
import io.vertx.core.json.JsonArray;
import io.vertx.core.json.JsonObject;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.avro.AvroRuntimeException;

/**
 * Starts Apicurio Registry in this JVM (on the loopback address only) and, once it is up, opens the public port that
 * answers Confluent's Schema Registry API at its root. Requests are handed on under
 * /apis/ccompat/v7 with their path and query unchanged; only what differs from Confluent's is dealt with here.
 */
public final class Front implements QuarkusApplication {
  private static final String API = "/apis/ccompat/v7";
  private static final String TYPE = "application/vnd.schemaregistry.v1+json";
  private static final Set<String> ROOTS = Set.of("subjects", "schemas", "config", "compatibility", "contexts", "exporters");
  private static final Set<String> LEVELS = Set.of("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD",
      "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE");
  private static final String JSON = "application/json";
  private static final Pattern ACCEPTED = Pattern.compile(
      "^\\s*application/(vnd\\.schemaregistry(\\.v1)?\\+json|json|octet-stream)\\b", Pattern.CASE_INSENSITIVE);
  private static final Pattern VERSION = Pattern.compile("latest|-1|0*[1-9]\\d{0,9}");
  private static final long MAX_BODY = 2L << 20;
  /** The dialect that holds for a JSON schema that names none. */
  private static final String MARK = "\"$schema\":\"http://json-schema.org/draft-07/schema#unnamed\"";

  private final AvroSchemas schemas = new AvroSchemas(this::version);
  private HttpClient backend;
  private Future<Reply> turn = Future.succeededFuture();

  private record Reply(int status, Buffer body) {}

  public static void main(String[] args) {
    Quarkus.run(Front.class, args);
  }

  @Override
  public int run(String... args) throws Exception {
    Vertx vertx = Arc.container().instance(Vertx.class).get();
    int inner = Integer.getInteger("quarkus.http.port");
    backend = vertx.createHttpClient(new HttpClientOptions()
        .setDefaultHost("127.0.0.1").setDefaultPort(inner).setMaxPoolSize(32).setKeepAliveTimeout(30));
    int port = port();
    vertx.createHttpServer(new HttpServerOptions().setHost("0.0.0.0").setPort(port).setMaxInitialLineLength(16384))
        .requestHandler(this::handle)
        .listen().toCompletionStage().toCompletableFuture().get(10, TimeUnit.SECONDS);
    System.out.println("schema-registry: ready on port " + port);
    Quarkus.waitForExit();
    return 0;
  }

  /** The port of the first listener in SCHEMA_REGISTRY_LISTENERS (http://host:port,...), else 8081. */
  private static int port() {
    String listeners = System.getenv().getOrDefault("SCHEMA_REGISTRY_LISTENERS", "");
    Matcher m = Pattern.compile("http://[^,]*:(\\d{1,5})").matcher(listeners);
    return m.find() ? Integer.parseInt(m.group(1)) : 8081;
  }

  private void handle(HttpServerRequest req) {
    String uri = req.uri();
    if (!uri.startsWith("/")) {
      uri = req.path() + (req.query() == null ? "" : "?" + req.query());
    }
    final String target = uri;
    boolean reads = req.method() == HttpMethod.GET || req.method() == HttpMethod.HEAD;
    body(req).compose(body -> reads ? answer(req, target, body) : inTurn(() -> answer(req, target, body)))
        .recover(t -> {
          System.err.println("schema-registry: " + req.method() + " " + target + ": " + t);
          return Future.succeededFuture(error(500, 50001, "Error in the backend data store"));
        })
        .onSuccess(reply -> {
          if (req.response().ended() || req.response().closed()) {
            return;
          }
          req.response().setStatusCode(reply.status);
          if (reply.status != 204) {
            req.response().putHeader("Content-Type", TYPE);
          }
          if (req.method() == HttpMethod.HEAD) {
            req.response().putHeader("Content-Length", Integer.toString(reply.body.length())).end();
          } else {
            req.response().end(reply.body);
          }
        });
  }

  /**
   * One write at a time: Apicurio numbers schemas from a table, and on H2 two registrations at once take the same
   * number or wait for each other's lock until one fails with 500.
   */
  private synchronized Future<Reply> inTurn(Supplier<Future<Reply>> work) {
    Future<Reply> mine = turn.transform(before -> work.get());
    turn = mine;
    return mine;
  }

  /** The whole request body, or null where it is larger than MAX_BODY. */
  private static Future<Buffer> body(HttpServerRequest req) {
    Promise<Buffer> done = Promise.promise();
    Buffer all = Buffer.buffer();
    long[] seen = {0};
    req.handler(part -> {
      seen[0] += part.length();
      if (seen[0] <= MAX_BODY) {
        all.appendBuffer(part);
      }
    });
    req.exceptionHandler(done::tryFail);
    req.endHandler(v -> done.tryComplete(seen[0] <= MAX_BODY ? all : null));
    return done.future();
  }

  private Future<Reply> answer(HttpServerRequest req, String uri, Buffer body) {
    if (body == null) {
      return Future.succeededFuture(error(413, 413, "Request body is larger than " + MAX_BODY + " bytes"));
    }
    int q = uri.indexOf('?');
    String path = q < 0 ? uri : uri.substring(0, q);
    HttpMethod method = req.method();
    boolean get = method == HttpMethod.GET || method == HttpMethod.HEAD;
    String[] seg = path.split("/");   // seg[0] is the empty string before the first slash
    String root = seg.length > 1 ? seg[1] : "";

    if (root.isEmpty() && get) {
      return Future.succeededFuture(new Reply(200, Buffer.buffer("{}")));
    }
    if (root.equals("mode")) {
      return Future.succeededFuture(mode(req, get, seg));
    }
    if (!ROOTS.contains(root)) {
      return Future.succeededFuture(error(404, 404, "HTTP 404 Not Found"));
    }
    String type = req.getHeader("Content-Type");
    boolean writes = method == HttpMethod.POST || method == HttpMethod.PUT;
    JsonObject json = null;
    if (writes && type != null && ACCEPTED.matcher(type).find()) {
      type = JSON;
      try {
        json = body.toJsonObject();
      } catch (RuntimeException e) {
        return Future.succeededFuture(error(400, 400, "The request body is not a JSON object"));
      }
    }
    for (int i = 2; i < seg.length - 1; i++) {
      if (seg[i].equals("versions") && i > 2 && !VERSION.matcher(seg[i + 1]).matches()) {
        return Future.succeededFuture(error(422, 42202, "The specified version '" + decode(seg[i + 1])
            + "' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""));
      }
    }
    if (root.equals("config")) {
      if (method == HttpMethod.PUT && json != null) {
        String level = String.valueOf(json.getValue("compatibility")).toUpperCase(Locale.ROOT);
        if (!LEVELS.contains(level)) {
          return Future.succeededFuture(error(422, 42203, "Invalid compatibility level. Valid values are none, backward, "
              + "forward, full, backward_transitive, forward_transitive, and full_transitive"));
        }
        body = json.put("compatibility", level).toBuffer();
      }
      if (seg.length == 3 && get) {
        return subjectLevel(seg[2], "true".equals(req.getParam("defaultToGlobal")));
      }
      if (seg.length == 3 && method == HttpMethod.PUT && json != null && json.getString("compatibility").equals("NONE")) {
        return setSubjectNone(seg[2]);
      }
      if (seg.length == 3 && method == HttpMethod.DELETE) {
        return deleteSubjectLevel(seg[2]);
      }
      if (seg.length == 2 && method == HttpMethod.DELETE) {
        return deleteGlobalLevel();
      }
    }
    if (root.equals("subjects") && seg.length == 2 && get) {
      String prefix = req.getParam("subjectPrefix", "");
      return get(API + uri).map(all -> all.status != 200 ? all : filtered(all.body.toJsonArray(), prefix));
    }
    if (root.equals("schemas") && seg.length == 5 && seg[2].equals("ids") && get) {
      if (seg[4].equals("schema")) {
        return get(API + "/schemas/ids/" + seg[3])
            .map(all -> all.status != 200 ? all : unmarked(new Reply(200, Buffer.buffer(all.body.toJsonObject().getString("schema")))));
      }
      if (seg[4].equals("subjects")) {
        return get(API + "/schemas/ids/" + seg[3] + "/versions" + (q < 0 ? "" : uri.substring(q)))
            .map(all -> all.status != 200 ? all : subjectsOf(all.body.toJsonArray()));
      }
    }
    boolean compatibility = root.equals("compatibility");
    if ((compatibility || root.equals("subjects")) && json != null && json.getValue("schema") instanceof String text) {
      // Apicurio takes an empty schema and gives it an id.
      if (text.isBlank()) {
        return Future.succeededFuture(error(422, 42201, "Empty schema"));
      }
      Object kind = json.getValue("schemaType", "AVRO");
      if (kind.equals("AVRO")) {
        return avro(method, uri, seg, json, text);
      }
      if (kind.equals("JSON")) {
        body = json.put("schema", marked(compact(text))).toBuffer();
      }
    }
    Future<Reply> reply = call(method, API + uri, type, body).map(Front::unmarked);
    return compatibility ? reply.map(Front::messages) : reply;
  }

  /** One schema has one id and one version, however it is spelled: what is handed on is the text that all spellings share. */
  private Future<Reply> avro(HttpMethod method, String uri, String[] seg, JsonObject json, String text) {
    boolean compatibility = seg[1].equals("compatibility");
    JsonArray references = json.getJsonArray("references");
    return schemas.parse(text, references).transform(parsed -> {
      if (parsed.failed()) {
        if (parsed.cause() instanceof AvroRuntimeException wrong) {
          return Future.succeededFuture(error(422, 42201, "Invalid schema of type AVRO, details: " + wrong.getMessage()));
        }
        if (parsed.cause() instanceof NoVersion none) {
          return Future.succeededFuture(error(422, 42201, "Invalid schema of type AVRO, details: no schema for the reference to "
              + none.getMessage()));
        }
        return Future.failedFuture(parsed.cause());
      }
      if (compatibility && references != null && !references.isEmpty()) {
        return fits(seg, parsed.result());
      }
      Future<Reply> reply = call(method, API + uri, JSON, json.put("schema", parsed.result().text()).toBuffer());
      return compatibility ? reply.map(Front::messages) : reply;
    });
  }

  /** Apicurio registers schemas with references, and refuses to say beforehand whether it would. */
  private Future<Reply> fits(String[] seg, AvroSchemas.Parsed newer) {
    String subject = seg[3];
    // Without a version: against the last one, or against all where the level says so.
    String asked = seg.length > 5 ? seg[5] : null;
    return subjectLevel(subject, true).compose(level -> {
      if (level.status != 200) {
        return Future.succeededFuture(level);
      }
      String name = level.body.toJsonObject().getString("compatibilityLevel");
      return get(API + "/subjects/" + subject + "/versions").compose(all -> {
        if (all.status != 200) {
          return Future.succeededFuture(asked == null && all.status == 404 ? fitting(List.of()) : all);
        }
        JsonArray numbers = all.body.toJsonArray();
        List<String> against = new ArrayList<>();
        if (asked != null) {
          against.add(asked);
        } else if (name.endsWith("_TRANSITIVE")) {
          numbers.forEach(number -> against.add(String.valueOf(number)));
        } else {
          against.add("latest");
        }
        Future<List<String>> why = Future.succeededFuture(new ArrayList<>());
        for (String version : against) {
          why = why.compose(so -> version(subject, version)
              .compose(older -> schemas.parse(older.getString("schema"), older.getJsonArray("references")))
              .map(older -> {
                so.addAll(AvroSchemas.misfits(name, newer.schema(), older.schema()));
                return so;
              }));
        }
        return why.map(Front::fitting).recover(t -> t instanceof NoVersion none
            ? Future.succeededFuture(none.reply) : Future.failedFuture(t));
      });
    });
  }

  private static Reply fitting(List<String> misfits) {
    JsonObject answer = new JsonObject().put("is_compatible", misfits.isEmpty());
    return new Reply(200, (misfits.isEmpty() ? answer : answer.put("messages", new JsonArray(misfits))).toBuffer());
  }

  private static final class NoVersion extends RuntimeException {
    private static final long serialVersionUID = 1;
    private final transient Reply reply;

    NoVersion(String subject, String version, Reply reply) {
      super("subject " + subject + ", version " + version);
      this.reply = reply;
    }
  }

  /** A version as Confluent's API describes it. */
  private Future<JsonObject> version(String subject, String version) {
    return get(API + "/subjects/" + subject + "/versions/" + version).compose(reply -> reply.status == 200
        ? Future.succeededFuture(reply.body.toJsonObject()) : Future.failedFuture(new NoVersion(subject, version, reply)));
  }

  /**
   * Apicurio guesses a schema's type from its text, also where it was told: without this a JSON schema that names neither its
   * dialect nor properties is refused, or taken for Avro. What is handed out is without it again.
   */
  static String marked(String text) {
    if (!text.startsWith("{")) {
      return text;
    }
    try {
      JsonObject schema = new JsonObject(text);
      if (schema.containsKey("$schema") || schema.containsKey("properties")) {
        return text;
      }
      return "{" + MARK + (schema.isEmpty() ? "" : ",") + text.substring(1);
    } catch (RuntimeException notJson) {
      return text;
    }
  }

  private static Reply unmarked(Reply reply) {
    String text = reply.body.toString();
    if (reply.status != 200 || !text.contains("#unnamed")) {
      return reply;
    }
    String quoted = MARK.replace("\"", "\\\"");
    for (String mark : List.of(quoted, MARK)) {
      text = text.replace("{" + mark + ",", "{").replace("{" + mark + "}", "{}");
    }
    return new Reply(200, Buffer.buffer(text));
  }

  private static Reply filtered(JsonArray subjects, String prefix) {
    List<String> kept = subjects.stream().map(String::valueOf).filter(s -> s.startsWith(prefix)).sorted().toList();
    return new Reply(200, new JsonArray(kept).toBuffer());
  }

  private static Reply subjectsOf(JsonArray versions) {
    List<String> names = versions.stream().map(v -> ((JsonObject) v).getString("subject")).distinct().sorted().toList();
    return new Reply(200, new JsonArray(names).toBuffer());
  }

  /** Confluent's name for Apicurio's "reason". */
  private static Reply messages(Reply reply) {
    if (reply.status != 200) {
      return reply;
    }
    JsonObject json = reply.body.toJsonObject();
    String reason = (String) json.remove("reason");
    if (reason != null) {
      json.put("messages", new JsonArray().add(reason));
    }
    return new Reply(200, json.toBuffer());
  }

  /** JSON text without the white space between its tokens: the same schema, laid out differently, keeps its id. */
  static String compact(String text) {
    String trimmed = text.strip();
    if (!trimmed.startsWith("{") && !trimmed.startsWith("[")) {
      return text;
    }
    StringBuilder out = new StringBuilder(trimmed.length());
    boolean quoted = false;
    for (int i = 0; i < trimmed.length(); i++) {
      char c = trimmed.charAt(i);
      if (quoted && c == '\\' && i + 1 < trimmed.length()) {
        out.append(c).append(trimmed.charAt(++i));
        continue;
      }
      if (c == '"') {
        quoted = !quoted;
      }
      if (quoted || c != ' ' && c != '\t' && c != '\n' && c != '\r') {
        out.append(c);
      }
    }
    return out.toString();
  }

  /** Apicurio has no modes: it always reads and writes, and that cannot be changed. */
  private static Reply mode(HttpServerRequest req, boolean get, String[] seg) {
    if (!get) {
      return error(422, 42205, "The mode of this registry cannot be changed");
    }
    if (seg.length > 2 && !"true".equals(req.getParam("defaultToGlobal"))) {
      return error(404, 40409, "Subject '" + decode(seg[2]) + "' does not have subject-level mode configured");
    }
    return new Reply(200, Buffer.buffer("{\"mode\":\"READWRITE\"}"));
  }

  private static String rule(String subject) {
    return "/apis/registry/v2/groups/default/artifacts/" + subject + "/rules/COMPATIBILITY";
  }

  private static Buffer ruleBody(String level) {
    return new JsonObject().put("type", "COMPATIBILITY").put("config", level).toBuffer();
  }

  private static Reply level(Reply rule) {
    String level = rule.body.toJsonObject().getString("config");
    return new Reply(200, new JsonObject().put("compatibilityLevel", level).toBuffer());
  }

  private static Reply noLevel(String subject) {
    return error(404, 40408, "Subject '" + decode(subject) + "' does not have subject-level compatibility configured");
  }

  /** Apicurio says NONE where a subject has no level of its own; Confluent's says 404, or the global one if asked to. */
  private Future<Reply> subjectLevel(String subject, boolean defaultToGlobal) {
    return get(rule(subject)).compose(rule -> {
      if (rule.status == 404 && defaultToGlobal) {
        return get(API + "/config");
      }
      return Future.succeededFuture(rule.status == 200 ? level(rule) : rule.status == 404 ? noLevel(subject) : rule);
    });
  }

  /**
   * Through Confluent's API Apicurio takes NONE as "no level of its own", so that the global one holds. A rule that
   * says NONE is a level; a subject that has none yet (or does not exist yet) gets another level first.
   */
  private Future<Reply> setSubjectNone(String subject) {
    Reply done = new Reply(200, Buffer.buffer("{\"compatibility\":\"NONE\"}"));
    return call(HttpMethod.PUT, rule(subject), JSON, ruleBody("NONE")).compose(put -> {
      if (put.status != 404) {
        return Future.succeededFuture(put.status == 200 ? done : put);
      }
      return call(HttpMethod.PUT, API + "/config/" + subject, JSON, Buffer.buffer("{\"compatibility\":\"BACKWARD\"}"))
          .compose(first -> first.status != 200 ? Future.succeededFuture(first)
              : call(HttpMethod.PUT, rule(subject), JSON, ruleBody("NONE")).map(again -> again.status == 200 ? done : again));
    });
  }

  private Future<Reply> deleteSubjectLevel(String subject) {
    return get(rule(subject)).compose(rule -> {
      if (rule.status != 200) {
        return Future.succeededFuture(rule.status == 404 ? noLevel(subject) : rule);
      }
      Reply was = level(rule);
      boolean none = "NONE".equals(was.body.toJsonObject().getString("compatibilityLevel"));
      Future<Reply> ready = none   // Apicurio deletes nothing where the rule says NONE
          ? call(HttpMethod.PUT, rule(subject), JSON, ruleBody("BACKWARD")) : Future.succeededFuture(rule);
      return ready.compose(r -> call(HttpMethod.DELETE, API + "/config/" + subject, null, Buffer.buffer()))
          .map(gone -> gone.status == 200 ? was : gone);
    });
  }

  /** Apicurio's own default (NONE) holds afterwards. */
  private Future<Reply> deleteGlobalLevel() {
    return get(API + "/config").compose(was ->
        call(HttpMethod.PUT, API + "/config", JSON, Buffer.buffer("{\"compatibility\":\"NONE\"}"))
            .map(put -> put.status == 200 ? was : put));
  }

  private Future<Reply> get(String uri) {
    return call(HttpMethod.GET, uri, null, Buffer.buffer());
  }

  private Future<Reply> call(HttpMethod method, String uri, String contentType, Buffer body) {
    return backend.request(new RequestOptions().setMethod(method).setURI(uri).setTimeout(30_000)).compose(out -> {
      if (contentType != null) {
        out.putHeader("Content-Type", contentType);
      }
      return (body.length() == 0 ? out.send() : out.send(body))
          .compose(in -> in.body().map(b -> tidy(in.statusCode(), b)));
    });
  }

  /** Every error leaves as JSON with an error_code, and with the status that belongs to it. */
  private static Reply tidy(int status, Buffer body) {
    if (status < 400) {
      return new Reply(status, body);
    }
    try {
      JsonObject json = body.toJsonObject();
      int code = json.getInteger("error_code", 0);
      if (code >= 10000) {
        status = code / 100;   // Apicurio sends 40405 with status 409
      } else if (code == 0) {
        code = status;
      }
      String message = json.getString("message", "").replace(" in group 'null'", "");
      return error(status, code, message);
    } catch (RuntimeException notJson) {
      return error(status, status, "HTTP " + status);
    }
  }

  private static Reply error(int status, int code, String message) {
    return new Reply(status, new JsonObject().put("error_code", code).put("message", message).toBuffer());
  }

  private static String decode(String segment) {
    try {
      return URLDecoder.decode(segment.replace("+", "%2B"), StandardCharsets.UTF_8);
    } catch (IllegalArgumentException e) {
      return segment;
    }
  }
}
