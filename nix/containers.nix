# A lab of topology.json as containers for virtualisation.oci-containers (Docker). Builtins only. It gives nothing a
# meaning of its own: what it adds is how Docker wants things written.
{
  file ? ./topology.json,
  # null: the default one
  lab ? null,
  # where the project's files lie on the machine that runs the containers
  source ? "/project",
  # the folder with one folder of jars per add-on
  addons ? "/addons",
  # what host ports are published on
  address ? "0.0.0.0",
}:
let
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    concatStringsSep
    filter
    listToAttrs
    mapAttrs
    match
    replaceStrings
    sort
    toString
    ;

  topology = import ./topology.nix { inherit file; };
  name = if lab == null then topology.defaultLab else lab;
  chosen =
    topology.labs.${name}
      or (throw "there is no lab ${name}; there are: ${concatStringsSep ", " (attrNames topology.labs)}");

  # `docker run --health-cmd` takes one text for a shell.
  quote =
    word:
    if match "[A-Za-z0-9_/.:=@%+,-]+" word != null then
      word
    else
      "'${replaceStrings [ "'" ] [ "'\\''" ] word}'";

  reference =
    image: if image.own then image.reference else "${image.reference}@${image.index}";

  # The image's own reference decides what runs: `pull` is never, because units of their own bring the images.
  container = service: {
    image = reference topology.images.${service.image};
    pull = "never";
    cmd = service.command;
    inherit (service) environment;
    ports = map (p: "${address}:${toString p.host}:${toString p.container}") service.ports;
    volumes =
      map (v: "${v.name}:${v.path}${if v.readOnly then ":ro" else ""}") service.volumes
      ++ map (m: "${source}/${m.source}:${m.path}:ro") service.mounts
      ++ map (a: "${addons}/${a}:${topology.addons.${a}.mount}:ro") service.addons
      ++ (
        if service.engineSocket then [ "/var/run/docker.sock:/var/run/docker.sock" ] else [ ]
      );
    dependsOn = service.needs;
    networks = [ chosen.network ];
    workdir = service.workingDir;
    # One that has completed stays to be looked at: docker logs, docker inspect.
    autoRemoveOnStop = !service.completes;
    log-driver = "json-file";
    extraOptions = [
      "--memory=${toString service.memoryMiB}m"
      "--memory-swap=${toString service.memoryMiB}m"
      "--log-opt=max-size=${toString service.log.megabytes}m"
      "--log-opt=max-file=${toString service.log.files}"
      "--stop-timeout=${toString service.stopSeconds}"
    ]
    ++ (
      if service.health == null then
        [ "--no-healthcheck" ]
      else
        [
          "--health-cmd=${concatStringsSep " " (map quote service.health.command)}"
          "--health-interval=${toString service.health.intervalSeconds}s"
          "--health-timeout=${toString service.health.timeoutSeconds}s"
          "--health-start-period=${toString service.health.startSeconds}s"
          "--health-retries=${toString service.health.retries}"
        ]
    );
  };

  used = attrNames (
    listToAttrs (
      map (s: {
        name = s.image;
        value = null;
      }) (attrValues chosen.services)
    )
  );
in
{
  inherit name;
  inherit (chosen)
    about
    endpoints
    memoryMiB
    network
    services
    ;
  inherit (topology) vm;
  containers = mapAttrs (_: container) chosen.services;
  hostPorts = sort (a: b: a < b) (concatMap (s: map (p: p.host) s.ports) (attrValues chosen.services));
  images = listToAttrs (
    map (n: {
      name = n;
      value = topology.images.${n} // {
        docker = reference topology.images.${n};
      };
    }) used
  );
  # Only what this lab's services have.
  addons = listToAttrs (
    map (n: {
      name = n;
      value = topology.addons.${n};
    }) (concatMap (s: s.addons) (attrValues chosen.services))
  );
  # The project's files that are mounted: all that the containers see of it.
  mounted = attrNames (
    listToAttrs (
      map (m: {
        name = m.source;
        value = null;
      }) (concatMap (s: s.mounts) (attrValues chosen.services))
    )
  );
  oneShots = filter (n: chosen.services.${n}.completes) (attrNames chosen.services);
}
