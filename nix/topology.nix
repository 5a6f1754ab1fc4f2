# topology.json, read and checked. Every mistake is named with its place, all at once. Builtins only.
{
  file ? ./topology.json,
}:
let
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genericClosure
    length
    sort
    toString
    ;

  shape = import ./shape.nix;
  inherit (shape)
    absolute
    count
    flag
    hex64
    inside
    listOf
    name
    orNull
    port
    record
    tableOf
    text
    ;
  anyKey = _at: _key: [ ];

  service = record {
    image = text;
    command = listOf text;
    workingDir = orNull absolute;
    environment = tableOf anyKey text;
    ports = listOf (record {
      host = port;
      container = port;
    });
    volumes = listOf (record {
      name = name;
      path = absolute;
      readOnly = flag;
    });
    mounts = listOf (record {
      source = inside;
      path = absolute;
    });
    addons = listOf text;
    engineSocket = flag;
    memoryMiB = count;
    needs = listOf text;
    completes = flag;
    health = orNull (record {
      command = listOf text;
      intervalSeconds = count;
      timeoutSeconds = count;
      startSeconds = count;
      retries = count;
    });
    readySeconds = count;
    log = record {
      megabytes = count;
      files = count;
    };
    # Whether what has died is started again: the unit does it, for its own number of tries.
    restart = shape.be "\"no\" or \"on-failure\"" (shape.matches "no|on-failure");
    stopSeconds = count;
  };

  document = record {
    defaultLab = text;
    vm = record {
      memoryMiB = count;
      cores = count;
      diskMiB = count;
    };
    addons = tableOf name (record {
      mount = absolute;
      jars = listOf (record {
        path = inside;
        sha256 = hex64;
      });
      wheels = listOf (record {
        name = text;
        version = text;
        sha256 = hex64;
      });
    });
    images = tableOf name (record {
      reference = shape.be "a reference NAME:TAG without a digest" (
        shape.matches "[a-z0-9][a-z0-9._/:-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*"
      );
      index = orNull (shape.be "sha256: and 64 hex digits" (shape.matches "sha256:[0-9a-f]{64}"));
      own = flag;
    });
    labs = tableOf name (record {
      about = text;
      network = name;
      memoryMiB = count;
      endpoints = record {
        instance = text;
        lab = text;
        host = text;
        roles = tableOf name (listOf text);
        services = tableOf name (tableOf name port);
      };
      services = tableOf name service;
    });
  };

  raw = builtins.fromJSON (builtins.readFile file);

  # What the guest's system needs beside the containers.
  systemMiB = 1024;

  when = condition: mistake: if condition then [ mistake ] else [ ];
  numbers = sort (a: b: a < b);
  hostPorts = s: map (p: p.host) s.ports;

  imageMistakes =
    n:
    let
      image = raw.images.${n};
    in
    when (image.own && image.index != null) "images.${n}: the own image is built, it has no index"
    ++ when (!image.own && image.index == null) "images.${n}: not pinned, its index is missing";

  serviceMistakes =
    at: lab: n:
    let
      s = lab.services.${n};
      place = "${at}.services.${n}";
      known = d: lab.services ? ${d};
      # All that must be there before this one; it is among them only where needs run in a circle.
      before = genericClosure {
        startSet = map (key: { inherit key; }) (filter known s.needs);
        operator = x: map (key: { inherit key; }) (filter known lab.services.${x.key}.needs);
      };
      paths =
        map (m: m.path) (s.volumes ++ s.mounts)
        ++ concatMap (a: if raw.addons ? ${a} then [ raw.addons.${a}.mount ] else [ ]) s.addons;
      published = lab.endpoints.services.${n} or { };
    in
    when (!raw.images ? ${s.image}) "${place}: there is no image ${s.image}"
    ++ concatMap (d: when (!known d) "${place}: needs ${d}, which is not in this lab") s.needs
    ++ when (elem n (map (x: x.key) before)) "${place}: needs run in a circle back to it"
    ++ concatMap (a: when (!raw.addons ? ${a}) "${place}: there is no add-on ${a}") s.addons
    ++ when (s.completes && s.health != null) "${place}: it completes, so it has no health"
    ++ when (!s.completes && s.health == null) "${place}: health is null, but it does not complete"
    ++ when (s.health != null && s.health.command == [ ]) "${place}: the health command is empty"
    ++ concatMap (p: when (length (filter (q: q == p) paths) > 1) "${place}: two things at ${p}") paths
    ++ when (numbers (attrValues published) != numbers (hostPorts s))
      "${place}: its host ports are not those of endpoints";

  labMistakes =
    n:
    let
      lab = raw.labs.${n};
      at = "labs.${n}";
      names = attrNames lab.services;
      ports = concatMap (s: map (host: { inherit s host; }) (hostPorts lab.services.${s})) names;
      twice = p: filter (q: q.host == p.host) ports;
      sum = foldl' (a: s: a + s.memoryMiB) 0 (attrValues lab.services);
    in
    concatMap (serviceMistakes at lab) names
    ++ concatMap (
      p:
      when (
        length (twice p) > 1
      ) "${at}: host port ${toString p.host} is published by ${concatStringsSep " and " (map (q: q.s) (twice p))}"
    ) ports
    ++ concatMap (
      s: when (!lab.services ? ${s}) "${at}.endpoints: there is no service ${s}"
    ) (attrNames lab.endpoints.services)
    ++ when (lab.endpoints.lab != n) "${at}.endpoints: lab is ${lab.endpoints.lab}"
    ++ when (lab.memoryMiB != sum) "${at}: memoryMiB is ${toString lab.memoryMiB}, its services' sum is ${toString sum}"
    ++ when (sum + systemMiB > raw.vm.memoryMiB)
      "${at}: its services' ${toString sum} MiB and ${toString systemMiB} for the system are more than vm.memoryMiB, ${toString raw.vm.memoryMiB}";

  unshaped = document "topology" raw;
  mistakes =
    if unshaped != [ ] then
      unshaped
    else
      when (!raw.labs ? ${raw.defaultLab}) "defaultLab: there is no lab ${raw.defaultLab}"
      ++ concatMap imageMistakes (attrNames raw.images)
      ++ concatMap labMistakes (attrNames raw.labs);
  # A port that two services publish is found at either of them.
  once = foldl' (seen: m: if elem m seen then seen else seen ++ [ m ]) [ ] mistakes;
in
if mistakes == [ ] then
  raw
else
  throw "topology.json, ${toString (length once)} mistake(s):\n  ${concatStringsSep "\n  " once}"
