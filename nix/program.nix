# The program. Its crates come by the checksums of Cargo.lock; what they have of C (librdkafka, zlib, zstd, ring) is in
# them and wants no more than stdenv.
{
  folder,
  lib,
  pkgs,
}:
pkgs.rustPlatform.buildRustPackage {
  pname = "streamlab";
  inherit ((builtins.fromTOML (builtins.readFile ../Cargo.toml)).package) version;
  src = folder [
    ../Cargo.toml
    ../Cargo.lock
    ../src
    # members of the workspace
    ../pipeline
    ../records
    ../examples
    ../tests # Cargo.toml names one of them, and cargo wants to see it
  ];
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--bin"
    "streamlab"
  ];
  # rdkafka-sys builds librdkafka with its ./configure, which asks for /usr/bin/env: a sandbox has none.
  postPatch = ''
    find "$NIX_BUILD_TOP" -path '*/librdkafka/configure' -type f | while read -r script; do
      patchShebangs --build "$script"
    done
  '';
  doCheck = false; # the tests need Docker
  meta = {
    description = "Brings the streaming lab up, looks after it and tests it";
    license = lib.licenses.asl20;
    mainProgram = "streamlab";
  };
}
