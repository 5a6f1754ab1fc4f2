# The lab as a NixOS module, for a machine and for the VM: containers by oci-containers on Docker, and what that leaves
# open: the network, the images, and waiting for health and for one-shots.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.streamlab;
  lab = import ./containers.nix {
    inherit (cfg) address lab;
    source = toString cfg.source;
    addons = toString (import ./addons.nix { inherit lib pkgs; } labAddons);
  };
  # Not through `lab` itself, which needs the folder that is made from them.
  labAddons = (import ./containers.nix { inherit (cfg) lab; }).addons;
  imageInStore = import ./image.nix {
    inherit lib pkgs;
    documents = cfg.imageDocuments;
  };

  inherit (lab) network;
  needs = units: {
    requires = units;
    after = units;
  };
  # A failed try is no failure for the units that wait for this one: they go on waiting until the tries are used up.
  # Without a limit `nixos-rebuild switch` would wait for ever.
  tries = seconds: {
    unitConfig = {
      StartLimitBurst = 5;
      StartLimitIntervalSec = 5 * (seconds + 15);
    };
    serviceConfig = {
      RestartMode = "direct";
      RestartSec = 5;
    };
  };
  # A line for people at the console. Docker's own output goes to the journal alone.
  tell = words: ''echo "streamlab: ${words}" >/dev/console || true'';
  # Host ports in the range that outgoing connections take their own from.
  reserved = lib.filter (port: port >= 32768) lab.hostPorts;
  # Done once; what requires it waits until it has ended well.
  once = {
    Type = "oneshot";
    RemainAfterExit = true;
    Restart = lib.mkForce "on-failure"; # systemd refuses `always`, oci-containers' choice, for a one-shot
  };

  # `%N` is the name of the unit that has failed.
  onFailure = [ "streamlab-failed@%N.service" ];

  networkUnit = lib.mkMerge [
    (needs [ "docker.service" ])
    {
      description = "Network ${network} of the streaming lab";
      inherit onFailure;
      path = [ config.virtualisation.docker.package ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
      script = ''
        if owner=$(docker network inspect -f '{{index .Labels "streamlab.by"}}' ${network} 2>/dev/null); then
          [ "$owner" = nixos ] && exit 0
          echo "the network ${network} is not this module's: if ./lab up made it, run ./lab down" >&2
          exit 1
        fi
        docker network create --label streamlab.by=nixos ${network}
      '';
      preStop = "docker network rm ${network} || true";
    }
  ];

  imageUnit =
    name: image:
    lib.mkMerge [
      (needs [ "docker.service" ])
      (tries 3600)
      {
        description = "Image ${image.docker} of the streaming lab";
        path = [ config.virtualisation.docker.package ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        inherit onFailure;
        # A registry that asks for patience is given some: 5 s, then longer, up to 2 min.
        serviceConfig = once // {
          RestartSteps = 4;
          RestartMaxDelaySec = 120;
        };
        script =
          if image.own then
            "${cfg.ownImages.${name}} | docker load" # always: the tag does not change with the program
          else
            let
              get =
                if cfg.images == "store" then
                  "${imageInStore { inherit (image) reference index; }} | docker load"
                else
                  "docker pull --quiet ${image.docker}";
            in
            ''
              if ! docker image inspect ${image.docker} >/dev/null 2>&1; then
                ${tell "getting ${image.docker}"}
                ${get}
              fi
              docker image inspect ${image.docker} >/dev/null
            '';
      }
    ];

  # `docker run` counts as started at once. This keeps the unit starting, and those that need it waiting.
  waitForHealth = name: service: ''
    patience=${toString service.readySeconds}
    # An emulated processor is many times slower.
    if [ "$(systemd-detect-virt 2>/dev/null)" = qemu ]; then patience=$((patience * 6)); fi
    deadline=$((SECONDS + patience))
    until [ "$(docker inspect -f '{{.State.Health.Status}}' ${name} 2>/dev/null)" = healthy ]; do
      if ! kill -0 "$MAINPID" 2>/dev/null; then
        echo "${name} ended before it was healthy; its log is above" >&2
        exit 1
      fi
      if [ "$SECONDS" -ge "$deadline" ]; then
        echo "${name} is not healthy after $patience s. What its health command said last:" >&2
        docker inspect -f '{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}' ${name} | tail -n 3 >&2
        exit 1
      fi
      sleep 1
    done
    echo "${name} is healthy"
    ${tell "${name} is healthy"}
  '';

  containerUnit =
    name: service:
    lib.mkMerge [
      (needs [
        "streamlab-network.service"
        "streamlab-image-${service.image}.service"
      ])
      (tries service.readySeconds)
      (
        if service.completes then
          { serviceConfig = once // { TimeoutStartSec = lib.mkForce service.readySeconds; }; }
        else
          {
            postStart = waitForHealth name service;
            # Newer ones of oci-containers leave a service down that has ended with 0.
            serviceConfig.Restart = lib.mkForce "always";
          }
      )
      { inherit onFailure; }
    ];
in
{
  options.services.streamlab = {
    enable = lib.mkEnableOption "the streaming lab";
    lab = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = "Which lab of topology.json; null: the default one.";
    };
    address = lib.mkOption {
      type = lib.types.str;
      default = "127.0.0.1";
      description = "Address that the lab's host ports are published on. Docker's ports pass by the firewall.";
    };
    source = lib.mkOption {
      type = lib.types.path;
      description = "Folder with the project's files that containers mount.";
    };
    ownImages = lib.mkOption {
      type = lib.types.attrsOf lib.types.package;
      description = "For each image without a public one, by its name: a program that writes it on its output.";
    };
    images = lib.mkOption {
      type = lib.types.enum [
        "registry"
        "store"
      ];
      default = "registry";
      description = "Upstream images: pulled by digest at the first start, or part of the system (no network needed then).";
    };
    imageDocuments = lib.mkOption {
      type = lib.types.path;
      default = ./images;
      description = "Folder of committed index and manifest documents, for images = store.";
    };
  };

  config = lib.mkIf cfg.enable {
    virtualisation.oci-containers = {
      backend = "docker";
      inherit (lab) containers;
    };
    boot.kernel.sysctl."net.ipv4.ip_local_reserved_ports" = lib.concatMapStringsSep "," toString reserved;
    # Docker's interfaces are none of dhcpcd's business: it would ask for addresses there, and lose the machine's route.
    networking.dhcpcd.denyInterfaces = [
      "veth*"
      "br-*"
      "docker*"
    ];
    # Only this image store finds NAME:TAG@INDEX of an image that was loaded. It hides what the older store holds, so it is
    # left as it is where images are pulled.
    virtualisation.docker.daemon.settings = lib.mkIf (cfg.images == "store") {
      features.containerd-snapshotter = true;
    };
    systemd.services = lib.mkMerge [
      { streamlab-network = networkUnit; }
      {
        "streamlab-failed@" = {
          description = "Says at the console that %i has failed";
          serviceConfig.Type = "oneshot";
          scriptArgs = "%i";
          # What only waits for another is told here too, and has nothing to say.
          script = ''
            if systemctl is-failed --quiet "$1"; then
              ${tell "$1 has failed, and what needs it does not start. Why: journalctl -u $1"}
            fi
          '';
        };
      }
      (lib.mapAttrs' (n: image: lib.nameValuePair "streamlab-image-${n}" (imageUnit n image)) lab.images)
      (lib.mapAttrs' (n: s: lib.nameValuePair "docker-${n}" (containerUnit n s)) lab.services)
      {
        streamlab-ready = lib.mkMerge [
          (needs (map (n: "docker-${n}.service") (lib.attrNames lab.services)))
          {
            description = "Every service of the streaming lab is ready";
            wantedBy = [ "multi-user.target" ];
            serviceConfig = {
              Type = "oneshot";
              RemainAfterExit = true;
              StandardOutput = "journal+console";
            };
            script = "echo 'streamlab: every service of the lab ${lab.name} is ready'";
          }
        ];
      }
    ];
  };
}
