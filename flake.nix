# The lab as Nix packages, a shell and a VM. One input; everything about the lab itself comes from nix/topology.json.
{
  description = "A reproducible streaming and observability lab with an executable spec";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    assert
      builtins.compareVersions builtins.nixVersion "2.18" >= 0
      || throw "Nix ${builtins.nixVersion} is too old for nixpkgs 26.05: 2.18 or newer is needed";
    let
      inherit (nixpkgs) lib;
      forSystems =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system});
      # Not every public image is there for other processors (mail-sink's).
      hasVm = pkgs: pkgs.stdenv.hostPlatform.isx86_64;
      systemOf = pkgs: pkgs.stdenv.hostPlatform.system;
      ours = pkgs: self.packages.${systemOf pkgs};

      # Only what is asked for: an edited page of docs/ is no other program and no other VM.
      folder =
        paths:
        lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions paths;
        };
      lab = import ./nix/containers.nix { };

      runLab =
        pkgs:
        pkgs.writeShellApplication {
          name = "lab";
          runtimeEnv = {
            LAB_PROGRAM = lib.getExe (ours pkgs).lab;
            LAB_SOURCES = folder [
              ./flake.lock
              ./lab.toml
              ./topology
              ./docs/runbooks.md
              ./images.lock.json
              ./compose
              ./jobs
              ./schemas
              ./monitoring
            ];
          };
          text = builtins.readFile ./nix/run-lab.sh;
        };

      runVm =
        pkgs: system:
        pkgs.writeShellApplication {
          name = "lab-vm";
          runtimeInputs = [ pkgs.coreutils ];
          runtimeEnv = {
            VM_RUNNER = lib.getExe system.config.system.build.vm;
            VM_PORTS = toString lab.hostPorts;
            VM_MEMORY_MIB = toString system.config.virtualisation.memorySize;
            VM_ENDPOINTS = pkgs.writeText "endpoints.json" (builtins.toJSON lab.endpoints);
          };
          text = builtins.readFile ./nix/run-vm.sh;
          meta.description = "The lab in a virtual machine, its ports on this one";
        };

      vm =
        pkgs:
        lib.nixosSystem {
          modules = [
            self.nixosModules.lab-vm
            { nixpkgs.hostPlatform = systemOf pkgs; }
          ];
        };

      # What the modules need from this flake.
      withProject =
        module:
        {
          config,
          pkgs,
          ...
        }:
        {
          imports = [ module ];
          services.streamlab = {
            source = lib.mkDefault (folder (map (path: ./. + "/${path}") lab.mounted));
            ownImages = lib.mkDefault {
              streamlab = (ours pkgs).lab-image;
              elasticsearch-exporter = import ./nix/exporter-image.nix { inherit pkgs; };
            };
          };
          environment.systemPackages = lib.mkIf config.services.streamlab.enable [ (ours pkgs).lab ];
        };

      appOf = program: {
        type = "app";
        program = lib.getExe program;
        meta.description = program.meta.description or "Runs the streaming lab's program";
      };
    in
    {
      packages = forSystems (
        pkgs:
        lib.optionalAttrs (hasVm pkgs) { lab-vm = runVm pkgs (vm pkgs); }
        // rec {
          lab = import ./nix/program.nix { inherit folder lib pkgs; };
          lab-image = import ./nix/own-image.nix {
            inherit pkgs;
            program = lab;
          };
          default = lab;
        }
      );

      apps = forSystems (
        pkgs:
        lib.optionalAttrs (hasVm pkgs) { lab-vm = appOf (ours pkgs).lab-vm; }
        // rec {
          lab = appOf (runLab pkgs);
          default = lab;
        }
      );

      devShells = forSystems (pkgs: import ./nix/shell.nix { inherit pkgs; });

      # Cheap ones only: what builds the program or needs a VM is a package.
      checks = forSystems (pkgs: {
        containers =
          pkgs.runCommand "streamlab-check-containers"
            {
              nativeBuildInputs = [ pkgs.jq ];
              # Without what the paths in it stand for: the check fetches and builds nothing.
              declared = builtins.unsafeDiscardStringContext (
                builtins.toJSON (vm pkgs).config.virtualisation.oci-containers.containers
              );
              services = builtins.toJSON lab.services;
              passAsFile = [
                "declared"
                "services"
              ];
            }
            ''
              jq -e --slurpfile s "$servicesPath" 'keys == ($s[0] | keys)' "$declaredPath"
              cp "$declaredPath" "$out"
            '';
        scripts =
          pkgs.runCommand "streamlab-check-scripts"
            {
              nativeBuildInputs = [ pkgs.shellcheck ];
              scripts = folder [
                ./lab
                ./nix
                ./compose/health
              ];
            }
            ''
              shellcheck --severity=warning "$scripts"/lab "$scripts"/nix/*.sh "$scripts"/nix/checks/*.sh "$scripts"/compose/health/*
              touch "$out"
            '';
      });

      formatter = forSystems (pkgs: pkgs.nixfmt-tree);

      nixosModules = rec {
        lab = withProject ./nix/lab.nix;
        lab-vm = withProject ./nix/vm.nix;
        default = lab;
      };

      nixosConfigurations.lab-vm = vm nixpkgs.legacyPackages.x86_64-linux;
    };
}
