// SPDX-License-Identifier: Apache-2.0
package lab;

import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Properties;

import org.apache.kafka.common.utils.Exit;
import org.apache.log4j.LogManager;
import org.apache.log4j.helpers.OptionConverter;

/**
 * Does in one JVM what otherwise needs two: writes the configuration from the
 * environment, formats the storage if that was not done yet, starts the node.
 */
public final class Node {
    private static final class Returned extends RuntimeException {
        final int code;
        final String message;

        Returned(int code, String message) {
            super(message, null, false, false);
            this.code = code;
            this.message = message == null ? "" : message;
        }
    }

    private static final String DEFAULTS = "/etc/kafka/docker";
    private static final String MOUNTED = "/mnt/shared/config";

    /** Settings that have to follow the small heap; used only where nobody set them. */
    private static final Map<String, String> SMALL = Map.of(
        "log.cleaner.dedupe.buffer.size", "4194304");

    public static void main(String[] args) throws Exception {
        String dir = args.length > 0 ? args[0] : "/opt/kafka/config";
        String logging = System.getProperty("log4j.configuration");
        System.setProperty("log4j.configuration", "file:" + DEFAULTS + "/tools-log4j.properties");

        setUp(dir);

        Path file = Path.of(dir, "server.properties");
        Properties known = new Properties();
        try (InputStream in = Files.newInputStream(file)) {
            known.load(in);
        }
        StringBuilder more = new StringBuilder();
        SMALL.forEach((key, value) -> {
            if (!known.containsKey(key)) {
                more.append('\n').append(key).append('=').append(value);
            }
        });
        Files.writeString(file, more.append('\n'), StandardOpenOption.APPEND);

        if (logging != null) {
            System.setProperty("log4j.configuration", logging);
            LogManager.resetConfiguration();
            OptionConverter.selectAndConfigure(
                URI.create(logging).toURL(), null, LogManager.getLoggerRepository());
        }
        kafka.Kafka.main(new String[] {file.toString()});
    }

    private static void setUp(String dir) {
        Exit.Procedure back = (code, message) -> {
            throw new Returned(code, message);
        };
        Exit.setExitProcedure(back);
        Exit.setHaltProcedure(back);
        try {
            kafka.docker.KafkaDockerWrapper.main(new String[] {
                "setup",
                "--default-configs-dir", DEFAULTS,
                "--mounted-configs-dir", MOUNTED,
                "--final-configs-dir", dir});
        } catch (Returned end) {
            if (end.code != 0 && !end.message.contains("already formatted")) {
                System.err.println("set-up failed: " + end.message);
                System.exit(end.code);
            }
        } catch (Throwable broken) {
            broken.printStackTrace();
            System.exit(1);
        } finally {
            Exit.resetExitProcedure();
            Exit.resetHaltProcedure();
        }
    }
}
