# The add-ons made of jars and Python wheels, one folder each, below one folder in the store.
# Real files, no links: a container sees the folder that is mounted, and nothing of the store around it.
{ lib, pkgs }:
addons:
let
  jar = file: {
    name = baseNameOf file.path;
    source = pkgs.fetchurl {
      url = "mirror://maven/${file.path}";
      inherit (file) sha256;
    };
  };
  # Wheels for every system: names and addresses end alike.
  wheel = file: {
    name = "${file.name}-${file.version}-py3-none-any.whl";
    source = pkgs.fetchPypi {
      pname = file.name;
      inherit (file) version sha256;
      format = "wheel";
      dist = "py3";
      python = "py3";
    };
  };
  copy = addon: file: ''
    cp ${file.source} "$out"/${addon}/${file.name}
  '';
in
pkgs.runCommandLocal "streamlab-addons" { } (
  lib.concatLines (
    [ "mkdir \"$out\"" ]
    ++ lib.mapAttrsToList (
      addon: files:
      "mkdir \"$out\"/${addon}\n"
      + lib.concatMapStrings (copy addon) (map jar files.jars ++ map wheel files.wheels)
    ) addons
  )
)
