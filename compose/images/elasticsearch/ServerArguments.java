// Licensed under the Apache License, Version 2.0.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.elasticsearch.bootstrap.ServerArgs;
import org.elasticsearch.common.io.stream.OutputStreamStreamOutput;
import org.elasticsearch.common.settings.SecureString;
import org.elasticsearch.common.settings.Settings;

/**
 * Writes what Elasticsearch's server reads from its standard input before all else: its settings, from elasticsearch.yml and, as in
 * the public image, from variables with a dot in their name. Elasticsearch's own launcher does the same and stays beside the server,
 * a second JVM; this one ends.
 */
class ServerArguments {
    public static void main(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]);
        Path configuration = home.resolve("config");
        Settings.Builder settings = Settings.builder();
        Path file = configuration.resolve("elasticsearch.yml");
        if (Files.exists(file)) {
            settings.loadFromPath(file);
        }
        for (Map.Entry<String, String> variable : System.getenv().entrySet()) {
            if (variable.getKey().matches("[a-z0-9_]+(\\.[a-z0-9_]+)+")) {
                settings.put(variable.getKey(), variable.getValue());
            }
        }
        settings.replacePropertyPlaceholders();
        settings.put("path.home", home.toString());
        if (settings.get("node.name") == null) {
            settings.put("node.name", System.getenv().getOrDefault("HOSTNAME", "elasticsearch"));
        }
        SecureString noPassword = new SecureString(new char[0]);
        ServerArgs server = new ServerArgs(false, false, null, noPassword, settings.build(), configuration);
        try (OutputStreamStreamOutput out = new OutputStreamStreamOutput(System.out)) {
            server.writeTo(out);
        }
    }
}
