# The add-ons made of jars, one folder each, below one folder in the store.
# Real files, no links: a container sees the folder that is mounted, and nothing of the store around it.
{ lib, pkgs }:
addons:
let
  fetch =
    jar:
    pkgs.fetchurl {
      url = "mirror://maven/${jar.path}";
      inherit (jar) sha256;
    };
  copy = addon: jar: ''
    cp ${fetch jar} "$out"/${addon}/${baseNameOf jar.path}
  '';
in
pkgs.runCommandLocal "streamlab-addons" { } (
  lib.concatLines (
    [ "mkdir \"$out\"" ]
    ++ lib.mapAttrsToList (
      addon: jars: "mkdir \"$out\"/${addon}\n" + lib.concatMapStrings (copy addon) jars
    ) addons
  )
)
