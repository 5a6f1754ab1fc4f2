# topology.json read a second time, without Nix: what the modules must have declared. Arguments: $store (images in the
# store), $address.
.labs[.defaultLab] as $lab | . as $all
| def reference($image): $all.images[$image] | if .own then .reference else "\(.reference)@\(.index)" end;
def word: if test("^[A-Za-z0-9_/.:=@%+,-]+$") then . else "'" + gsub("'"; "'\\''") + "'" end;
{
  vm: {
    cores: .vm.cores, diskSize: .vm.diskMiB, memorySize: .vm.memoryMiB,
    forwards: ([$lab.services[].ports[].host] | sort)
  },
  units: ((["network", "ready", "failed@"] + [$lab.services[].image | "image-" + .] | unique | map("streamlab-" + .))
    + [$lab.services | keys[] | "docker-" + .] | sort),
  services: ($lab.services | with_entries(.key as $name | .value |= {
    argv: (["run", "--name=\($name)", "--log-driver=json-file"]
      + [.environment | to_entries[] | "-e", "\(.key)=\(.value)"]
      + [.ports[] | "-p", "\($address):\(.host):\(.container)"]
      + [.volumes[] | "-v", "\(.name):\(.path)\(if .readOnly then ":ro" else "" end)"]
      + [.mounts[] | "-v", "/project/\(.source):\(.path):ro"]
      + [.addons[] | "-v", "ADDONS/\(.):\($all.addons[.].mount):ro"]
      + (if .engineSocket then ["-v", "/var/run/docker.sock:/var/run/docker.sock"] else [] end)
      + (if .workingDir then ["-w", .workingDir] else [] end)
      + (if .completes then [] else ["--rm"] end)
      + ["--network=\($lab.network)", "--pull", "never", "--memory=\(.memoryMiB)m", "--memory-swap=\(.memoryMiB)m",
         "--log-opt=max-size=\(.log.megabytes)m", "--log-opt=max-file=\(.log.files)", "--stop-timeout=\(.stopSeconds)"]
      + (if .health then (.health | ["--health-cmd=\(.command | map(word) | join(" "))", "--health-interval=\(.intervalSeconds)s",
           "--health-timeout=\(.timeoutSeconds)s", "--health-start-period=\(.startSeconds)s", "--health-retries=\(.retries)"])
         else ["--no-healthcheck"] end)
      + [reference(.image)] + .command),
    requires: ([.needs[] | "docker-\(.).service"] + ["streamlab-network.service", "streamlab-image-\(.image).service"] | sort),
    waits: (.health != null),
    once: .completes,
    deadline: .readySeconds
  })),
  images: ([$lab.services[].image] | unique | map({key: ., value: (reference(.) as $r
    | if $all.images[.].own then "load" elif $store then "load \($r)" else "pull \($r)" end)}) | from_entries)
}
