# The modules, evaluated without nixpkgs: with a stand-in for it that lies outside the project (../README.md says what
# is in it).
{
  stub,
  # this folder's parent, or a copy of it with a mistake in it
  nix ? ../.,
  # lab.nix as on a machine, or vm.nix
  module ? "vm",
  extra ? { },
}:
let
  lib = import (stub + "/lib");
  pkgs = import (stub + "/pkgs.nix") {
    inherit lib;
    system = "x86_64-linux";
  };
  system = lib.evalModules {
    class = "nixos";
    specialArgs.modulesPath = toString (stub + "/nixos/modules");
    modules = [
      (stub + "/nixos/base.nix")
      (stub + "/nixos/modules/virtualisation/oci-containers.nix")
      (nix + "/${module}.nix")
      {
        _module.args.pkgs = pkgs;
        services.streamlab = {
          enable = true;
          source = "/project";
          ownImages = {
            streamlab = pkgs.writeShellScript "own-image" "";
            elasticsearch-exporter = pkgs.writeShellScript "exporter-image" "";
          };
        };
        system.stateVersion = "26.05";
      }
      extra
    ];
  };
  inherit (system) config;
  failed = builtins.filter (a: !a.assertion) config.assertions;
in
if failed != [ ] then
  throw (lib.concatMapStringsSep "\n" (a: a.message) failed)
else
  {
    units = lib.mapAttrs (_: unit: {
      inherit (unit)
        after
        onFailure
        postStart
        requires
        script
        serviceConfig
        unitConfig
        ;
    }) config.systemd.services;
    docker = config.virtualisation.docker.daemon.settings;
    dhcpcd = { inherit (config.networking.dhcpcd) allowInterfaces denyInterfaces; };
    reserved = config.boot.kernel.sysctl."net.ipv4.ip_local_reserved_ports";
  }
  // lib.optionalAttrs (module == "vm") {
    vm = {
      inherit (config.virtualisation)
        cores
        diskSize
        forwardPorts
        memorySize
        ;
    };
  }
