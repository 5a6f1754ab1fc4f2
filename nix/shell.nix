# The shells for work on the lab: `nix develop` with everything, `nix develop .#small` with what building and starting takes.
{ pkgs }:
let
  small = with pkgs; [
    # The program: librdkafka's build wants make, pkg-config and zlib; the compiler is the shell's own.
    cargo
    rustc
    rustfmt
    clippy
    rust-analyzer
    gnumake
    pkg-config
    zlib
    # The lab
    docker-client
    kubectl
    curl
    jq
  ];
  more = with pkgs; [
    kcat
    skopeo
    prometheus.cli # promtool
    prometheus-alertmanager # amtool
    # Its files
    shellcheck
    actionlint
    deadnix
    nixfmt
  ];
in
{
  small = pkgs.mkShell { packages = small; };
  default = pkgs.mkShell { packages = small ++ more; };
}
