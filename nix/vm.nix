# The lab in a QEMU VM. qemu-vm.nix is imported, not left to virtualisation.vmVariant: so `nix flake check` evaluates a
# system with file systems and a way to boot.
{
  config,
  lib,
  modulesPath,
  ...
}:
let
  cfg = config.services.streamlab;
  lab = import ./containers.nix { inherit (cfg) lab; };
in
{
  imports = [
    "${modulesPath}/virtualisation/qemu-vm.nix"
    ./lab.nix
  ];

  services.streamlab = {
    enable = true;
    # QEMU's forwards arrive at the guest's own address, not on its loopback.
    address = "0.0.0.0";
  };

  virtualisation = {
    memorySize = lib.mkDefault lab.vm.memoryMiB;
    cores = lib.mkDefault lab.vm.cores;
    diskSize = lib.mkDefault lab.vm.diskMiB;
    graphics = false; # the console is the terminal
    msize = 1048576; # of 9p, by which the guest reads the store
    forwardPorts = map (port: {
      from = "host";
      host = {
        address = "127.0.0.1";
        inherit port;
      };
      guest = { inherit port; };
    }) lab.hostPorts;
  };

  assertions = [
    {
      assertion = config.virtualisation.memorySize >= lab.memoryMiB + 1024;
      message = "virtualisation.memorySize is ${toString config.virtualisation.memorySize} MiB, but the lab's containers may use ${toString lab.memoryMiB} MiB and the system needs 1024 MiB";
    }
  ];

  networking.hostName = "streamlab"; # names the runner: run-streamlab-vm
  # dhcpcd is for QEMU's network card alone: it would also take Docker's interfaces, and lose the route to the registries.
  networking.usePredictableInterfaceNames = false;
  networking.dhcpcd = {
    allowInterfaces = [ "eth0" ];
    wait = "ipv4"; # images are pulled as soon as the network counts as online
  };
  networking.firewall.enable = false; # only QEMU's user network reaches the guest
  services.getty.autologinUser = "root";
  users.users.root.initialHashedPassword = ""; # a locked account is not logged in by itself either
  system.stateVersion = "26.05";
}
