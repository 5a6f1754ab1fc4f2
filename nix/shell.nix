# The shell for work on the lab.
{ pkgs }:
pkgs.mkShell {
  packages = with pkgs; [
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
    curl
    kcat
    jq
    skopeo
    prometheus.cli # promtool
    prometheus-alertmanager # amtool
    # Its files
    shellcheck
    actionlint
    deadnix
    nixfmt
  ];
}
